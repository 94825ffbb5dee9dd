"""Statistics against enumeration by hand and scipy."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from wcx import statistics
from wcx.statistics import bootstrap, detectable, holm, paired, resampled, seed_of, sign_flip, total

KEY = ["cub", "vgg16", "gradcam", "weighted"]


def sample(n: int, seed: int = 0, shift: float = 0.3) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, n)


def enumerated(d: np.ndarray) -> float:
    """The exact p-value, sign by sign."""
    observed = abs(d.sum())
    flips = [abs(np.dot(signs, d)) >= observed - 1e-9 for signs in itertools.product((1, -1), repeat=len(d))]
    return sum(flips) / len(flips)


def test_seeds_come_from_the_key_alone() -> None:
    assert seed_of(*KEY) == 0xDAA4930D77D42F5F, "another seed gives other intervals of the same records"
    assert len({seed_of(*KEY), seed_of(*KEY[:3]), seed_of("cubvgg16", *KEY[2:]), seed_of(*reversed(KEY))}) == 4


def test_bootstrap_is_scipys_percentile_interval() -> None:
    values = np.random.default_rng(1).beta(2, 5, 120)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=0).confidence_interval
    low, high = bootstrap(values, KEY)
    width = theirs.high - theirs.low
    assert low == pytest.approx(theirs.low, abs=0.05 * width)
    assert high == pytest.approx(theirs.high, abs=0.05 * width)
    assert low < values.mean() < high


def test_bootstrap_of_two_values_by_hand() -> None:
    """Means 0, 1/2, 1 with shares 1/4, 1/2, 1/4."""
    assert bootstrap([0.0, 1.0], KEY) == (0, 1)
    assert bootstrap([0.0, 1.0], KEY, level=0.4) == (0.5, 0.5)


def test_bootstrap_edges() -> None:
    assert np.isnan(bootstrap([], KEY)).all()
    assert np.isnan(bootstrap(np.empty((0, 3)), KEY)[1]).tolist() == [True] * 3
    assert bootstrap([0.7], KEY) == (0.7, 0.7)
    assert bootstrap([0.1] * 30, KEY) == pytest.approx((0.1, 0.1), abs=1e-15)


@pytest.mark.parametrize("n", [61, 997, 1000])
def test_interval_that_ends_at_0_holds_it(n: int) -> None:
    """One image of n: a share of (1 - 1/n)^n of the resamples is without it, and their mean is 0, not what rounding leaves."""
    values = np.eye(n)[0]
    assert bootstrap(values, ("end",))[0] == 0
    assert bootstrap(-values, ("end",))[1] == 0
    share = (resampled(values, ("end",)) == 0).mean()
    assert share == pytest.approx((1 - 1 / n) ** n, abs=0.02)  # 4 standard errors of 10,000


def test_means_that_cancel_but_for_rounding_are_equal() -> None:
    """0.1 + 0.2 is not 0.3 in float64; a difference that is small beside its terms but none of rounding stays."""
    assert total(0.1 + 0.2, -0.3) == 0
    assert total([0.1 + 0.2, 1.0], [-0.3, -1.0 + 1e-9]) == pytest.approx([0, 1e-9], rel=1e-6)
    assert total(0.0, 1e-17) == 1e-17


def test_bootstrap_depends_on_key_and_sample_only() -> None:
    values = sample(60)
    assert bootstrap(values, KEY) == bootstrap(values, KEY)
    assert bootstrap(values, KEY) != bootstrap(values, KEY[:3])
    both = np.stack([values, values**2], 1)
    together = np.array(bootstrap(both, KEY))
    assert together[:, 0] == pytest.approx(bootstrap(values, KEY), rel=1e-12), "a column is as if it were alone"
    assert together[:, 1] == pytest.approx(bootstrap(values**2, KEY), rel=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_sign_flip_is_exact_for_few_images(n: int) -> None:
    for seed in range(4):
        d = sample(n, seed)
        assert sign_flip(d, KEY) == enumerated(d)


def test_sign_flip_counts_ties() -> None:
    assert sign_flip([1.0, -1.0, 2.0], KEY) == enumerated(np.array([1.0, -1.0, 2.0]))
    assert sign_flip([0.1, 0.2, 0.3], KEY) == 2 / 8, "0.1 + 0.2 - 0.3 and its like are rounded differently"
    assert sign_flip([0.1, 0.2, -0.3], KEY) == 1
    assert sign_flip([0.0] * 5, KEY) == 1
    assert sign_flip([0.0] * 50, KEY) == 1
    assert np.isnan(sign_flip([], KEY))


def test_sign_flip_is_scipys_permutation_test() -> None:
    for n in (4, 10):
        a, b = sample(n, 1), sample(n, 2, 0)
        theirs = stats.permutation_test(
            (a, b), lambda x, y: np.mean(x - y), permutation_type="samples", vectorized=False, n_resamples=np.inf
        )
        assert sign_flip(a - b, KEY) == pytest.approx(theirs.pvalue, rel=1e-12)


def test_sign_flip_sampled_beyond_sixteen() -> None:
    d = sample(18, 3, 0.6)
    half = np.array(list(itertools.product((1, -1), repeat=9)))
    sums = (half @ d[:9])[:, None] + (half @ d[9:])[None]
    exact = (np.abs(sums) >= abs(d.sum()) - 1e-9).mean()
    error = (exact * (1 - exact) / statistics.FLIPS) ** 0.5
    assert 0.02 < exact < 0.5
    assert sign_flip(d, KEY) == pytest.approx(exact, abs=4 * error)
    assert sign_flip(d[:16], KEY) == enumerated(d[:16])
    assert sign_flip(np.ones(40), KEY) == 1 / 100_001, "none of 100,000 came near: (0 + 1) / (flips + 1)"
    columns = sign_flip(np.stack([d, np.ones(18)], 1), KEY)
    assert columns[0] == sign_flip(d, KEY)


def test_sign_flip_holds_its_level() -> None:
    """Under the null hypothesis p <= 0.1 in a tenth of the cases."""
    rng = np.random.default_rng(5)
    p = sign_flip(rng.normal(0, 1, (12, 2000)), KEY)
    assert (p <= 0.1).mean() == pytest.approx(0.1, abs=0.025)


def test_paired() -> None:
    a, b = sample(50, 1), sample(50, 2, 0)
    result = paired(a, b, KEY)
    assert (result.n, result.difference) == (50, pytest.approx((a - b).mean()))
    assert (result.ci_low, result.ci_high) == bootstrap(a - b, KEY)
    assert result.p == sign_flip(a - b, KEY)
    assert result.ci_low < result.difference < result.ci_high
    nothing = paired([], [], KEY)
    assert nothing.n == 0
    assert np.isnan(nothing[1:]).all()


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([3 * 0.01, 2 * 0.03, 2 * 0.03, 4 * 0.005])
    assert holm([0.5, 0.6]) == pytest.approx([1, 1])
    assert holm([0.2]) == pytest.approx([0.2])
    assert holm([]).tolist() == []
    corrected = holm([0.01, np.nan, 0.02])
    assert corrected[[0, 2]] == pytest.approx([0.02, 0.02]), "what was not tested does not count"
    assert np.isnan(corrected[1])


@pytest.mark.parametrize("compute", [bootstrap, sign_flip])
def test_memory_is_bounded(compute) -> None:
    values = sample(40_000)
    tracemalloc.start()
    compute(values, KEY, **{"resamples" if compute is bootstrap else "flips": 300})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 48e6, "300 resamples at once are 96 MB"


def test_a_detectable_difference_is_significant_as_often_as_it_says() -> None:
    """Of normal differences, one of three tests, the others' p far larger: by Holm it is tested at 0.05 / 3."""
    n, deviation, samples = 400, 0.4, 1000
    effect = float(detectable(deviation, n, 3))
    assert effect == pytest.approx((2.3940 + 0.8416) * 0.4 / 400**0.5, abs=1e-4)
    drawn = np.random.default_rng(0).normal(effect, deviation, (n, samples))
    share = (sign_flip(drawn, KEY, flips=2000) < 0.05 / 3).mean()
    assert share == pytest.approx(0.8, abs=0.04)
