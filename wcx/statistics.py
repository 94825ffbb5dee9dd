"""Intervals and tests on records: what another sample of images, for the same trained network, might have given."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 10_000
_AT_ONCE = 2_000_000  # numbers drawn at once: memory stays bounded whatever n


def seed_of(*key: object) -> int:
    """Return a seed for a cell's key: the same whatever else is in the table."""
    return int.from_bytes(hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()[:8], "big")


def bootstrap(
    values: ArrayLike, key: Sequence[object], level: float = 0.95, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean over images.

    Args:
        values: (n,), one number an image.
        key: of the cell, from which the random numbers are seeded.
        level: coverage.
        resamples: how many.

    Returns:
        low, high; NaN for n = 0, and the value itself for n = 1.
    """
    sample = np.asarray(values, dtype=np.float64)
    n = len(sample)
    if n == 0:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed_of(*key))
    means = np.empty(resamples)
    step = max(1, _AT_ONCE // n)
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        means[start : start + count] = sample[rng.integers(0, n, (count, n))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
