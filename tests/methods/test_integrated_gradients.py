"""Integrated gradients against captum, closed forms and its own completeness."""

from __future__ import annotations

import pytest
import torch
from captum.attr import IntegratedGradients as Captum
from torch import Tensor, nn

import wcx
from tests import nets
from wcx.errors import WcxError
from wcx.images import Normalized
from wcx.methods.integrated_gradients import RULES, quadrature

METHOD = "integrated_gradients"


@pytest.mark.parametrize("contrast", ["original", "mean", "max", "weighted", "finer"])
@pytest.mark.parametrize("rule", RULES)
def test_against_captum(rule: str, contrast: str) -> None:
    """Captum's step sizes are float32 (exact for 8 steps, not for Gauss-Legendre); its trapezoid sums to 7/8 of 1."""
    net, images = nets.conv_batchnorm().double(), nets.images().double()
    run = wcx.Explainer(net, METHOD, rule=rule, steps=8, batch_size=7)(images)
    v = wcx.cotangent(run.logits, torch.tensor([0, 3, 5]), contrast)
    name = {"midpoint": "riemann_middle", "gauss-legendre": "gausslegendre"}.get(rule, f"riemann_{rule}")
    captum = Captum(lambda x, v: (net(x) * v).sum(1))
    expected = captum.attribute(images, additional_forward_args=v, method=name, n_steps=8)
    if rule == "trapezoid":
        expected = expected * 8 / 7
    error = (run.explain(v) - expected).norm() / expected.norm()
    assert error < (1e-7 if rule == "gauss-legendre" else 1e-12)


def test_original_against_captum_for_each_baseline() -> None:
    net, images = nets.residual().double(), nets.images(2).double()
    mean = images.mean((2, 3), keepdim=True).expand_as(images)
    for baseline, start in {"zeros": 0 * images, "mean": mean, "tensor": torch.full((3, 1, 1), 0.3).double()}.items():
        given = start if baseline == "tensor" else baseline
        expected = Captum(net).attribute(images, start.expand_as(images), 4, n_steps=16, method="riemann_middle")
        got = wcx.explain(net, images, 4, METHOD, "original", baseline=given, steps=16)
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("contrast", ["original", "probability"])
def test_batch_size_bounds_what_goes_through_at_once_and_changes_nothing(contrast: str) -> None:
    net, images = nets.conv_batchnorm().double(), nets.images(3).double()
    sizes: list[int] = []
    handle = net[0].register_forward_hook(lambda _module, _args, output: sizes.append(len(output)))
    maps = [wcx.explain(net, images, 1, METHOD, contrast, steps=5, batch_size=size) for size in (1, 7, 100)]
    handle.remove()
    alone = [3, 3]  # two passes show whether the network keeps images apart, before steps go together
    assert sizes == [3] + 5 * [3] + [3, *alone, 6, 6, 3] + [3, *alone, 15]
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(maps[0], maps[2], rtol=1e-10, atol=1e-14)


