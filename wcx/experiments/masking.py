"""The masking experiment (section 5.2.2, Table 1): keep positive or negative features of a class, look at its share.

Any number of cells (method, contrast) at once, with no pass done twice:

- one forward pass an image, shared by all cells;
- one backward pass through the head per (target, contrast), shared by all methods of an activation's gradient;
- one forward pass per *distinct* masked image: masks that agree (max: t1-positive and t2-negative) share theirs, and a
  mask that hides nothing costs none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import torch
from torch import Tensor

from wcx import contrasts, measures
from wcx.errors import WcxError, choose
from wcx.experiments._passes import SeenImages
from wcx.experiments._versions import places
from wcx.experiments.base import Cell, Subject
from wcx.experiments.hiding import KEPT, Hiding, Protocol, relative_probability
from wcx.experiments.images import Item

MASKS = ("sign", "equal", "fraction")


@dataclass(frozen=True)
class Settings(Protocol):
    """The protocol. Defaults are the paper's reading (docs/protocols.md).

    Attributes:
        mask: ``sign``: keeping positive features hides the pixels of negative attribution, and the other way round;
            zeros stay. ``equal``: all contrasts hide the same number of pixels, counted from `equal_pair`.
            ``fraction``: a stated share of the pixels. The last two by rank.
        equal_pair: the contrasts whose maps `equal` counts.
        equal_n_minus_one: `equal` hides one pixel less where negative features are kept, as the authors' code does.
        fraction: share of the pixels that `fraction` hides.
        measures: of the maps at the image's size, see `wcx.measures`; not part of the fingerprint at its default, which
            is older than the setting.

    Raises:
        WcxError: a value outside of these.
    """

    mask: str = "sign"
    equal_pair: tuple[str, str] = ("original", "weighted")
    equal_n_minus_one: bool = False
    fraction: float = 0.5
    measures: tuple[str, ...] = field(default=("localisation",), metadata={"later": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        choose("mask", self.mask, MASKS)
        for name in self.equal_pair:
            contrasts.get(name)
        for name in self.measures:
            measures.get(name)
        if not 0 < self.fraction < 1:
            raise WcxError(f"fraction = {self.fraction} is no share of the pixels; give a number between 0 and 1.")


class Masking(Hiding):
    """The experiment; `Subject.passes` counts forward, backward and masked images."""

    protocol = Settings
    means = Hiding.means | {
        "box_fraction": "share of the image that the object's box covers",
        "inside_box": "share of positive attribution inside the object's box",
        "masked_fraction": "share of the pixels that are hidden when the features named last are kept",
        "relative_probability": "e^y_ti / (e^y_ti + e^y_tj) with the other features hidden by the baseline",
    }
    version = 2  # 2: batches, and evaluation passes through a folded copy of the network

    def __init__(self, subject: Subject, cells: Sequence[Cell], settings: Settings) -> None:
        super().__init__(subject, cells, settings)
        self._measures = [measures.get(name)() for name in settings.measures]

    @classmethod
    def counted(cls, settings: Settings) -> Sequence[str]:
        """See `Experiment.counted`: ``equal`` takes its counts from a pair."""
        return settings.equal_pair if settings.mask == "equal" else ()

    @property
    def explained(self) -> Sequence[Cell]:
        """The cells, and those that are counted."""
        extra = product((cell.method for cell in self.cells), self.counted(self.settings))
        return list(dict.fromkeys([*self.cells, *(Cell(*pair) for pair in extra)]))

    @classmethod
    def columns(cls, settings: Settings, boxes: bool = False) -> list[str]:
        ranks, names = settings.ranks, settings.described()
        for measure in map(measures.get, settings.measures):
            names += measure.columns(ranks) if boxes or not measure.needs_box else []
        names += map("/".join, product(["masked_fraction"], ranks, KEPT))
        return [*names, *map("/".join, product(["relative_probability"], ranks, settings.baselines, KEPT))]

    @classmethod
    def evaluations(cls, settings: Settings) -> int:
        return settings.targets * len(KEPT) * len(settings.baselines)

    def passes(self) -> Counter[str]:
        return self.explanations() + Counter(masked=len(self.cells) * self.evaluations(self.settings))

    @property
    def versions(self) -> Sequence[tuple[int, int]]:
        """See `Hiding.versions`: one that keeps the positive features of a map, and one its negative ones."""
        return list(product(range(len(self.cells) * self.settings.targets), (1, -1)))

    def fields(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """See `Hiding.fields`.

        By sign: phi < 0 is hidden where positive features are kept, -phi < 0 where negative ones are. By rank: the lowest n,
        or the highest n.
        """
        stacked = maps[: len(self.cells)].flatten(0, 1).movedim(1, 0)  # (n, maps, H, W)
        if self.settings.mask == "sign":
            return stacked.sign().to(torch.int8), torch.zeros(len(stacked), len(self.versions), device=stacked.device)
        pixels = stacked[0, 0].numel()
        if self.settings.mask == "fraction":
            share = round(self.settings.fraction * pixels)
            positive = negative = torch.full(stacked.shape[:2], share, device=stacked.device)
        else:
            positive, negative = self._equal(maps)
        return places(stacked), torch.stack([positive, 1 - pixels + negative], dim=2).flatten(1)

    def _equal(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return how many pixels all contrasts hide so that none hides more than another (the authors' code), (n, maps) each.

        Positive kept: the smaller number of positive pixels of the pair. Negative kept: the larger number of negative
        pixels, and one less with `equal_n_minus_one`, as their comparison of ranks has it.
        """
        counts = {}
        for method in self.subject.methods:
            pair = maps[[self.explained.index(Cell(method, name)) for name in self.settings.equal_pair]]
            positive, negative = ((sign * pair > 0).sum((-2, -1)) for sign in (1, -1))
            fewer = negative.amax(0) - int(self.settings.equal_n_minus_one)
            counts[method] = positive.amin(0).T, fewer.clamp(min=0).T
        each = [counts[cell.method] for cell in self.cells]
        kept, hidden = (torch.cat(part, dim=1) for part in zip(*each, strict=True))
        return kept, hidden

    def facts(self, maps: Tensor, items: Sequence[Item]) -> tuple[list[str], Tensor]:
        """See `Hiding.facts`: the measures."""
        has_boxes = any(item.box is not None for item in items)
        boxes = np.array([np.full(4, np.nan) if item.box is None else item.box for item in items], dtype=np.float64)
        names, columns = super().facts(maps, items)
        table, cells = [columns], maps[: len(self.cells)].transpose(1, 2)  # (cells, n, k, H, W)
        for measure in self._measures:
            if has_boxes or not measure.needs_box:
                known_boxes = torch.from_numpy(boxes).to(columns.device)
                names += measure.columns(self.settings.ranks)
                table.append(torch.stack([measure(phi, known_boxes) for phi in cells], dim=1))
        return names, torch.cat(table, dim=2)

    def measure(self, seen: SeenImages, logits: Tensor, images: Tensor) -> Tensor:
        """See `Hiding.measure`: the logit of each target."""
        return logits.gather(1, seen.targets.T[images])

    def measured(self, seen: SeenImages, clean: Tensor, values: Tensor) -> tuple[list[str], Tensor]:  # noqa: ARG002
        settings, n, cells = self.settings, len(values), len(self.cells)
        names = self.columns(settings)[-2 * settings.targets * (1 + len(settings.baselines)) :]
        each = relative_probability(values).view(
            n, cells, settings.targets, len(KEPT), len(settings.baselines), settings.targets
        )
        # (n, cells, kept, baselines, targets): of a target's versions, its probability
        probabilities = each.diagonal(dim1=2, dim2=5).permute(0, 1, 4, 3, 2).reshape(n, cells, -1)
        return names, torch.cat([seen.shares.view(n, cells, -1), probabilities], dim=2)
