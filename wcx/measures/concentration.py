"""Concentration: how much of a map lies in few of its pixels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from wcx.measures.base import Measure

SHARE = 0.05  # of the pixels


class Concentration(Measure):
    """sum of abs(phi) over the 5 % largest abs(phi) / sum of abs(phi): 0.05 for a flat map, 1 for a point; NaN where all is 0."""

    @staticmethod
    def columns(ranks: Sequence[str]) -> list[str]:
        return [f"concentration/{rank}" for rank in ranks]

    def __call__(self, maps: Tensor, boxes: Tensor) -> Tensor:  # noqa: ARG002
        mass = maps.double().abs().flatten(2)
        largest = mass.topk(max(1, round(SHARE * mass.shape[2])), dim=2).values.sum(2)
        return largest / mass.sum(2)
