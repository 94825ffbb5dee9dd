"""Rules written out, conservation of relevance, and the functions that have no rule."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import wcx
from tests import nets
from tests.methods.modules import Function, mixed, randomised
from wcx.errors import WcxError
from wcx.images import Normalized
from wcx.methods.lrp import COMPOSITES

METHOD = "lrp"
BOX = {"low": -2.5, "high": 2.5}


@pytest.mark.parametrize("rule", ["epsilon_plus", "epsilon_gamma_box"])
def test_rules_written_out_for_one_convolution_with_batchnorm(rule: str) -> None:
    """Relevance y of y = s (w x + b - mu) + beta at each place, through z+ or the box."""
    model = randomised(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten()), seed=3)
    images = nets.images(1, size=1).double()
    conv, bn = model[0], model[1]
    with torch.no_grad():
        scale = bn.weight / (bn.running_var + bn.eps).sqrt()
        w, b = conv.weight[:, :, 0, 0] * scale[:, None], (conv.bias - bn.running_mean) * scale + bn.bias
        x, y = images[0, :, 0, 0], model(images)[0]
        if rule == "epsilon_plus":
            z = (w * x).clamp(min=0)
            expected = (z / (z.sum(1) + b.clamp(min=0) + 1e-6)[:, None] * y[:, None]).sum(0)
        else:
            # Zennit takes the box's share of the bias, too: what is left of it cancels.
            z = w * x - w.clamp(min=0) * BOX["low"] - w.clamp(max=0) * BOX["high"]
            total = z.sum(1)
            expected = (z / (total + total.sign() * 1e-6)[:, None] * y[:, None]).sum(0)
    got = wcx.Explainer(model, METHOD, composite=rule, **BOX)(images).explain(torch.ones(1, 4, dtype=torch.float64))
    torch.testing.assert_close(got[0, :, 0, 0], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("composite", COMPOSITES)
def test_relevance_is_conserved_up_to_what_is_absorbed(composite: str) -> None:
    model, images = mixed(), nets.images(2).double()
    run = wcx.Explainer(model, METHOD, composite=composite)(images)
    v = wcx.cotangent(run.logits, 0, ["original", "weighted"])
    maps = run.explain(v)
    assert run.absorbed.shape == run.residual.shape == (2, 2)
    torch.testing.assert_close(maps.sum((2, 3, 4)) + run.absorbed, (v * run.logits).sum(2), rtol=1e-10, atol=1e-12)
    run.explain(v[0])
    assert run.absorbed.shape == (2,)
    free = wcx.Explainer(nets.bias_free().double(), METHOD, composite=composite, epsilon=1e-12)(images)
    free.explain(wcx.cotangent(free.logits, 0))
    assert free.absorbed.abs().max() < (1e-9 if composite in ("lrp_0", "epsilon") else 1e-3)


def test_absorbed_is_the_share_of_the_biases() -> None:
    """Of lrp_0: sum over biases of bias x gradient, since the net is linear in inputs and biases together."""
    model, images = nets.residual().double(), nets.images(2).double()
    run = wcx.Explainer(model, METHOD, composite="lrp_0")(images)
    v = wcx.cotangent(run.logits, 1)
    run.explain(v)
    biases = [model.stem.bias, model.conv.bias, model.fc.bias]
    shares = [
        sum(
            float((g * b.detach()).sum())
            for g, b in zip(torch.autograd.grad((model(x[None])[0] * w).sum(), biases), biases, strict=True)
        )
        for x, w in zip(images, v, strict=True)
    ]
    torch.testing.assert_close(run.absorbed, torch.tensor(shares, dtype=torch.float64), rtol=1e-9, atol=1e-12)


def test_zero_over_zero_is_zero() -> None:
    model, images = nets.conv_batchnorm(), nets.images(2)
    images[0] = 0
    model[0][0].bias.data.zero_()
    maps = wcx.explain(model, images, 1, METHOD, composite="lrp_0")
    assert bool(maps.isfinite().all())
    assert maps[0].abs().max() == 0


def test_box_is_that_of_black_and_white_pixels_in_either_space() -> None:
    net = nets.conv_batchnorm().double()
    wrapped = Normalized(net).double()
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    option = {"composite": "epsilon_gamma_box"}
    of_pixels = wcx.explain(wrapped, pixels, 0, METHOD, **option)
    torch.testing.assert_close(of_pixels, wcx.explain(wrapped, pixels, 0, METHOD, low=0.0, high=[1, 1, 1], **option))
    # Relevance passes the normalisation unchanged; Normalized holds mean and std in float32.
    of_normalised = wcx.explain(net, wrapped.normalise(pixels), 0, METHOD, **option)
    torch.testing.assert_close(of_pixels, of_normalised, rtol=1e-4, atol=1e-7)
    wider = wcx.explain(wrapped, pixels, 0, METHOD, low=-1 * torch.ones(3, 16, 16), high=2.0, **option)
    assert (wider - of_pixels).norm() > 0.01 * of_pixels.norm()


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(), "mul of two activations"),
        (lambda x: F.layer_norm(x, x.shape[1:]), "layer_norm"),
        (lambda x: x.softmax(1), "softmax"),
        (F.mish, "mish"),
        (lambda x: x**2, "pow__"),
        (lambda x: x / x.mean(), "div of two activations"),
        (lambda x: F.batch_norm(x, None, None, training=True), "batch_norm"),
        (lambda x: F.conv2d(x, x[:, :, :2, :2]), "conv2d of two activations"),
        (lambda x: F.conv2d(torch.ones(1, 3, 8, 8), x[:, :, :2, :2]), "conv2d"),
        (lambda x: torch.div(torch.ones(1), x), "div"),
        (lambda x: torch.div(x, 2, rounding_mode="floor"), "div"),
    ],
)
def test_a_function_without_a_rule_is_named(function: Callable[[Tensor], Tensor], named: str) -> None:
    model = nn.Sequential(Function(function), nn.Flatten(), Function(lambda x: x[:, :4]))
    with pytest.raises(WcxError, match=rf"lrp: the network calls torch\S*{named}, for which there is no rule"):
        wcx.explain(model, nets.images(2), 0, METHOD, composite="epsilon")


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_what_runs_out_of_sight_is_caught_by_conservation() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), torch.jit.script(nn.Linear(4 * 196, 5)))
    with pytest.raises(WcxError, match="not conserved"):
        wcx.explain(model, nets.images(2), 0, METHOD)


def test_box_without_a_convolution_is_an_error() -> None:
    with pytest.raises(WcxError, match="needs a convolution"):
        wcx.explain(
            nn.Sequential(nn.Flatten(), nn.Linear(768, 4)), nets.images(1), 0, METHOD, composite="epsilon_gamma_box"
        )
