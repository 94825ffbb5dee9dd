"""Contrasts against closed forms, autograd and float64, at any logit gap."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch

import wcx
from wcx import contrasts
from wcx.errors import WcxError

FROZEN = [name for name in contrasts.names() if not contrasts.get(name).own_dtype]


def _logits(n: int = 4, c: int = 7, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return 3 * torch.randn(n, c, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _by_hand(name: str, y: list[float], t: int, foils: list[int]) -> list[float]:
    """The table of the design, one class at a time, in 60 digits."""
    with mpmath.workdps(60):
        y = [mpmath.mpf(value) for value in y]
        v = [mpmath.mpf(0)] * len(y)
        v[t] = mpmath.mpf(1)
        if name == "mean":
            for s in foils:
                v[s] -= mpmath.mpf(1) / len(foils)
        elif name == "max":
            v[max(foils, key=lambda s: (y[s], -s))] -= 1
        elif name == "weighted":
            total = sum(mpmath.e ** (y[k] - y[foils[0]]) for k in foils)
            for s in foils:
                v[s] -= mpmath.e ** (y[s] - y[foils[0]]) / total
        elif name == "probability":
            total = sum(mpmath.e ** (y[k] - y[t]) for k in [t, *foils])
            p = {s: mpmath.e ** (y[s] - y[t]) / total for s in [t, *foils]}
            v = [p[t] * (int(s == t) - p.get(s, 0)) for s in range(len(y))]
        elif name == "finer":
            nearest = sorted(foils, key=lambda s: (abs(y[s] - y[t]), s))[:3]
            for s in nearest:
                v[s] -= mpmath.mpf("0.6") / len(nearest)
        elif name == "finer_code":
            nearest = sorted(foils, key=lambda s: (abs(y[s] - y[t]), s))[:3]
            total = sum(mpmath.e ** (y[s] - y[nearest[0]]) for s in nearest)
            beta = {s: mpmath.e ** (y[s] - y[nearest[0]]) / total for s in nearest}
            mean = sum(beta[s] * y[s] for s in nearest)
            for s in nearest:  # the product rule, weight by weight
                v[s] -= beta[s] + beta[s] * (y[s] - mean)
        elif name == "counterfactual":
            v[t] = mpmath.mpf(-1)
        elif name == "cross_entropy":
            total = sum(mpmath.e ** (value - y[t]) for value in y)
            v = [
                mpmath.e ** (y[s] - y[t]) / total - (mpmath.mpf(1) / len(foils) if s in foils else 0)
                for s in range(len(y))
            ]
        elif name == "clrp":
            v = [y[t] * (int(s == t) - (mpmath.mpf(1) / len(foils) if s in foils else 0)) for s in range(len(y))]
        return [float(value) for value in v]


@pytest.mark.parametrize("foils", [None, [1, 4, 5], 2])
@pytest.mark.parametrize("name", contrasts.names())
def test_equals_the_definition(name: str, foils: list[int] | int | None) -> None:
    logits = _logits()
    target = torch.tensor([0, 6, 3, 2])
    v = wcx.cotangent(logits, target, name, foils)
    for i, t in enumerate(target.tolist()):
        others = [s for s in range(7) if s != t]
        if isinstance(foils, int):
            others = sorted(others, key=lambda s: -float(logits[i, s]))[:foils]
        chosen = foils if isinstance(foils, list) else others
        expected = torch.tensor(_by_hand(name, logits[i].tolist(), t, chosen), dtype=torch.float64)
        torch.testing.assert_close(v[i], expected, rtol=1e-13, atol=1e-15)  # rounding of a float64 softmax


@pytest.mark.parametrize("second", [False, True], ids=["target first", "target second"])
@pytest.mark.parametrize("gap", [0, 5, 16, 20, 50, 100])
@pytest.mark.parametrize("name", FROZEN)
def test_exact_at_any_gap(name: str, gap: float, second: bool) -> None:
    """1e-6 relative for components above 1e-30, 1e-30 absolute below, float32 logits, C = 1000 (the issue's figures)."""
    c = 1000
    logits = torch.randn(c, generator=torch.Generator().manual_seed(gap)).clamp(-3, 3)
    logits[:2] = torch.tensor([4.0 + gap, 4.0])
    t = int(second)
    v = wcx.cotangent(logits[None], t, name)[0]
    assert v.dtype == torch.float32
    exact = torch.tensor(_by_hand(name, logits.tolist(), t, [s for s in range(c) if s != t]), dtype=torch.float64)
    error = (v.double() - exact).abs()
    large = exact.abs() > 1e-30
    assert bool((error[large] <= 1e-6 * exact.abs()[large]).all())
    assert bool((error[~large] <= 1e-30).all())
    if name == "weighted":
        assert float(v[t]) == 1.0


def test_probability_is_autograd_through_a_softmax_bit_by_bit() -> None:
    for gap in (0.0, 5.0, 16.0, 20.0):
        logits = _logits(dtype=torch.float32)
        logits[:, 1] = logits.max() + gap
        leaf = logits.clone().requires_grad_()
        leaf.softmax(1)[:, 1].sum().backward()
        v = wcx.cotangent(logits, 1, "probability")
        torch.testing.assert_close(v, leaf.grad, rtol=2e-7, atol=0)  # the order of two multiplications
        assert bool(((v == 0) == (leaf.grad == 0)).all())
    assert float(v[0, 1]) == 0.0, (
        "from a gap of about 18 on the target's component vanishes in float32: kept, not protected"
    )
    assert bool((v[0] != 0).any())


def test_weighted_is_the_gradient_of_the_log_odds() -> None:
    leaf = _logits().requires_grad_()
    rest = leaf[:, [0, 1, 3, 4, 5, 6]]
    (leaf[:, 2] - rest.logsumexp(1)).sum().backward()
    torch.testing.assert_close(wcx.cotangent(leaf, 2, "weighted"), leaf.grad, rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize(
    ("logits", "target", "options", "v"),
    [
        ([2.0, 1.0, 1.5, -3.0, 2.25], 0, {}, [1, -0.2, -0.2, 0, -0.2]),  # gaps 1, 0.5, 5, 0.25
        ([2.0, 1.0, 1.5, -3.0, 2.25], 0, {"k": 2}, [1, 0, -0.3, 0, -0.3]),
        ([2.0, 1.0, 1.5, -3.0, 2.25], 2, {"gamma": 1.0, "k": 1}, [-1, 0, 1, 0, 0]),  # 0 and 1 are as near: the lower
        ([2.0, 1.0, 1.5, -3.0, 2.25], 0, {"foils": [1, 3], "gamma": 0.5}, [1, -0.25, 0, -0.25, 0]),
        ([1.0, 2.0, 0.0, 3.0], 3, {"gamma": 0, "k": 2}, [0, 0, 0, 1]),
        ([4.0, 1.0], 1, {}, [-0.6, 1]),
        ([4.0, 1.0, 3.0], 1, {"gamma": -1}, [0.5, 1, 0.5]),
    ],
)
def test_finer_by_hand(logits: list[float], target: int, options: dict, v: list[float]) -> None:
    """The k foils nearest in logit, above or below, share gamma equally; 0.6 and 3 unless given."""
    got = wcx.cotangent(torch.tensor([logits], dtype=torch.float64), target, "finer", **options)
    torch.testing.assert_close(got, torch.tensor([v], dtype=torch.float64), rtol=0, atol=1e-15)  # a division's rounding


@pytest.mark.parametrize(
    ("name", "v"),
    [
        ("counterfactual", [-1, 0, 0]),
        ("cross_entropy", [2 / 3, 1 / 6 - 1 / 2, 1 / 6 - 1 / 2]),  # p = (4, 1, 1) / 6
        ("clrp", [2 * math.log(2), -math.log(2), -math.log(2)]),
        ("finer_code", [1, -1 / 2, -1 / 2]),  # foils of equal logits: the weights' gradient vanishes
    ],
)
def test_three_classes_by_hand(name: str, v: list[float]) -> None:
    logits = torch.tensor([[2 * math.log(2), 0.0, 0.0]], dtype=torch.float64)
    # 3e-16: a softmax's rounding
    torch.testing.assert_close(
        wcx.cotangent(logits, 0, name)[0], torch.tensor(v, dtype=torch.float64), rtol=0, atol=3e-16
    )


def test_finer_code_by_hand_where_the_foils_lie_apart() -> None:
    """beta = (3, 1) / 4, y = (log 3, 0): the mean is 0.75 log 3, and the weights' gradient 3/16 log 3 times (1, -1)."""
    logits = torch.tensor([[5.0, math.log(3), 0.0]], dtype=torch.float64)
    more = 3 / 16 * math.log(3)
    expected = torch.tensor([[1, -0.75 - more, -0.25 + more]], dtype=torch.float64)
    torch.testing.assert_close(wcx.cotangent(logits, 0, "finer_code"), expected, rtol=0, atol=3e-16)
    expected[0, 1:] *= 0.5
    torch.testing.assert_close(wcx.cotangent(logits, 0, "finer_code", gamma=0.5), expected, rtol=0, atol=3e-16)


def test_finer_code_is_the_gradient_through_its_weights_and_weighted_without_it() -> None:
    """Autograd of the objective of the authors' code: sum_s p_s (y_t - y_s) / sum_s p_s over the k nearest."""
    leaf = _logits(c=9).requires_grad_()
    t = leaf.argmax(1)
    nearest = (leaf - leaf.gather(1, t[:, None])).abs().sort(1).indices[:, 1:4]
    p, y_t = leaf.softmax(1).gather(1, nearest), leaf.gather(1, t[:, None])
    gap = y_t - leaf.gather(1, nearest)
    free, frozen = (
        torch.autograd.grad(((w * gap).sum(1) / w.sum(1)).sum(), leaf, retain_graph=True)[0] for w in (p, p.detach())
    )
    torch.testing.assert_close(wcx.cotangent(leaf, t, "finer_code"), free, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(wcx.cotangent(leaf, t, "weighted", foils=3), frozen, rtol=1e-12, atol=1e-15)
    assert float((free - frozen).norm() / frozen.norm()) > 0.1  # no rounding


def test_cross_entropy_is_the_gradient_of_it_and_becomes_max_where_the_network_is_sure() -> None:
    leaf = _logits().requires_grad_()
    torch.nn.functional.cross_entropy(leaf, torch.full((4,), 2), reduction="sum").backward()
    torch.testing.assert_close(wcx.cotangent(leaf, 0, "cross_entropy", foils=[2]), leaf.grad, rtol=1e-12, atol=1e-15)
    sure = torch.tensor([[60.0, 1.0, 2.0]], dtype=torch.float64)  # 1 - p_t = 1e-25
    for foils, twin in (([1], "max"), ([1, 2], "mean")):
        v = wcx.cotangent(sure, 0, ["cross_entropy", twin], foils=foils)
        torch.testing.assert_close(v[0], v[1], rtol=0, atol=1e-20)


@pytest.mark.parametrize(
    "name", [n for n in contrasts.names() if n not in ("original", "probability", "finer", "counterfactual")]
)
def test_sums_to_zero(name: str) -> None:
    """A contrast ignores what is added to all logits alike (section 3.1). 4e-15: rounding at logits of up to 8."""
    torch.testing.assert_close(
        wcx.cotangent(_logits(), 1, name).sum(1), torch.zeros(4, dtype=torch.float64), rtol=0, atol=4e-15
    )


class TestConfused:
    """Foils of a target: the classes with which the network confuses it most (CWOX's clusters, CASE's contrast set)."""

    CONFUSION = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.0, 0.9, 0.02, 0.08], [0.3, 0.3, 0.4, 0.0], [0.1, 0.2, 0.3, 0.4]])

    def test_the_k_largest_of_the_targets_row_of_equals_the_lower_id(self) -> None:
        logits, targets = _logits(c=4), torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]])
        v = wcx.cotangent(logits, targets, "mean", contrasts.Confused(2, self.CONFUSION))
        rows = {0: [1, -0.5, -0.5, 0], 1: [0, 1, -0.5, -0.5], 2: [-0.5, -0.5, 1, 0], 3: [0, -0.5, -0.5, 1]}
        assert v.tolist() == [[rows[t] for t in ids] for ids in targets.tolist()]

    def test_a_setting_says_how_many(self) -> None:
        assert contrasts.Confused.count("confused:12") == 12
        assert [contrasts.Confused.count(setting) for setting in (None, 3, (1, 2))] == [None] * 3
        for text in ("confused", "confused:0", "confused:x", "confused:-1", "confusde:3"):
            with pytest.raises(WcxError, match=f"foils = '{text}': give null, an int k"):
                contrasts.Confused.count(text)

    def test_what_cannot_be_asked_is_one_line(self) -> None:
        for foils in (contrasts.Confused(4, self.CONFUSION), contrasts.Confused(2, self.CONFUSION[:3])):
            with pytest.raises(WcxError, match="1 to 3 foils"):
                wcx.cotangent(_logits(c=4), 0, "mean", foils)
        unseen = self.CONFUSION.clone()
        unseen[2] = torch.nan
        with pytest.raises(WcxError, match="class 2 has no training image"):
            wcx.cotangent(_logits(c=4), [0, 1, 2, 3], "mean", contrasts.Confused(2, unseen))


