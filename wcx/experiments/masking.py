"""The masking experiment (section 5.2.2, Table 1): keep positive or negative features of a class, look at its share.

Any number of cells (method, contrast) at once, with no pass done twice:

- one forward pass an image, shared by all cells;
- one backward pass through the head per (target, contrast), shared by all methods of an activation's gradient;
- one forward pass per *distinct* masked image: masks that agree (max: t1-positive and t2-negative) share theirs, and a
  mask that hides nothing costs none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from wcx import contrasts, measures
from wcx.errors import WcxError, choose
from wcx.experiments import hiding
from wcx.experiments.base import Cell, Row, Subject
from wcx.experiments.hiding import KEPT, Evaluations, Hiding, Protocol, Seen, relative_probability

MASKS = ("sign", "equal", "fraction")

Sink = tuple[Row, str, int]  # a row, its column, and which target's relative probability belongs there


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
    version = 1

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
        extra = [Cell(cell.method, name) for cell in self.cells for name in self.counted(self.settings)]
        return list(dict.fromkeys([*self.cells, *extra]))

    @classmethod
    def columns(cls, settings: Settings, boxes: bool = False) -> list[str]:
        """See `Experiment.columns`."""
        ranks, names = settings.ranks, settings.described()
        for measure in map(measures.get, settings.measures):
            names += measure.columns(ranks) if boxes or not measure.needs_box else []
        names += [f"masked_fraction/{t}/{kept}" for t in ranks for kept in KEPT]
        return names + [
            f"relative_probability/{t}/{b}/{kept}" for t in ranks for b in settings.baselines for kept in KEPT
        ]

    def passes(self) -> Counter[str]:
        """See `Experiment.passes`."""
        settings = self.settings
        masked = len(self.cells) * settings.targets * len(KEPT) * len(settings.baselines)
        return self.explanations() + Counter(masked=masked)

    def image(self, seen: Seen, rows: Mapping[Cell, Row], pending: Evaluations) -> None:
        """Measure the maps, and queue every distinct masked version."""
        distinct: dict[bytes, tuple[Tensor, list[tuple[Row, int, str]]]] = {}
        for cell, row in rows.items():
            for measure in self._measures:
                row.update(measure(seen.maps[cell], self.settings.ranks, seen.item.box))
            for i, rank in enumerate(self.settings.ranks):
                for kept in KEPT:
                    hidden = self._hidden(cell, i, kept, seen.maps)
                    row[f"masked_fraction/{rank}/{kept}"] = float(hidden.double().mean())
                    key = np.packbits(hidden.cpu().numpy()).tobytes()
                    distinct.setdefault(key, (hidden, []))[1].append((row, i, kept))
        replacements = self.settings.replacements(seen.item.index, seen.pixels, self.subject)
        for hidden, uses in distinct.values():
            for baseline, replacement in replacements.items():
                sinks = [(row, f"relative_probability/t_{i + 1}/{baseline}/{kept}", i) for row, i, kept in uses]
                take = partial(_record, seen.targets, sinks)
                if bool(hidden.any()):
                    pending.add(torch.where(hidden, replacement, seen.pixels), take)
                else:  # nothing is hidden: the clean logits are the answer
                    take(seen.logits)

    def _hidden(self, cell: Cell, i: int, kept: str, maps: Mapping[Cell, Tensor]) -> Tensor:
        """Return the mask (H, W) of what is hidden when the features `kept` of target i are."""
        settings, attribution = self.settings, maps[cell][i]
        if settings.mask == "sign":
            return hiding.by_sign(attribution, kept)
        if settings.mask == "fraction":
            return hiding.by_rank(attribution, kept, round(settings.fraction * attribution.numel()))
        pair = [maps[Cell(cell.method, name)][i] for name in settings.equal_pair]
        return hiding.by_rank(attribution, kept, hiding.equal_count(pair, kept, settings.equal_n_minus_one))


def _record(targets: Tensor, sinks: Sequence[Sink], logits: Tensor) -> None:
    for row, column, i in sinks:
        row[column] = relative_probability(logits, targets, i)