class Quadratic(nn.Module):
    """y_s = (a_s . x)^2: its integrated gradients from x' are (x - x') a_s (a_s . (x + x'))."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(4, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.a.T) ** 2


@pytest.mark.parametrize("rule", ["midpoint", "trapezoid", "gauss-legendre"])
def test_closed_form_of_a_quadratic(rule: str) -> None:
    """The integrand is linear along the path, so these three rules are exact with two steps."""
    net, images = Quadratic(), torch.randn(3, 3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    start = torch.full((3, 2, 2), 0.5, dtype=torch.float64)
    run = wcx.Explainer(net, METHOD, baseline=start, steps=2, rule=rule)(images)
    v = wcx.cotangent(run.logits, 2, ["weighted", "mean"])
    dots = (images + start).flatten(1) @ net.a.detach().T
    expected = (images - start).flatten(1) * torch.einsum("kns,ns,sp->knp", v, dots, net.a.detach())
    torch.testing.assert_close(run.explain(v).flatten(2), expected, rtol=1e-12, atol=1e-12)
    assert run.residual.shape == (2, 3)
    assert run.residual.abs().max() < 1e-11


def test_residual_is_captums_and_shrinks_with_the_steps() -> None:
    net, images = nets.conv_batchnorm().double(), nets.images(2).double()
    missed = []
    for steps in (4, 32, 256):
        run = wcx.Explainer(net, METHOD, steps=steps)(images)
        v = wcx.cotangent(run.logits, 0)
        maps = run.explain(v)
        with torch.no_grad():
            change = net(images) - net(torch.zeros_like(images))
        torch.testing.assert_close(run.residual, maps.sum((1, 2, 3)) - (v * change).sum(1), rtol=1e-9, atol=1e-12)
        missed.append(run.residual.abs().max())
    assert missed[0] > 2 * missed[1]
    assert missed[1] > 4 * missed[2]


def test_residual_costs_a_pass_only_when_asked_for_and_only_once() -> None:
    net, images = nets.conv_batchnorm(), nets.images(2)
    calls: list[int] = []
    net.register_forward_hook(lambda *_: calls.append(1))
    run = wcx.Explainer(net, METHOD, steps=4, batch_size=8)(images)
    with pytest.raises(WcxError, match="call explain first"):
        _ = run.residual
    run.explain(wcx.cotangent(run.logits, 0))
    assert len(calls) == 4
    assert run.residual.shape == run.residual.shape == (2,)
    assert len(calls) == 5


def test_residual_is_nan_only_where_the_cotangent_changes_along_the_path() -> None:
    net, images = nets.conv_batchnorm().double(), nets.images(2).double()
    run = wcx.Explainer(net, METHOD)(images)
    run.explain(lambda logits: wcx.cotangent(logits, 1, ["original", "probability"]))
    assert run.residual[0].abs().max() < 0.01
    assert bool(run.residual[1].isnan().all())


def test_probability_is_complete_in_the_probability() -> None:
    """v = p_t (e_t - p) at each point is the gradient of p_t: the explanation sums to p_t(x) - p_t(x')."""
    net, images = nets.conv_batchnorm().double(), 2 * nets.images(2).double()
    maps = wcx.explain(net, images, 1, METHOD, "probability", steps=400, rule="gauss-legendre", batch_size=400)
    with torch.no_grad():
        change = net(images).softmax(1)[:, 1] - net(0 * images).softmax(1)[:, 1]
    torch.testing.assert_close(maps.sum((1, 2, 3)), change, rtol=1e-3, atol=1e-4)


def test_space_says_where_zeros_are() -> None:
    """Black or the mean colour, the same image whether the model takes pixels or normalised input."""
    net = nets.conv_batchnorm().double()
    wrapped = Normalized(net).double()
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    normalised = wrapped.normalise(pixels)
    starts = {}
    for space in ("pixel", "normalized"):
        of_pixels = wcx.Explainer(wrapped, METHOD, space=space, steps=8)(pixels)
        of_normalised = wcx.Explainer(net, METHOD, space=space, steps=8)(normalised)
        v = wcx.cotangent(of_pixels.logits, 0)
        # Normalized holds mean and std in float32.
        torch.testing.assert_close(of_pixels.explain(v), of_normalised.explain(v), rtol=1e-5, atol=1e-7)
        starts[space] = wcx.explain(wrapped, pixels, 0, METHOD, "original", space=space, steps=8)
    black = Captum(wrapped).attribute(pixels, 0 * pixels, 0, n_steps=8, method="riemann_middle")
    grey = Captum(wrapped).attribute(pixels, wrapped.mean.expand_as(pixels), 0, n_steps=8, method="riemann_middle")
    torch.testing.assert_close(starts["pixel"], black, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(starts["normalized"], grey, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_quadrature(rule: str) -> None:
    nodes, weights = quadrature(rule, 6)
    assert len(nodes) == len(weights) == 6
    assert float(weights.sum()) == pytest.approx(1, abs=1e-14)
    exact_to = {"left": 0, "right": 0, "midpoint": 1, "trapezoid": 1, "gauss-legendre": 11}[rule]
    for degree in range(exact_to + 1):
        assert float((weights * nodes**degree).sum()) == pytest.approx(1 / (degree + 1), abs=1e-12)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"baseline": "noise"}, "unknown baseline 'noise'"),
        ({"space": "pixels"}, "Did you mean 'pixel'"),
        ({"rule": "simpson"}, "unknown rule 'simpson'"),
        ({"steps": 0}, "steps = 0"),
        ({"steps": 1, "rule": "trapezoid"}, "at least 2"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"baseline": torch.zeros(3, 5, 5)}, r"\(3, 5, 5\) does not broadcast"),
        ({"step": 3}, "no option 'step'"),
    ],
)
def test_errors_name_the_fix(options: dict[str, object], words: str) -> None:
    with pytest.raises(WcxError, match=words):
        wcx.explain(nets.bias_free(), nets.images(1), 0, METHOD, **options)