def test_two_classes_leave_nothing_to_choose() -> None:
    v = torch.cat(
        [
            wcx.cotangent(_logits(c=2), 1, ["mean", "max", "weighted"]),
            wcx.cotangent(_logits(c=2), 1, ["finer"], gamma=1),
        ]
    )
    assert torch.equal(v, torch.tensor([-1.0, 1.0], dtype=torch.float64).expand_as(v))


@pytest.mark.parametrize("name", contrasts.names())
def test_one_class_is_a_sigmoid(name: str) -> None:
    logits = _logits(c=1)
    assert torch.equal(wcx.cotangent(logits, 0, name), torch.ones(4, 1, dtype=torch.float64))
    with pytest.raises(WcxError, match="one class"):
        wcx.cotangent(logits, 0, name, foils=[0])


def test_ties_go_to_the_first_index() -> None:
    logits = torch.tensor([[1.0, 5.0, 2.0, 5.0, 5.0]])
    assert wcx.cotangent(logits, 0, "max").tolist() == [[1, -1, 0, 0, 0]]
    assert wcx.cotangent(logits, 1, "max").tolist() == [[0, 1, 0, -1, 0]]
    assert wcx.cotangent(logits, 0, "mean", foils=2).tolist() == [[1, -0.5, 0, -0.5, 0]]


