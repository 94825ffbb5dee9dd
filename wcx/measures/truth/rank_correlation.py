"""The order of the parts: Kendall's tau-b between a map and the parts' effects."""

from __future__ import annotations

import torch
from torch import Tensor

from wcx.measures.truth.base import Readings, Truth, TruthScore, equal


class RankCorrelation(TruthScore):
    """tau-b = (concordant - discordant) / sqrt((pairs not tied in the map) (pairs not tied in effect)) over visible parts.

    The value of a part is the map's mean over its region (``tau_mean``), or its sum (``tau_sum``); NaN where all are tied.
    """

    columns = ("tau_mean", "tau_sum")
    painted = ("mean", "sum")

    def __call__(self, readings: Readings, truth: Truth) -> Tensor:
        return torch.stack(
            [tau_b(readings.parts(truth, kind), truth.effects, truth.candidates) for kind in ("mean", "sum")], dim=1
        )


def tau_b(values: Tensor, effects: Tensor, candidates: Tensor) -> Tensor:
    """Return tau-b, (K,), of values (K, R) with effects (R,) over the candidates, bool (R,)."""
    chosen = candidates.nonzero()[:, 0]
    first, second = torch.combinations(chosen).T if len(chosen) > 1 else chosen.new_empty(2, 0)
    a, b = values[:, first], values[:, second]
    order = torch.where(equal(a, b), 0.0, (a - b).sign())
    effect = effects[first], effects[second]
    right = torch.where(equal(*effect), 0.0, (effect[0] - effect[1]).sign())
    return order @ right / (order.abs().sum(1) * right.abs().sum()).sqrt()
