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
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from wcx import contrasts
from wcx.errors import WcxError, choose
from wcx.experiments._passes import SeenImages
from wcx.experiments._versions import places
from wcx.experiments.base import Cell
from wcx.experiments.hiding import Hiding, Protocol, relative_probability

VALUES = ("logit", "probability", "contrast", "log_odds", "relative_probability")
CURVES = ("insertion", "deletion", "srg")


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
    version = 2  # 2: batches, and evaluation passes through a folded copy of the network
    axes = ("curve", "target", "baseline", "value")
    means = Hiding.means | {
        "insertion": "area under a value of the logits while the top-ranked pixels alone are shown",
        "deletion": "area under it while they are hidden",
        "srg": "insertion - deletion",
    }
    hidden = "evaluation"

    @classmethod
    def columns(cls, settings: Settings, boxes: bool = False) -> list[str]:  # noqa: ARG003
        keys = product(settings.ranks, CURVES, settings.baselines, settings.values)
        return settings.described() + [f"{curve}/{rank}/{b}/{g}" for rank, curve, b, g in keys]

    @classmethod
    def evaluations(cls, settings: Settings) -> int:
        return (2 * (settings.steps - 1) * settings.targets + 1) * len(settings.baselines)

    def passes(self) -> Counter[str]:
        """See `Experiment.passes`; a baseline's own pass is shared by all cells."""
        shared = (len(self.cells) - 1) * len(self.settings.baselines)
        return self.explanations() + Counter(evaluation=len(self.cells) * self.evaluations(self.settings) - shared)

    @property
    def versions(self) -> Sequence[tuple[int, int]]:
        """See `Hiding.versions`: for each map I_k and D_k, 0 < k < K; and at last the baseline, which hides all."""
        maps, between = range(len(self.cells) * self.settings.targets), range(1, self.settings.steps)
        return [*product(maps, [-1] * len(between) + [1] * len(between)), (0, 1)]

    def fields(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """See `Hiding.fields`: ranks, the largest first. D_k hides rank < n_k, I_k hides -rank < 1 - n_k."""
        stacked = maps.flatten(0, 1).movedim(1, 0)  # (n, maps, H, W)
        pixels, steps = stacked[0, 0].numel(), self.settings.steps
        tops = [round(k * pixels / steps) for k in range(1, steps)]
        bounds = [*stacked.shape[1] * [*(1 - top for top in tops), *tops], pixels]
        return places(stacked, descending=True), torch.tensor(bounds, device=stacked.device).expand(len(stacked), -1)

    def frozen(self, logits: Tensor, targets: Tensor, foils: Tensor) -> dict[str, Tensor]:
        options = self.subject.contrast_options
        names = dict.fromkeys(cell.contrast for cell in self.cells) if "contrast" in self.settings.values else ()
        return {name: contrasts.evaluate(name, logits, targets, foils, **options.get(name, {})) for name in names}

    def measure(self, seen: SeenImages, logits: Tensor, images: Tensor) -> Tensor:
        """See `Hiding.measure`: every g for each target, `contrast` once for each of `SeenImages.cotangents`."""
        y, targets = logits.double(), seen.targets.T[images]
        scores = y.gather(1, targets)
        values: list[Tensor] = []
        for name in self.settings.values:
            if name == "contrast":
                values += [(v[:, images].double() * y).sum(2).T for v in seen.cotangents.values()]
            elif name == "log_odds":
                rivals = y.masked_fill(~seen.foils[:, images], -torch.inf).logsumexp(-1).T
                values.append(scores - rivals)
            elif name == "relative_probability":
                values.append(relative_probability(scores))
            else:
                values.append(scores if name == "logit" else y.softmax(1).gather(1, targets))
        return torch.cat(values, dim=1)

    def measured(self, seen: SeenImages, clean: Tensor, values: Tensor) -> tuple[list[str], Tensor]:
        """See `Hiding.measured`: the trapezoid rule, whose ends have half weight and are no part of SRG."""
        settings = self.settings
        steps, ranks, baselines = settings.steps, settings.targets, len(settings.baselines)
        shape = len(clean), len(self.cells), ranks, 2, steps - 1, baselines, values.shape[-1] // ranks, ranks
        # (N, cells, 2, B, g, k): of a target's versions, its values
        between = values[:, :-1].reshape(shape).sum(4).diagonal(dim1=2, dim2=6)
        ends = ((clean[:, None] + values[:, -1]) / 2).unflatten(-1, (-1, ranks))  # (N, B, g, k)
        table = []
        for index, cell in enumerate(self.cells):
            columns = self._own(cell, seen)
            insertion, deletion = between[:, index][..., columns, :].unbind(1)
            end = ends[..., columns, :]
            table.append(torch.stack([insertion + end, deletion + end, insertion - deletion], dim=1))  # (N, 3, B, g, k)
        numbers = torch.stack(table, dim=1).permute(0, 1, 5, 2, 3, 4).flatten(2) / steps
        return self.columns(settings)[len(settings.described()) :], numbers

    def _own(self, cell: Cell, seen: SeenImages) -> list[int]:
        """Return where a cell's value functions stand among those of `measure`."""
        columns, place = [], 0
        for name in self.settings.values:
            columns.append(place + (list(seen.cotangents).index(cell.contrast) if name == "contrast" else 0))
            place += len(seen.cotangents) if name == "contrast" else 1
        return columns
