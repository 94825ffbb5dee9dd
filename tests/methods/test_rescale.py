"""The rule of each function in closed form, and the functions that have none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import wcx
from tests import nets
from tests.methods.modules import Function, net_of
from wcx.errors import WcxError

METHOD = "deeplift"


ELEMENTWISE = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hardtanh": F.hardtanh,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "prelu": lambda x: F.prelu(x, torch.tensor([0.3], dtype=x.dtype)),
    "clamp": lambda x: x.clamp(-0.5, 0.7),
    "abs": torch.abs,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "gelu": F.gelu,
    "mish": F.mish,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "logsigmoid": F.logsigmoid,
    "elu": F.elu,
    "celu": lambda x: F.celu(x, 0.7),
    "selu": F.selu,
    "exp": torch.exp,
    "square": lambda x: x**2,
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_one_elementwise_layer_in_closed_form(name: str) -> None:
    """phi_i = sum_s v_s W_si (f(x_i) - f(x'_i)), whatever the distance, and exactly at distance 0."""
    f, generator = ELEMENTWISE[name], torch.Generator().manual_seed(0)
    images = 3 * torch.randn(1, 3, 8, 8, generator=generator, dtype=torch.float64)
    distance = 10 ** (torch.rand(images.shape, generator=generator, dtype=torch.float64) * 17 - 16)
    distance[..., 0] = 0
    start = images - distance
    model = net_of(Function(f), nn.Flatten(), nn.Linear(192, 4))
    run = wcx.Explainer(model, METHOD, baseline=start)(images)
    v = wcx.cotangent(run.logits, 1)
    expected = (v @ model[2].weight.detach()).view_as(images) * (f(images) - f(start))
    size = 1 + f(images).abs().max()
    torch.testing.assert_close(run.explain(v) / size, expected / size, rtol=0, atol=2e-14)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_multipliers_lose_no_digits_where_the_distance_is_small(name: str) -> None:
    """From 1 away down to the last digit the multiplier is the difference quotient: float32 against float64."""
    f = ELEMENTWISE[name]
    x = torch.linspace(-4, 4, 192).view(1, 3, 8, 8) + 0.013
    for distance in (1.0, 1e-2, 1e-4, 1e-6):
        start = x - distance
        model = net_of(Function(f), nn.Flatten(), nn.Linear(192, 1, bias=False)).float()
        nn.init.ones_(model[2].weight)
        phi = wcx.explain(model, x, 0, METHOD, "original", baseline=start)
        expected = (f(x.double()) - f(start.double())) / (x.double() - start.double())
        error = ((phi / (x - start)).double() - expected).abs() / (1 + f(x.double()).abs())
        assert error[x != start].max() < 1e-4, distance


def test_max_pooling_with_overlapping_windows_in_closed_form() -> None:
    """Each window gives its change to its winner in the image, or in the reference where that is the larger one."""
    x = torch.tensor([[1.0, 5.0, 2.0, 4.0, 0.0], [0.0, 3.0, 1.0, 2.0, 6.0]], dtype=torch.float64)
    start = torch.tensor([[0.0, 1.0, 2.5, 0.0, 7.0], [2.0, 0.0, 9.0, 1.0, 1.0]], dtype=torch.float64)
    expected = torch.zeros_like(x)
    weights = torch.tensor([[2.0, -3.0], [1.0, 0.5]], dtype=torch.float64)
    for row in range(2):
        for window in range(2):
            here, there = x[row, 2 * window : 2 * window + 3], start[row, 2 * window : 2 * window + 3]
            winner = here.argmax() if here.max() >= there.max() else there.argmax()
            expected[row, 2 * window + winner] += weights[row, window] * (here.max() - there.max())
    model = net_of(nn.MaxPool2d((1, 3), stride=(1, 2)), nn.Flatten(), nn.Linear(4, 1, bias=False))
    model[2].weight.data = weights.view(1, 4)
    got = wcx.explain(model, x.view(1, 1, 2, 5), 0, METHOD, "original", baseline=start.view(1, 1, 2, 5))
    torch.testing.assert_close(got[0, 0], expected, rtol=1e-12, atol=1e-12)


def test_ties_in_the_reference_are_settled_by_the_image_and_not_by_rounding() -> None:
    """Noise of the last digit on a reference that beats the image everywhere, constant or in bands, moves nothing."""
    images = nets.images(2).double()
    model = net_of(nn.MaxPool2d(3, 2), nn.Flatten(), nn.Linear(147, 4))
    start = torch.full_like(images, 5.0)
    start[:, 1:, ::2] = 6.0
    noisy = start + 1e-14 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact, rough = (wcx.explain(model, images, 0, METHOD, baseline=one) for one in (start, noisy))
    torch.testing.assert_close(exact, rough, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("distance", "winner"), [(4.5, 1), (3.5, 0)])
def test_a_near_tie_in_the_reference_is_settled_by_the_image_if_the_slope_stays_below_four_thirds(
    distance: float, winner: int
) -> None:
    """Reference (1, 1 - d), which are one to 1/2048; image (0, 1 - distance d): 3.5 d / (3.5 d - d) would be 1.4."""
    d = 2e-4
    start, image = (torch.tensor(pair, dtype=torch.float64) for pair in ([1.0, 1 - d], [0.0, 1 - distance * d]))
    model = net_of(nn.MaxPool2d((1, 2)), nn.Flatten(), nn.Linear(1, 1, bias=False))
    model[2].weight.data = torch.ones(1, 1, dtype=torch.float64)
    map = wcx.explain(model, image.view(1, 1, 1, 2), 0, METHOD, "original", baseline=start.view(1, 1, 1, 2))[0, 0, 0]
    expected = torch.zeros(2, dtype=torch.float64)
    expected[winner] = -distance * d
    torch.testing.assert_close(map, expected, rtol=1e-9, atol=1e-12)


def test_what_differs_by_more_than_1_in_2048_is_no_tie() -> None:
    """Reference (1, 1 - 3e-4): to a mantissa of 11 digits 0.9997 is 2047 / 2048."""
    start, image = (torch.tensor(pair, dtype=torch.float64) for pair in ([1.0, 1 - 3e-4], [0.0, 0.5]))
    model = net_of(nn.MaxPool2d((1, 2)), nn.Flatten(), nn.Linear(1, 1, bias=False))
    map = wcx.explain(model, image.view(1, 1, 1, 2), 0, METHOD, "original", baseline=start.view(1, 1, 1, 2))[0, 0, 0]
    assert map[0] != 0
    assert map[1] == 0


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.MaxPool2d(2, dilation=2),
        nn.AdaptiveMaxPool2d((3, 4)),
    ],
)
def test_every_max_pooling_sums_to_delta(pool: nn.Module) -> None:
    images = nets.images(2).double()
    model = net_of(nn.Conv2d(3, 4, 3), pool, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5))
    run = wcx.Explainer(model, METHOD, baseline="blur")(images)
    run.explain(wcx.cotangent(run.logits, 0, ["weighted", "max"]))
    assert run.residual.shape == (2, 2)
    assert run.residual.abs().max() < 1e-12


