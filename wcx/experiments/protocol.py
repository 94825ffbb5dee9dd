"""The masking experiment's protocol: its settings, and the columns of its records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from wcx import baselines, contrasts
from wcx.errors import WcxError, choose
from wcx.experiments import masks

KEPT = ("positive", "negative")


class Cell(NamedTuple):
    """One cell of the table: names as on the command line."""

    method: str
    contrast: str


@dataclass(frozen=True)
class Settings:
    """The protocol. Defaults are the paper's reading (docs/protocols.md).

    Attributes:
        targets: k, the k most probable classes are explained: t_1 ... t_k.
        threshold: images with p_t2 above it are selected.
        select: which images masked passes are spent on: ``above`` the threshold, or ``all``.
        mask: ``sign``: keeping positive features hides the pixels of negative attribution, and the other way round;
            zeros stay. ``equal``: all contrasts hide the same number of pixels, counted from `equal_pair`.
            ``fraction``: a stated share of the pixels. The last two by rank.
        equal_pair: the contrasts whose maps `equal` counts.
        equal_n_minus_one: `equal` hides one pixel less where negative features are kept, as the authors' code does.
        fraction: share of the pixels that `fraction` hides.
        baselines: what masked pixels become.
        baseline_space: what ``zeros`` is: 0 of the ``normalized`` input (the mean colour), or of a ``pixel`` (black).
        align_corners: of the bilinear up-sampling.
        blur_sigma: in pixels at side 224; a pair is a range, drawn uniformly for each image from its index and `seed`.
        blur_kernel: width in pixels at side 224.
        foils: of the contrasts; None is every other class, an int k the k most probable others.
        seed: of the drawn sigmas.

    Raises:
        WcxError: a value outside of these.
    """

    targets: int = 2
    threshold: float = 0.1
    select: str = "above"
    mask: str = "sign"
    equal_pair: tuple[str, str] = ("original", "weighted")
    equal_n_minus_one: bool = False
    fraction: float = 0.5
    baselines: tuple[str, ...] = baselines.NAMES
    baseline_space: str = "normalized"
    align_corners: bool = False
    blur_sigma: float | tuple[float, float] = 15.0
    blur_kernel: int = 101
    foils: int | tuple[int, ...] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        choose("select", self.select, ["above", "all"])
        choose("mask", self.mask, masks.KINDS)
        choose("baseline_space", self.baseline_space, ["normalized", "pixel"])
        for name in self.baselines:
            choose("baseline", name, baselines.NAMES)
        for name in self.equal_pair:
            contrasts.get(name)
        if self.targets < 2:
            raise WcxError(f"targets = {self.targets}: the experiment compares classes; give at least 2.")
        if not 0 <= self.threshold < 1:
            raise WcxError(f"threshold = {self.threshold} is no probability; give a number from 0 to below 1.")
        if not 0 < self.fraction < 1:
            raise WcxError(f"fraction = {self.fraction} is no share of the pixels; give a number between 0 and 1.")

    @property
    def ranks(self) -> list[str]:
        """The targets' names: t_1 ... t_k."""
        return [f"t_{i + 1}" for i in range(self.targets)]

    def columns(self, boxes: bool = False) -> list[str]:
        """Return the columns of a record, in their order; with `boxes`, those of localisation too."""
        ranks = self.ranks
        names = ["index", "id", "label", *ranks, *(f"{what}_t{i + 1}" for what in "yp" for i in range(self.targets))]
        names += ["above_threshold", "skipped", *(f"relative_probability_unmasked/{t}" for t in ranks)]
        names += ["box_fraction", *(f"inside_box/{t}" for t in ranks)] if boxes else []
        names += [f"masked_fraction/{t}/{kept}" for t in ranks for kept in KEPT]
        return names + [f"relative_probability/{t}/{b}/{kept}" for t in ranks for b in self.baselines for kept in KEPT]
