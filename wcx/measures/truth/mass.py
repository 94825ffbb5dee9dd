"""Positive mass: how much of it lies where pixels change, and how much in parts that stay?"""

from __future__ import annotations

from torch import Tensor, stack

from wcx.measures.truth.base import Readings, Truth, TruthScore


class Mass(TruthScore):
    """Shares of the sum of max(phi, 0); NaN without positive values.

    ``mass``: of the changed pixels, over their share of the area: 1 for a flat map. ``leak``: of the visible parts that stay.
    """

    columns = ("mass", "leak")
    painted = ("changed", "changed")
    needs_pixels = True

    def __call__(self, readings: Readings, truth: Truth) -> Tensor:
        total = readings.positive.sum(1)
        share = truth.sizes[truth.changed].sum() / truth.sizes.sum()
        stays = truth.members[:, truth.candidates & ~truth.swapped].sum(1)
        return stack(
            [readings.positive[:, truth.changed].sum(1) / total / share, readings.positive @ stays / total], dim=1
        )
