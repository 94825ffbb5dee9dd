"""DeepLIFT by what feeds what: hooks, in-place functions, the same tensor twice, constants that require gradients."""

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


def plain(x: Tensor) -> Tensor:
    return F.relu(x) * x.sigmoid()


def in_place(x: Tensor) -> Tensor:
    y = x.clone().relu_()
    y *= x.sigmoid()
    return y


def in_views(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, :2].relu_()
    F.relu(y[:, 2:], inplace=True)
    y.view(-1).mul_(x.sigmoid().view(-1))
    return y


def into_a_constant(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y += F.relu(x)
    return torch.mul(other=y, input=torch.empty_like(x).copy_(x.sigmoid()))


@pytest.mark.parametrize("written", [in_place, in_views, into_a_constant])
def test_the_same_function_written_another_way(written: Callable[[Tensor], Tensor]) -> None:
    images, layers = nets.images(2).double(), (nn.Flatten(), nn.Linear(4 * 196, 5))
    model, other = (net_of(nn.Conv2d(3, 4, 3), Function(function), *layers) for function in (plain, written))
    expected = wcx.explain(model, images, 1, METHOD)
    torch.testing.assert_close(wcx.explain(other, images, 1, METHOD), expected, rtol=1e-12, atol=1e-14)


def itself(x: Tensor) -> Tensor:
    x = x * 1.0
    x *= x
    return x


@pytest.mark.parametrize(
    "square",
    [
        lambda x: x * x,
        lambda x: torch.mul(other=x, input=x),
        lambda x: x * x.view_as(x),
        itself,
        lambda x: x.clone().mul_(x),
    ],
)
def test_a_product_in_which_the_same_tensor_stands_twice(square: Callable[[Tensor], Tensor]) -> None:
    """x x - x' x' = (x - x') (x + x'), in closed form."""
    images, start = nets.images(1).double(), nets.images(1, seed=8).double()
    model = net_of(Function(square), nn.Flatten(), nn.Linear(768, 1))
    expected = model[2].weight.detach().view_as(images) * (images**2 - start**2)
    got = wcx.explain(model, images, 0, METHOD, "original", baseline=start)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-13)


def test_a_product_of_matrices_by_name() -> None:
    """Its arguments in the other order: other before input."""
    images, flat = nets.images(2).double(), nn.Flatten()
    by_place, by_name = (
        net_of(nn.Conv2d(3, 4, 3), Function(product), flat, nn.Linear(784, 5))
        for product in (lambda x: x.mT @ x.relu(), lambda x: torch.matmul(other=x.relu(), input=x.mT))
    )
    assert torch.equal(wcx.explain(by_name, images, 1, METHOD), wcx.explain(by_place, images, 1, METHOD))


STRAY = torch.linspace(0.1, 1.0, 4, dtype=torch.float64)[:, None, None].requires_grad_()
MADE_BEFORE = STRAY.exp()


@pytest.mark.parametrize(
    "function",
    [
        lambda x, stray, _: x / stray.exp(),
        lambda x, stray, _: x.clamp(max=0.1 * stray),
        lambda x, _, made: x / made,
        lambda x, _, made: F.conv2d(x, made.expand(4, 4, 1, 1)),
        lambda x, _, made: torch.div(other=made, input=x),
    ],
)
def test_what_does_not_depend_on_the_image_is_constant(function: Callable[..., Tensor]) -> None:
    """Also where it requires gradients: a tensor that is no parameter, and what was computed from it."""
    images, layers = nets.images(2).double(), (nn.Flatten(), nn.Linear(4 * 196, 5))
    maps = [
        wcx.explain(
            net_of(nn.Conv2d(3, 4, 3), Function(lambda x, a=a, b=b: function(x, a, b)), *layers), images, 1, METHOD
        )
        for a, b in ((STRAY, MADE_BEFORE), (STRAY.detach(), MADE_BEFORE.detach()))
    ]
    assert torch.equal(*maps)


def test_calls_in_another_order_for_the_reference_are_no_silent_mistake() -> None:
    convolutions = [nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)]

    def ordered(x: Tensor) -> Tensor:
        order = (0, 1) if bool(x.abs().sum() > 1) else (1, 0)
        maps = {i: F.relu(convolutions[i](x)) for i in order}
        return maps[0] + 2 * maps[1]

    model = net_of(*convolutions, Function(ordered), nn.Flatten(), nn.Linear(4 * 196, 5))
    model = nn.Sequential(*model[2:])
    with pytest.raises(WcxError, match="misses the change of the output"):
        wcx.explain(model, nets.images(2).double(), 1, METHOD)


HOOKS: dict[str, Callable[[nn.Module], object]] = {
    "a copy": lambda module: module.register_forward_hook(lambda _module, _args, output: output.clone()),
    "a sum with 0": lambda module: module.register_forward_hook(lambda _module, _args, output: output + 0),
    "a buffer": lambda module: module.register_forward_hook(
        lambda _module, _args, output: torch.empty_like(output).copy_(output)
    ),
    "a full backward hook": lambda module: module.register_full_backward_hook(lambda *_: None),
    "a full backward pre hook": lambda module: module.register_full_backward_pre_hook(lambda *_: None),
}


@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_that_do_nothing_change_nothing(hook: str) -> None:
    images = nets.images(2).double()
    model = net_of(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(196, 5))
    expected = wcx.explain(model, images, 1, METHOD)
    for module in model:
        HOOKS[hook](module)
    assert torch.equal(wcx.explain(model, images, 1, METHOD), expected)
