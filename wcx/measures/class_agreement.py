"""Class agreement: do the maps of two classes show the same pixels? (CASE, 2025, arXiv 2506.07327)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wcx.measures.base import Measure

SHARE = 0.05  # of the pixels


class ClassAgreement(Measure):
    """The share that t_1's and t_2's 5 % largest phi have in common: 1 for the same pixels, 0.05 expected by chance.

    Of equals the pixel of the lower index; NaN where a map is the same everywhere.
    """

    @staticmethod
    def columns(ranks: Sequence[str]) -> list[str]:  # noqa: ARG004
        """See `Measure.columns`; whatever the number of targets, t_1 and t_2 are compared."""
        return ["class_agreement"]

    def __call__(self, maps: Tensor, boxes: Tensor) -> Tensor:  # noqa: ARG002
        values = maps[:, :2].flatten(2)
        count = max(1, round(SHARE * values.shape[2]))
        largest = values.sort(dim=2, descending=True, stable=True).indices[:, :, :count]
        chosen = torch.zeros_like(values, dtype=torch.float64).scatter_(2, largest, 1.0)
        common = chosen.prod(1).sum(1, keepdim=True) / count
        flat = (values.amax(2) == values.amin(2)).any(1, keepdim=True)
        return common.masked_fill(flat, torch.nan)
