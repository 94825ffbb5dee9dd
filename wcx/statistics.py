"""Intervals and tests on records: what another sample of images, for the same trained network, might have given.

Everything is seeded by the cell's key, so that a number does not depend on what else is in the table. Columns that come
from the same images (targets, baselines, features kept) are resampled together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 10_000
ROUNDING = 1e-12  # of sums, relative to their terms
FLIPS = 100_000
EXACT_UP_TO = 16  # images: all 2^16 signs are fewer than FLIPS
_AT_ONCE = 1_000_000  # numbers drawn at once: memory stays bounded whatever n


class Paired(NamedTuple):
    """Mean difference over the images both have; each field but `n` is (...), as the columns of the values.

    Attributes:
        n: images.
        difference: mean of a - b.
        ci_low: lower end of its 95 % bootstrap interval.
        ci_high: upper end.
        p: two-sided, of the sign-flip test.
    """

    n: int
    difference: np.ndarray
    ci_low: np.ndarray
    ci_high: np.ndarray
    p: np.ndarray


def seed_of(*key: object) -> int:
    """Return a seed for a cell's key: the same whatever else is in the table."""
    return int.from_bytes(hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()[:8], "big")


def bootstrap(
    values: ArrayLike, key: Sequence[object], level: float = 0.95, resamples: int = RESAMPLES
) -> tuple[np.ndarray, np.ndarray]:
    """Return the percentile bootstrap interval of the mean over images.

    Args:
        values: (n, ...), a row an image.
        key: of the cell, from which the random numbers are seeded.
        level: coverage.
        resamples: how many.

    Returns:
        low, high (...); NaN for n = 0, and the value itself for n = 1.
    """
    sample = np.asarray(values, dtype=np.float64)
    if len(sample) == 0:
        nothing = np.full(sample.shape[1:], np.nan)
        return nothing, nothing
    low, high = np.quantile(_deviations(sample, key, resamples), [(1 - level) / 2, (1 + level) / 2], axis=0)
    centre = sample.mean(0)
    return total(centre, low), total(centre, high)


def resampled(values: ArrayLike, key: Sequence[object], resamples: int = RESAMPLES) -> np.ndarray:
    """Return the means of the resamples that `bootstrap` would draw, for intervals of what is computed from several means.

    Args:
        values: (n, ...), a row an image, n > 0.
        key: of the cell, from which the random numbers are seeded.
        resamples: how many.

    Returns:
        (resamples, ...); the images of a resample depend on key and n alone, so that means of the same images are paired.
    """
    sample = np.asarray(values, dtype=np.float64)
    return total(sample.mean(0), _deviations(sample, key, resamples))


def total(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Return a + b (...); 0 where they cancel but for rounding, so that an interval that ends there holds 0."""
    terms = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    both = np.add(*terms)
    return np.asarray(np.where(np.abs(both) <= ROUNDING * np.abs(terms[0]), 0.0, both))[()]


def _deviations(sample: np.ndarray, key: Sequence[object], resamples: int) -> np.ndarray:
    """Return how far the mean of each resample is from the sample's: for n equal values zero, to the last digit."""
    n = len(sample)
    rng = np.random.default_rng(seed_of(*key))

    def counts(rows: int) -> np.ndarray:
        """How often each image is in each resample."""
        drawn = rng.integers(0, n, (rows, n), dtype=np.int32) + n * np.arange(rows, dtype=np.int32)[:, None]
        return np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)

    return np.concatenate([block / n for block in _sums(sample - sample.mean(0), resamples, counts)])


def sign_flip(differences: ArrayLike, key: Sequence[object], flips: int = FLIPS) -> np.ndarray:
    """Return the two-sided p-value of the sign-flip permutation test of paired differences.

    Under the null hypothesis the two values of an image could be exchanged, and each difference have the other sign.
    Exact for n <= 16: the share of all 2^n signs whose mean is at least as far from 0. Else (count + 1) / (flips + 1)
    over random signs.

    Args:
        differences: (n, ...), a row an image.
        key: of the cell, from which the random numbers are seeded.
        flips: random ones.

    Returns:
        p (...); NaN for n = 0.
    """
    sample = np.asarray(differences, dtype=np.float64)
    n = len(sample)
    if n == 0:
        return np.full(sample.shape[1:], np.nan)
    # what is equal in exact arithmetic must not be told apart by the order of a sum
    observed = np.abs(sample.sum(0)) - 1e-12 * np.abs(sample).sum(0)
    if n <= EXACT_UP_TO:
        every = 1.0 - 2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
        return np.asarray((np.abs(np.tensordot(every, sample, 1)) >= observed).mean(0))
    rng = np.random.default_rng(seed_of("sign flips", *key))

    def flipped(rows: int) -> np.ndarray:
        """Which images change sign, 0 or 1: as many as there are random bits."""
        return np.unpackbits(rng.integers(0, 256, (rows, -(-n // 8)), dtype=np.uint8), axis=1, count=n)

    unflipped = sample.sum(0)
    count = sum((np.abs(unflipped - 2 * block) >= observed).sum(0) for block in _sums(sample, flips, flipped))
    return np.asarray((count + 1) / (flips + 1))


def paired(a: ArrayLike, b: ArrayLike, key: Sequence[object], resamples: int = RESAMPLES) -> Paired:
    """Return the mean of a - b with its 95 % bootstrap interval and sign-flip p-value.

    Args:
        a: (n, ...), a row an image.
        b: the same images.
        key: of the cell, from which the random numbers are seeded.
        resamples: of the bootstrap.
    """
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    mean = differences.mean(0) if len(differences) else np.full(differences.shape[1:], np.nan)
    return Paired(
        len(differences), mean, *bootstrap(differences, key, resamples=resamples), sign_flip(differences, key)
    )


def detectable(
    deviation: ArrayLike, n: ArrayLike, m: ArrayLike = 1, level: float = 0.05, power: float = 0.8
) -> np.ndarray:
    """Return the mean paired difference that is significant with a given probability, by the normal approximation.

    (z(1 - level / 2 m) + z(power)) deviation / sqrt(n), z the normal quantile: Bonferroni's level, which Holm's smallest p meets.

    Args:
        deviation: standard deviation of the differences, an image each.
        n: images.
        m: tests.
        level: of the family.
        power: the probability.
    """
    tests = np.asarray(m, dtype=np.float64)
    critical = np.vectorize(NormalDist().inv_cdf, otypes=[float])(1 - level / (2 * tests))
    return np.asarray((critical + NormalDist().inv_cdf(power)) * np.asarray(deviation) / np.sqrt(n))


def holm(p: ArrayLike) -> np.ndarray:
    """Return p-values (m,) corrected by Holm for m tests: the family-wise error stays below the level; NaN are no tests."""
    raw = np.asarray(p, dtype=np.float64)
    corrected = np.full(raw.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(raw))
    order = tested[np.argsort(raw[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1, np.maximum.accumulate(factors * raw[order]))
    return corrected


def _sums(sample: np.ndarray, rows: int, draw: Callable[[int], np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the weighted sums of a sample (n, ...) over its images for `rows` drawn weights, some at a time."""
    step = max(1, _AT_ONCE // len(sample))
    for start in range(0, rows, step):
        yield np.tensordot(draw(min(step, rows - start)).astype(np.float64), sample, 1)
