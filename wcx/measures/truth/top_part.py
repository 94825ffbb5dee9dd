"""The top part: is the part with the largest value the right one?"""

from __future__ import annotations

import torch
from torch import Tensor

from wcx.measures.truth.base import TIE, Readings, Truth, TruthScore


class TopPart(TruthScore):
    """1 if the visible part with the largest value is the right one, else 0; 1/m if m parts share the largest value.

    The value of a part is the map's mean over its region (``top_mean``), or its sum (``top_sum``). In ``top_effect`` the right
    part is that of the largest effect, by which the network itself answers, and values are means.
    """

    columns = ("top_mean", "top_sum", "top_effect")
    painted = ("mean", "sum", "mean")
    needs_right = True

    def __call__(self, readings: Readings, truth: Truth) -> Tensor:
        main = int(truth.effects.masked_fill(~truth.candidates, -torch.inf).argmax())
        asked = (("mean", truth.right), ("sum", truth.right), ("mean", main))
        return torch.stack([self._credit(readings.parts(truth, kind), truth, right) for kind, right in asked], dim=1)

    def _credit(self, values: Tensor, truth: Truth, right: int | None) -> Tensor:
        visible = values.masked_fill(~truth.candidates, -torch.inf)
        largest = visible.amax(1, keepdim=True)
        ties = visible >= largest - TIE * largest.abs()
        return ties[:, right].double() / ties.sum(1)
