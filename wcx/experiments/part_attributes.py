"""Part attributes: does the map for t_1 agree with the parts in which t_1 and t_2 differ by the classes' attributes (CUB)?

The truth is the annotators', not the network's: d(region) by a rule of `wcx.datasets.anatomy`. The map at a region is the mean over
its visible points of the map's mean in a disc around the point. Over the visible regions of an image above the threshold

    tau   Kendall's tau-b of the map at the regions and d
    top   1 if the region with the largest value is among the third of the regions that differs most (all that tie with its least),
          1/m each if m regions share the largest value

are read of the map (``map``), of the map with its regions permuted at random (``permuted``: chance), and of the map against
d of random other pairs of classes (``other_pairs``): what a map gets that always prefers the parts in which birds differ most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from wcx import contrasts
from wcx.datasets.anatomy import REGIONS, RULES
from wcx.errors import WcxError, choose
from wcx.experiments.base import Cell, Experiment, FoilSetting, Keep, Row, at_pixels, by_image
from wcx.experiments.images import Item, stacked
from wcx.measures.truth.base import TIE, equal
from wcx.measures.truth.rank_correlation import tau_b
from wcx.models import precision

SCORES, READINGS = ("tau", "top"), ("map", "permuted", "other_pairs")
THIRD = 3


@dataclass(frozen=True)
class Settings:
    """The protocol.

    Attributes:
        threshold: images with p_t2 above it are selected; those whose t_1 or t_2 is none of CUB's classes have no scores.
        truth: the rule by which classes differ in a region: ``l1`` or ``scout``, see `wcx.datasets.anatomy`.
        radius: of the discs, in longer sides of the object's box.
        chance: permutations, and other pairs, an image.
        align_corners: of the bilinear up-sampling.
        foils: of t_1; 1 is t_2, None every other class.
        seed: of the permutations, with the image's index.

    Raises:
        WcxError: a value outside of these.
    """

    threshold: float = 0.1
    truth: str = "l1"
    radius: float = 0.05
    chance: int = 200
    align_corners: bool = False
    foils: FoilSetting = 1
    seed: int = 0
    targets: ClassVar[int] = 2  # t_1 and t_2 are what it is about, and what figures show

    def __post_init__(self) -> None:
        choose("truth", self.truth, RULES)
        if not 0 <= self.threshold < 1:
            raise WcxError(f"threshold = {self.threshold} is no probability; give a number from 0 to below 1.")
        if not 0 < self.radius < 1:
            raise WcxError(
                f"radius = {self.radius} is no share of the box's longer side; give a number between 0 and 1."
            )
        if type(self.chance) is not int or self.chance < 1:
            raise WcxError(f"chance = {self.chance!r} is no number of permutations; give a whole number, such as 200.")


class PartAttributes(Experiment):
    """The experiment; `Subject.passes` counts forward and backward passes, in images."""

    protocol = Settings
    axes = ("score", "reading")
    selects = True
    means: ClassVar[dict[str, str]] = {
        "known": "whether the dataset knows in which parts t_1 and t_2 differ",
        "regions": "visible regions of the bird",
        "tau": "Kendall's tau-b of the map at the regions and the parts' difference, -1 to 1",
        "top": "1 if the region with the largest value is among the third that differs most; ties share",
    }
    needs_anatomy = True

    @classmethod
    def columns(cls, settings: Settings, boxes: bool = False) -> list[str]:  # noqa: ARG003
        """See `Experiment.columns`.

        `regions` counts the visible ones; `known` is 1 where t_1 and t_2 are both among CUB's classes.
        """
        facts = ["index", "id", "label", "t_1", "t_2", "p_t1", "p_t2", "above_threshold", "skipped", "known", "regions"]
        return [*facts, *map("/".join, product(SCORES, READINGS))]

    def passes(self) -> Counter[str]:
        groups = self.subject.groups()
        pairs = sum(len({cell.contrast for cell in self.cells if cell.method in group}) for group in groups)
        return Counter(forward=len(groups), backward=pairs)

    @torch.no_grad()
    @precision.tf32(allowed=False)
    def rows(self, items: Sequence[Item], most: int | None = None, keep: Keep | None = None) -> dict[Cell, list[Row]]:  # noqa: ARG002
        rows = self.blank(items, above_threshold=False)
        images = by_image(rows)
        for places in self.batches(items):
            above = self._batch([items[place] for place in places], [images[place] for place in places])
            if most is not None and sum(above) >= most:
                last = [place for place, is_above in zip(places, above, strict=True) if is_above][most - 1]
                return {cell: column[: last + 1] for cell, column in rows.items()}
            most = None if most is None else most - sum(above)
        return rows

    def _batch(self, items: Sequence[Item], rows: Sequence[Mapping[Cell, Row]]) -> list[bool]:
        """Fill the rows of a batch; return which images are above the threshold."""
        pixels = stacked(items).to(self.subject.device)
        look = self.subject.look(pixels)
        targets = contrasts.most_probable(look.logits, 2)
        p = look.logits.double().softmax(1).gather(1, targets.T).tolist()
        pairs, above, scored = targets.T.tolist(), [], []
        for i, (item, t, p_t) in enumerate(zip(items, pairs, p, strict=True)):
            above.append(bool(p_t[1] > self.settings.threshold))
            facts = dict(zip(("t_1", "t_2", "p_t1", "p_t2"), (*t, *p_t), strict=True)) | {"above_threshold": above[-1]}
            if above[-1] and item.anatomy is not None:
                known = all(output in item.anatomy.classes for output in t)
                facts |= {"known": int(known), "regions": len(set(item.anatomy.regions.tolist()))}
                scored += [i] if known else []
            for row in rows[i].values():
                row.update(facts)
        if scored:
            foils = self.subject.foil_masks(look.logits, targets[:1], self.settings.foils)
            maps = look.maps(self.cells, targets[:1], foils, torch.tensor(scored, device=pixels.device))
            side, corners = pixels.shape[-2:], self.settings.align_corners
            for place, i in enumerate(scored):
                large = [at_pixels(maps[cell][:, place : place + 1], side, corners)[0, 0] for cell in self.cells]
                scores = self._scores(torch.stack(large).double().cpu(), items[i], pairs[i])
                for cell, columns in zip(self.cells, scores, strict=True):
                    rows[i][cell].update(columns)
        return above

    def _scores(self, maps: Tensor, item: Item, targets: Sequence[int]) -> list[dict[str, float]]:
        """Return the columns of the maps (cells, H, W) of an image whose t_1 and t_2 are classes of CUB."""
        assert item.anatomy is not None
        table = torch.from_numpy(item.anatomy.differences[self.settings.truth])
        pair = tuple(item.anatomy.classes[output] for output in targets)
        values = torch.stack([at_regions(phi, item, self.settings.radius) for phi in maps])
        visible = ~values[0].isnan()
        if visible.sum() < 2:
            return [{} for _ in values]
        chosen = visible.nonzero()[:, 0]
        d, values = table[pair][chosen], values[:, chosen]
        rng = np.random.default_rng([self.settings.seed, item.index])
        others = [ab for ab in combinations(sorted(set(item.anatomy.classes.values())), 2) if set(ab) != set(pair)]
        drawn_pairs = rng.integers(len(others), size=self.settings.chance) if others else []
        rest = torch.stack([table[others[k]][chosen] for k in drawn_pairs]) if others else d.new_empty(0, len(d))
        orders = torch.from_numpy(rng.permuted(np.tile(np.arange(len(d)), (self.settings.chance, 1)), axis=1))
        candidates = torch.ones_like(d, dtype=torch.bool)
        columns = []
        for phi in values:
            drawn = phi[orders]
            tau = tau_b(phi[None], d, candidates), tau_b(drawn, d, candidates), tau_b(rest, phi, candidates)
            top = top_third(phi[None], d[None]), top_third(drawn, d[None]), top_third(phi[None], rest)
            means = [float(part.nanmean()) for part in (*tau, *top)]
            columns.append(dict(zip(map("/".join, product(SCORES, READINGS)), means, strict=True)))
        return columns


def at_regions(phi: Tensor, item: Item, radius: float) -> Tensor:
    """Return a map (H, W) at each region: the mean over its visible points of the mean in a disc, float64 (R,); NaN without one.

    Args:
        phi: float64.
        item: with anatomy and box; a pixel is in a disc if its centre is, and the pixel under the point always is.
        radius: in longer sides of the box.
    """
    assert item.anatomy is not None
    if item.box is None:
        raise WcxError(
            f"image {item.id} has no box, whose side the discs are measured by; complete bounding_boxes.txt."
        )
    height, width = phi.shape
    rows, columns = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    length = radius * float(max(item.box[2:]))
    means: list[list[Tensor]] = [[] for _ in REGIONS]
    for (x, y), region in zip(item.anatomy.points.tolist(), item.anatomy.regions.tolist(), strict=True):
        disc = (columns - x) ** 2 + (rows - y) ** 2 <= length**2
        disc[int(y), int(x)] = True
        means[region].append(phi[disc].mean())
    return torch.stack([torch.stack(part).mean() if part else phi.new_tensor(torch.nan) for part in means])


def top_third(values: Tensor, effects: Tensor) -> Tensor:
    """Return how much of the largest of values (K, R) lies in the third of effects (K, R) that is largest, (K,); see above.

    Either may have K = 1. NaN where all effects are equal: there is no such third.
    """
    count = -(-effects.shape[1] // THIRD)
    least = effects.sort(dim=1, descending=True).values[:, count - 1 : count]
    right = (effects >= least) | equal(effects, least)
    largest = values.amax(1, keepdim=True)
    ties = values >= largest - TIE * largest.abs()
    share = (ties & right).double().sum(1) / ties.sum(1)
    undefined = equal(effects.amax(1), effects.amin(1))
    return torch.where(undefined, torch.nan, share)
