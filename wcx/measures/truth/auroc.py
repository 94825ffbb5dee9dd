"""Area under the ROC curve: do the changed pixels stand above the others?"""

from __future__ import annotations

import torch
from torch import Tensor

from wcx.measures.truth.base import Readings, Truth, TruthScore


class Auroc(TruthScore):
    """The probability that a changed pixel has a larger value than one that stays, a tie counting one half.

    ``auroc_mask``: likewise of a pixel that shows a swapped part in the image, against all others.
    """

    columns = ("auroc", "auroc_mask")
    painted = ("changed", "mask")
    needs_pixels = True

    def __call__(self, readings: Readings, truth: Truth) -> Tensor:
        """See `TruthScore`."""
        return torch.stack([_auroc(readings, pixels) for pixels in (truth.pixels, truth.mask_pixels)], dim=1)


def _auroc(readings: Readings, pixels: Tensor) -> Tensor:
    """Return the area for pixels (n,) against all others by mid-ranks, (K,)."""
    inside, total = len(pixels), readings.maps.shape[1]
    if not 0 < inside < total:
        return readings.sums.new_full((len(readings.sums),), torch.nan)
    less, upto = readings.counts(pixels)
    ranks = ((less + upto + 1) / 2).sum(1)
    return (ranks - inside * (inside + 1) / 2) / (inside * (total - inside))
