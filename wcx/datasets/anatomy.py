"""Where an image's parts are, and in which of them two classes differ: what annotators said of CUB's birds.

Two rules, tables (classes, classes, regions) of d(a, b, region) from the percentages (200, 312) of annotators who saw an attribute:

    l1      the maximum over the region's attribute groups of half the L1 distance of the two classes' percentages, each group
            normalised to 1: from 0 to 1
    scout   Wang & Vasconcelos (CVPR 2020; their make_gt_cub.py): the mean over the groups of the Jensen-Shannon divergence (twice
            it, in nats) of the two softmaxes over the percentages; 1 where that exceeds the lowest fifth of all entries, else 0
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

RULES = ("l1", "scout")


class Group(NamedTuple):
    """An attribute group: its first and last attribute, counted from 1."""

    first: int
    last: int


# Region -> groups that describe it alone, and those that only SCOUT's rule adds (they describe others too).
GROUPS = {
    "back": ([Group(59, 73), Group(237, 240)], []),
    "beak": ([Group(1, 9), Group(150, 152), Group(279, 293)], []),
    "belly": ([Group(198, 212), Group(245, 248)], []),
    "breast": ([Group(55, 58), Group(106, 120)], []),
    "crown": ([Group(294, 308)], [Group(95, 105), Group(153, 167)]),
    "forehead": ([Group(153, 167)], [Group(95, 105)]),
    "eye": ([Group(136, 149)], [Group(95, 105)]),
    "leg": ([Group(264, 278)], []),
    "wing": ([Group(10, 24), Group(213, 217), Group(309, 312)], []),
    "nape": ([Group(183, 197)], []),
    "tail": ([Group(74, 79), Group(80, 94), Group(168, 182), Group(241, 244)], []),
    "throat": ([Group(121, 135)], [Group(95, 105)]),
}
REGIONS = tuple(GROUPS)
PAIRED = ("eye", "leg", "wing")  # left and right are one region
ATTRIBUTES = 312


@dataclass(frozen=True)
class Anatomy:
    """An image's visible parts, and what classes differ in.

    Attributes:
        points: x, y of the visible points in pixels of the transformed image, float64 (n, 2).
        regions: of each point, its place in `REGIONS`, int64 (n,).
        differences: for each rule the table, float64 (classes, classes, regions).
        classes: for an output of the network which of these classes it is; those that are none are absent. Empty where no
            network is known.
    """

    points: np.ndarray
    regions: np.ndarray
    differences: dict[str, np.ndarray]
    classes: Mapping[int, int] = field(default_factory=dict)


def l1(percentages: np.ndarray) -> np.ndarray:
    """Return the table of the rule l1, float64 (C, C, regions), for percentages (C, 312)."""

    def distances(group: Group) -> np.ndarray:
        shares = percentages[:, group.first - 1 : group.last]
        shares = shares / np.maximum(shares.sum(1, keepdims=True), 1e-12)  # nobody saw any: no share at all
        return np.abs(shares[:, None] - shares).sum(2) / 2

    return np.stack([np.max(list(map(distances, primary)), axis=0) for primary, _ in GROUPS.values()], axis=2)


def scout(percentages: np.ndarray) -> np.ndarray:
    """Return the table of the rule scout, 0 or 1 in float64 (C, C, regions), for percentages (C, 312)."""

    def divergences(group: Group) -> np.ndarray:
        values = percentages[:, group.first - 1 : group.last]
        p = np.exp(values - values.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        a, b = np.broadcast_arrays(p[:, None], p[None])
        terms = a * np.log(np.maximum(2 * a / (a + b), 1e-300)) + b * np.log(np.maximum(2 * b / (a + b), 1e-300))
        return np.asarray(terms.sum(2))

    groups = [[*primary, *added] for primary, added in GROUPS.values()]
    table = np.stack([np.mean(list(map(divergences, part)), axis=0) for part in groups], axis=2)
    twice = [place for place, name in enumerate(REGIONS) if name in PAIRED]  # theirs has 15 parts, left and right
    entries = np.sort(np.concatenate([table, table[:, :, twice]], axis=2), axis=None)
    return (table > entries[int(0.2 * entries.size)]).astype(np.float64)
