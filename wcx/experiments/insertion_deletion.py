"""Insertion and deletion (Petsiuk et al. 2018), and their difference SRG (Bluecher et al. 2024), under several value functions.

The pixels of a map are ranked, the largest first, ties by index. For k = 0 ... K, D_k is the image with the k/K top-ranked
pixels hidden, I_k the one that shows them alone: D_0 = I_K is the image, D_K = I_0 the baseline, and both are the same for all
maps. For a value function g of the logits

    insertion = (1/K) sum' g(I_k),    deletion = (1/K) sum' g(D_k)    (sum': the trapezoid rule),
    SRG = insertion - deletion = (1/K) sum_{0<k<K} g(I_k) - g(D_k).

Every g is read off the same passes; versions that agree between maps share theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from wcx import contrasts
from wcx.errors import WcxError, choose
from wcx.experiments.base import Cell, Row
from wcx.experiments.hiding import Evaluations, Hiding, Protocol, Seen, relative_probability

VALUES = ("logit", "probability", "contrast", "log_odds", "relative_probability")
CURVES = ("insertion", "deletion", "srg")

Use = tuple[Cell, int, str]  # whose curve a version of the image lies on: cell, target, and insertion or deletion


@dataclass(frozen=True)
class Settings(Protocol):
    """The protocol; what it shares with masking is described there (`hiding.Protocol`).

    Attributes:
        steps: K.
        values: the value functions g: ``logit`` y_t; ``probability`` p_t; ``contrast`` v.y, v the cell's cotangent frozen at
            the image; ``log_odds`` y_t - logsumexp over the foils; ``relative_probability`` sigmoid(y_t - y_s), s = t_2 for
            t_1 and t_1 for all others, as in Table 1.

    Raises:
        WcxError: a value outside of these.
    """

    steps: int = 20
    values: tuple[str, ...] = VALUES

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.steps) is not int or self.steps < 2:
            raise WcxError(f"steps = {self.steps!r} is no number of steps; give a whole number of at least 2.")
        if not self.values:
            raise WcxError(f"values is empty; give some of: {', '.join(VALUES)}.")
        for name in self.values:
            choose("value function", name, VALUES)


class InsertionDeletion(Hiding):
    """The experiment; `Subject.passes` counts forward, backward and evaluation passes, in images."""

    protocol = Settings
    axes = ("curve", "target", "baseline", "value")
    hidden = "evaluation"

    @classmethod
    def columns(cls, settings: Settings, boxes: bool = False) -> list[str]:  # noqa: ARG003
        """See `Experiment.columns`."""
        curves = [f"{curve}/{rank}" for rank in settings.ranks for curve in CURVES]
        return settings.described() + [
            f"{c}/{b}/{g}" for c in curves for b in settings.baselines for g in settings.values
        ]

    def passes(self) -> Counter[str]:
        """See `Experiment.passes`."""
        versions = 2 * (self.settings.steps - 1) * self.settings.targets * len(self.cells)
        return self.explanations() + Counter(evaluation=(versions + 1) * len(self.settings.baselines))

    def image(self, seen: Seen, rows: Mapping[Cell, Row], pending: Evaluations) -> None:
        """Queue every distinct version of the image; what it adds to the curves is added when its pass has been done."""
        settings, cotangents = self.settings, self._cotangents(seen, rows)
        ends = [(cell, i, curve) for cell in rows for i in range(settings.targets) for curve in CURVES[:2]]
        distinct: dict[bytes, tuple[Tensor, list[Use]]] = {}
        for cell in rows:
            for i, attribution in enumerate(seen.maps[cell]):
                for curve, hidden in _versions(attribution, settings.steps):
                    key = np.packbits(hidden.cpu().numpy()).tobytes()
                    distinct.setdefault(key, (hidden, []))[1].append((cell, i, curve))
        for baseline, replacement in settings.replacements(seen.item.index, seen.pixels, self.subject).items():
            add = partial(self._add, seen, rows, cotangents, baseline)
            add(ends, 0.5, seen.logits)
            pending.add(replacement, partial(add, ends, 0.5))
            for hidden, uses in distinct.values():
                pending.add(torch.where(hidden, replacement, seen.pixels), partial(add, uses, 1.0))

    def _cotangents(self, seen: Seen, cells: Mapping[Cell, Row]) -> dict[str, Tensor]:
        """Return v of every contrast, frozen at the image, (k, C)."""
        image = seen.logits[None], seen.targets[:, None], seen.foils[:, None]
        options = self.subject.contrast_options
        names = dict.fromkeys(cell.contrast for cell in cells)
        return {name: contrasts.evaluate(name, *image, **options.get(name, {}))[:, 0] for name in names}

    def _add(
        self,
        seen: Seen,
        rows: Mapping[Cell, Row],
        cotangents: Mapping[str, Tensor],
        baseline: str,
        uses: Sequence[Use],
        weight: float,
        logits: Tensor,
    ) -> None:
        """Add what g is at `logits` (C,) to the curves that it lies on; ends, of half weight, are no part of SRG."""
        for cell, i, curve in uses:
            for g in self.settings.values:
                value = weight * _value(g, logits, seen, i, cotangents[cell.contrast][i]) / self.settings.steps
                share = value if curve == "insertion" else -value
                for name, term in ((curve, value), ("srg", share if weight == 1 else 0.0)):
                    column = f"{name}/{self.settings.ranks[i]}/{baseline}/{g}"
                    rows[cell][column] = rows[cell].get(column, 0.0) + term


def _versions(attribution: Tensor, steps: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the masks (H, W) of what is hidden, for I_k and D_k, 0 < k < K, with the curve that they are of."""
    order = attribution.flatten().sort(descending=True, stable=True).indices
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    for k in range(1, steps):
        top = (place < round(k * len(order) / steps)).view_as(attribution)
        yield "insertion", ~top
        yield "deletion", top


def _value(name: str, logits: Tensor, seen: Seen, i: int, v: Tensor) -> float:
    """Return the value function called `name` of logits (C,), for target i, in float64."""
    y, t = logits.double(), seen.targets[i]
    if name == "logit":
        return float(y[t])
    if name == "probability":
        return float(y.softmax(0)[t])
    if name == "contrast":
        return float(v.double() @ y)
    if name == "log_odds":
        return float(y[t] - y[seen.foils[i]].logsumexp(0))
    return relative_probability(logits, seen.targets, i)
