"""The sign of the parts: does a map speak for the target where the part does, and against it where it does?"""

from __future__ import annotations

from torch import Tensor

from wcx.measures.truth.base import Readings, Truth, TruthScore


class Sign(TruthScore):
    """The share of the visible parts with an effect whose value has the effect's sign; NaN where no part has an effect."""

    columns = ("sign",)
    painted = ("mean",)

    def __call__(self, readings: Readings, truth: Truth) -> Tensor:
        asked = truth.candidates & (truth.effects != 0)
        agree = readings.sums @ truth.members[:, asked]
        return (agree.sign() == truth.effects[asked].sign()).double().mean(1, keepdim=True)
