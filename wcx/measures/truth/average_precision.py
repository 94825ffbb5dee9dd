"""Average precision: how pure is the top of a map?"""

from __future__ import annotations

import numpy as np
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
        smaller = np.sort(readings.counts(truth.pixels)[0].numpy(), axis=1)
        # of equal ones, the place of the first: all of them are at least as large as each
        begins = np.diff(smaller, axis=1, prepend=-1) > 0
        first = np.maximum.accumulate(np.where(begins, np.arange(changed), 0), axis=1)
        return torch.from_numpy(((changed - first) / (total - smaller)).mean(1, keepdims=True))
