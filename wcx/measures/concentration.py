"""Concentration: how much of a map lies in few of its pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from wcx.measures.base import Measure

SHARE = 0.05  # of the pixels


class Concentration(Measure):
    """sum of abs(phi) over the 5 % largest abs(phi) / sum of abs(phi): 0.05 for a flat map, 1 for a point; NaN where all is 0."""

    @staticmethod
    def columns(ranks: Sequence[str]) -> list[str]:
        """See `Measure.columns`."""
        return [f"concentration/{rank}" for rank in ranks]

    def __call__(self, maps: Tensor, ranks: Sequence[str], box: np.ndarray | None) -> dict[str, float]:  # noqa: ARG002
        """See `Measure`."""
        mass = maps.double().abs().flatten(1)
        largest = mass.topk(max(1, round(SHARE * mass.shape[1])), dim=1).values.sum(1)
        return {f"concentration/{rank}": float(share) for rank, share in zip(ranks, largest / mass.sum(1), strict=True)}
