"""Average precision: how pure is the top of a map?"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wcx.measures.truth.base import Readings, Truth, TruthScore


class AveragePrecision(TruthScore):
    """The mean over the changed pixels of the precision at their value: of all pixels at least as large, the share that changes.

    ``average_precision_mask``: likewise of the pixels that show a swapped part in the image.
    """

    columns = ("average_precision", "average_precision_mask")
    painted = ("changed", "mask")
    needs_pixels = True

    def __call__(self, readings: Readings, truth: Truth) -> Tensor:
        return torch.stack([_precision(readings, pixels) for pixels in (truth.pixels, truth.mask_pixels)], dim=1)


def _precision(readings: Readings, pixels: Tensor) -> Tensor:
    """Return the average precision for pixels (n,), (K,)."""
    inside, total = len(pixels), readings.maps.shape[1]
    if not inside:
        return readings.sums.new_full((len(readings.sums),), torch.nan)
    smaller = np.sort(readings.counts(pixels)[0].numpy(), axis=1)
    # of equal ones, the place of the first: all of them are at least as large as each
    begins = np.diff(smaller, axis=1, prepend=-1) > 0
    first = np.maximum.accumulate(np.where(begins, np.arange(inside), 0), axis=1)
    return torch.from_numpy(((inside - first) / (total - smaller)).mean(1))