def test_a_gate_shares_its_change_evenly() -> None:
    """x g(x) with g linear: phi = (x - x') (a + a') / 2 at x, and half of the rest through g (squeeze-and-excitation)."""
    images = nets.images(2, size=2).double()
    start = torch.full((3, 1, 1), 0.25, dtype=torch.float64)
    gate = net_of(nn.Conv2d(3, 3, 1)).requires_grad_(False)
    model = net_of(Function(lambda x: x * gate(x.mean((2, 3), keepdim=True))), nn.Flatten(), nn.Linear(12, 1))
    weights = model[2].weight.detach().view(1, 3, 2, 2)
    g, g0 = gate(images.mean((2, 3), keepdim=True)), gate(start.expand_as(images).mean((2, 3), keepdim=True))
    through_x = weights * (g + g0) / 2
    at_gate = (weights * (images + start) / 2).sum((2, 3), keepdim=True)
    through_gate = torch.einsum("oi,no...->ni...", gate[0].weight[:, :, 0, 0], at_gate) / 4
    expected = (images - start) * (through_x + through_gate)
    got = wcx.explain(model, images, 0, METHOD, "original", baseline=start)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda x: F.layer_norm(x, x.shape[1:]), "layer_norm"),
        (lambda x: x.softmax(1), "softmax"),
        (lambda x: 1 / (1 + x**2), "rt?r?u?e?div__"),
        (lambda x: x / x.mean(), "div"),
        (lambda x: torch.where(x > 0, x, 0 * x), "where"),
        (lambda x: F.batch_norm(x, None, None, training=True), "batch_norm"),
        (lambda x: F.conv2d(x, x[:, :, :2, :2]), "conv2d"),
        (lambda x: x.amax((2, 3)), "amax"),
        (lambda x: torch.div(torch.ones(1), x), "div"),
        (lambda x: torch.div(x, 2, rounding_mode="floor"), "div"),
    ],
)
def test_a_function_without_a_rule_is_named(function: Callable[[Tensor], Tensor], named: str) -> None:
    model = nn.Sequential(Function(function), nn.Flatten(), Function(lambda x: x[:, :4]))
    with pytest.raises(WcxError, match=rf"{named}.*no rescale rule"):
        wcx.explain(model, nets.images(2), 0, METHOD)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_what_runs_out_of_sight_is_caught_by_the_sum() -> None:
    class Hidden(torch.autograd.Function):
        @staticmethod
        def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.relu()

        @staticmethod
        def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
            return grad * (ctx.saved_tensors[0] > 0)

    model = net_of(nn.Conv2d(3, 4, 3), Function(Hidden.apply), nn.Flatten(), nn.Linear(4 * 196, 5)).float()
    with pytest.raises(WcxError, match="out of sight"):
        wcx.explain(model, nets.images(2), 0, METHOD)
    with pytest.raises(WcxError, match="out of sight"):
        wcx.explain(torch.jit.script(nets.conv_batchnorm()), nets.images(2), 0, METHOD)


def test_another_path_for_the_reference_is_an_error() -> None:
    model = nn.Sequential(Function(lambda x: x.relu() if x.any() else x.sigmoid()), nn.Flatten())
    with pytest.raises(WcxError, match="sigmoid for the reference"):
        wcx.explain(model, nets.images(2), 0, METHOD)
    model = nn.Sequential(Function(lambda x: (x if x.any() else x[:, :1]).relu().mean((2, 3))[:, :1]))
    with pytest.raises(WcxError, match=r"relu for the image but .*relu for the reference"):
        wcx.explain(model, nets.images(2), 0, METHOD)
    model = nn.Sequential(Function(lambda x: x.relu() if x.any() else x), nn.Flatten())
    with pytest.raises(WcxError, match="relu for the image but nothing for the reference"):
        wcx.explain(model, nets.images(2), 0, METHOD)