def test_target_among_the_foils_is_left_out() -> None:
    logits = _logits()
    expected = wcx.cotangent(logits, 3, "weighted", foils=[1, 2])
    assert torch.equal(wcx.cotangent(logits, 3, "weighted", foils=[1, 2, 3]), expected)
    assert torch.equal(wcx.cotangent(logits, 3, "weighted", foils=[2, 1, 1]), expected)
    assert torch.equal(wcx.cotangent(logits, 3, "weighted", foils=torch.tensor([[1, 2, 3]] * 4)), expected)
    with pytest.raises(WcxError, match="no foil is left for target 3"):
        wcx.cotangent(logits, 3, "weighted", foils=[3])


def test_foils_of_each_image() -> None:
    logits = _logits(n=2)
    v = wcx.cotangent(logits, 0, "mean", foils=torch.tensor([[1, 2], [5, 6]]))
    assert v[0].nonzero().flatten().tolist() == [0, 1, 2]
    assert v[1].nonzero().flatten().tolist() == [0, 5, 6]


def test_leading_axes() -> None:
    logits = _logits()
    targets = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]])
    v = wcx.cotangent(logits, targets, ["max", "finer"], foils=3, gamma=0.5, k=2)
    assert v.shape == (2, 2, 4, 7)
    assert torch.equal(v[0, 1], wcx.cotangent(logits, targets[1], "max", foils=3))
    assert torch.equal(v[1, 0], wcx.cotangent(logits, targets[0], "finer", foils=3, gamma=0.5, k=2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", contrasts.names())
def test_keeps_the_dtype(name: str, dtype: torch.dtype) -> None:
    v = wcx.cotangent(_logits(dtype=torch.float64).to(dtype), 0, name)
    assert v.dtype == dtype
    assert bool(v.isfinite().all())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": 999}, "target 999 is out of range: the model has 7 classes, 0 to 6"),
        ({"target": -1}, "target -1 is out of range"),
        ({"target": 0.5}, "not class ids"),
        ({"target": [0, 1]}, "for 4 images"),
        ({"target": 0, "contrast": "wieghted"}, "Did you mean 'weighted'"),
        ({"target": 0, "foils": [7]}, "foil 7 is out of range"),
        ({"target": 0, "foils": 7}, "foils=7 asks for"),
        ({"target": 0, "foils": 0}, "foils=0 asks for"),
        ({"target": 0, "foils": []}, r"foils \[\] name no class"),
        ({"target": 0, "contrast": []}, "no contrast is named; give at least one of: original"),
        ({"target": 0, "logits": torch.zeros(0, 7)}, "expected floating"),
        ({"target": 0, "foils": torch.zeros(3, 2, dtype=torch.long)}, "for 4 images"),
        ({"target": 0, "gamma": 1}, "unknown contrast option 'gamma'"),
        ({"target": 0, "contrast": "finer", "k": 0}, "k = 0"),
        ({"target": 0, "contrast": "finer", "k": 2.0}, "k = 2.0"),
        ({"target": 0, "contrast": "finer", "k": True}, "k = True"),
        ({"target": 0, "contrast": "finer", "gamma": "0.6"}, "gamma = '0.6' is no weight"),
        ({"target": 0, "contrast": "finer", "gamma": float("nan")}, "gamma = nan"),
        ({"target": 0, "contrast": "finer", "gamma": True}, "gamma = True"),
        ({"target": 0, "logits": torch.full((4, 7), torch.nan)}, "NaN"),
        ({"target": 0, "logits": torch.zeros(7)}, "expected floating"),
    ],
)
def test_wrong_input_is_one_clear_line(arguments: dict, message: str) -> None:
    with pytest.raises(WcxError, match=message) as caught:
        wcx.cotangent(**({"logits": _logits()} | arguments))
    assert "\n" not in str(caught.value)


def test_an_option_of_another_contrast_is_one_clear_line() -> None:
    logits = _logits()
    targets = torch.zeros(4, dtype=torch.long)
    with pytest.raises(WcxError, match=r"unknown contrast option 'gamma'\. Options by contrast: mean: none"):
        contrasts.evaluate("mean", logits, targets, contrasts.foil_masks(logits, targets), gamma=1.0)


@pytest.mark.parametrize("name", contrasts.names())
def test_what_a_contrast_declares_is_true(name: str) -> None:
    """Of its foils: whether other foils make another v (checked in both directions)."""
    logits = _logits()
    few, many = (wcx.cotangent(logits, 0, name, foils=foils) for foils in ([3], [1, 2, 3, 4, 5, 6]))
    assert contrasts.get(name).uses_foils == (not torch.equal(few, many))
    assert list(contrasts.get(name).defaults) == (["gamma", "k"] if name in ("finer", "finer_code") else [])
