"""Average precision: how pure is the top of a map?"""

from __future__ import annotations

import torch
from torch import Tensor

from wcx.measures.truth.base import Readings, Truth, TruthScore


class AveragePrecision(TruthScore):
    """The mean over the changed pixels of the precision at their value: of all pixels at least as large, the share that changes."""

    columns = ("average_precision",)
    painted = ("changed",)
    needs_pixels = True

    def __call__(self, readings: Readings, truth: Truth) -> Tensor:
        """See `TruthScore`."""
        changed, total = len(truth.pixels), readings.maps.shape[1]
        if not changed:
            return readings.sums.new_full((len(readings.sums), 1), torch.nan)
        smaller = readings.counts(truth.pixels)[0].sort(dim=1).values
        hits = changed - torch.searchsorted(smaller, smaller).double()
        return (hits / (total - smaller)).mean(1, keepdim=True)
