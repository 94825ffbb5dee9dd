"""Area under the ROC curve: do the changed pixels stand above the others?"""

from __future__ import annotations

import torch
from torch import Tensor

from wcx.measures.truth.base import Readings, Truth, TruthScore


class Auroc(TruthScore):
    """The probability that a changed pixel has a larger value than one that stays, a tie counting one half."""

    columns = ("auroc",)
    painted = ("changed",)
    needs_pixels = True

    def __call__(self, readings: Readings, truth: Truth) -> Tensor:
        """See `TruthScore`: by mid-ranks."""
        changed, total = len(truth.pixels), readings.maps.shape[1]
        if not 0 < changed < total:
            return readings.sums.new_full((len(readings.sums), 1), torch.nan)
        less, upto = readings.counts(truth.pixels)
        ranks = ((less + upto + 1) / 2).sum(1, keepdim=True)
        return (ranks - changed * (changed + 1) / 2) / (changed * (total - changed))
