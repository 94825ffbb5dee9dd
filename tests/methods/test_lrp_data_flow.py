"""Which BatchNorm LRP merges, and which convolution gets the box, is decided by what feeds what.

Not by tensor identity nor by the order of calls: the same function has the same map, however it is written and whatever does
nothing on the way. The oracle is zennit's own hooks on a network without BatchNorm, in `structures`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

import wcx
from tests import nets
from tests.methods.modules import randomised
from tests.methods.structures import HIGH, LOW, STRUCTURES, Parts, by_zennit
from wcx.errors import WcxError
from wcx.methods.lrp import COMPOSITES

METHOD = "lrp"
TARGET = 1


def explained(model: nn.Module, images: Tensor, composite: str, contrast: str = "weighted") -> Tensor:
    return wcx.explain(model, images, TARGET, METHOD, contrast, composite=composite, low=LOW, high=HIGH)


def distance(map: Tensor, expected: Tensor) -> float:
    return float((map - expected).double().norm() / expected.double().norm())


def plain(*, in_place: bool = False) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return randomised(
            nn.Sequential(
                *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(in_place), nn.MaxPool2d(2)),
                *(nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(in_place), nn.MaxPool2d(2), nn.Flatten()),
                *(nn.Linear(96, 10), nn.BatchNorm1d(10), nn.ReLU(in_place), nn.Linear(10, nets.CLASSES)),
            )
        )


def written_whole(x: Tensor) -> Tensor:
    buffer = torch.empty_like(x)
    buffer[:] = x
    return buffer


# What hands its input on, each in another way.
COPIES: dict[str, Callable[[Tensor], Tensor]] = {
    "the same object": lambda x: x,
    "clone": torch.clone,
    "a clone of a view of a clone": lambda x: x.clone().view(-1).view(x.shape).clone(),
    "view_as": lambda x: x.view_as(x),
    "x[:]": lambda x: x[:],
    "x[...]": lambda x: x[...],
    "x + 0": lambda x: x + 0,
    "0 + x": lambda x: sum([x]),
    "x - 0": lambda x: x - 0.0,
    "x * 1": lambda x: x * 1.0,
    "x / 1": lambda x: x / 1,
    "x += 0": lambda x: x.add_(0),
    "x *= 1": lambda x: x.mul_(1),
    "copied into a buffer": lambda x: torch.empty_like(x).copy_(x),
    "written into a buffer": written_whole,
    "cat of one": lambda x: torch.cat([x]),
    "stack of one": lambda x: torch.stack([x])[0],
    "chunk of one": lambda x: x.chunk(1, 1)[0],
    "unbind of one": lambda x: x[None].unbind()[0],
    "expand to itself": lambda x: x.expand_as(x),
    "squeezed": lambda x: x.unsqueeze(-1).squeeze(-1),
    "flattened and back": lambda x: x.flatten(1).view(x.shape),
    "flipped twice": lambda x: x.flip(1).flip(1),
    "rolled there and back": lambda x: x.roll(1, 1).roll(-1, 1),
    "dropout in eval mode": lambda x: F.dropout(x, 0.5, training=False),
}
# The same values in another layout of memory: convolutions then round in another order.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x.clone(),
    "to channels last": lambda x: x.to(memory_format=torch.channels_last) if x.ndim == 4 else x.clone(),
    "permuted there and back": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1),
}


def forward_hooks(function: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], object]:
    return lambda module: module.register_forward_hook(lambda _module, _args, output: function(output))


HOOKS: dict[str, Callable[[nn.Module], object]] = {
    **{f"forward hook: {name}": forward_hooks(function) for name, function in (COPIES | LAYOUTS).items()},
    "forward pre hook: clone": lambda module: module.register_forward_pre_hook(lambda _module, args: args[0].clone()),
    "full backward hook": lambda module: module.register_full_backward_hook(lambda *_: None),
    "full backward pre hook": lambda module: module.register_full_backward_pre_hook(lambda *_: None),
    "both, and a forward hook": lambda module: (
        module.register_full_backward_pre_hook(lambda *_: None),
        module.register_forward_hook(lambda _module, _args, output: output.clone()),
        module.register_full_backward_hook(lambda *_: None),
    ),
}


@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_that_do_nothing_change_nothing(hook: str) -> None:
    images, model = nets.images(2).double(), plain()
    expected = [explained(model, images, composite) for composite in COMPOSITES]
    for module in model:
        HOOKS[hook](module)
    maps = [explained(model, images, composite) for composite in COMPOSITES]
    # 1e-14: the rounding of convolutions in another layout.
    tolerance = 1e-14 if any(name in hook for name in LAYOUTS) else 0
    assert max(distance(*pair) for pair in zip(maps, expected, strict=True)) <= tolerance


@pytest.mark.parametrize("where", ["one tensor", "every module"])
def test_backward_hooks_of_torch_and_of_tensors(where: str) -> None:
    images, model = nets.images(2).double(), plain()
    expected = [explained(model, images, composite) for composite in COMPOSITES]
    if where == "one tensor":
        handle = model[0].register_forward_hook(
            lambda _module, _args, output: output.register_hook(lambda _: None) and None
        )
    else:
        handle = nn.modules.module.register_module_full_backward_hook(lambda *_: None)
    try:
        maps = [explained(model, images, composite) for composite in COMPOSITES]
    finally:
        handle.remove()
    assert all(torch.equal(*pair) for pair in zip(maps, expected, strict=True))


def test_wrappers_change_nothing() -> None:
    """Identity and Dropout between layer and BatchNorm, sequences in sequences, DataParallel on the CPU."""
    images, model = nets.images(2).double(), plain()
    between = [layer for module in model for layer in (module, nn.Identity(), nn.Dropout(0.5))]
    wrapped = nn.DataParallel(
        nn.Sequential(nn.Sequential(*between[:10]), nn.Sequential(nn.Sequential(*between[10:])))
    ).eval()
    for composite in COMPOSITES:
        assert torch.equal(explained(wrapped, images, composite), explained(model, images, composite))


@pytest.mark.parametrize("composite", COMPOSITES)
def test_in_half_precision_and_under_autocast(composite: str) -> None:
    images, model = nets.images(2), plain().float()
    expected = explained(model, images, composite)
    half = explained(copy.deepcopy(model).bfloat16(), images.bfloat16(), composite)
    for module in model:
        forward_hooks(torch.clone)(module)
    assert torch.equal(explained(copy.deepcopy(model).bfloat16(), images.bfloat16(), composite), half)
    for module in model:
        forward_hooks(Tensor.float)(module)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = explained(model, images, composite)
    if composite in ("epsilon_plus", "epsilon_gamma_box"):  # the others divide by what is near 0
        # 0.05: the eight bits of bfloat16, through three layers; a BatchNorm that is not merged costs 0.3.
        assert distance(rough, expected) < 0.05
        assert distance(half, expected) < 0.05


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_against_zennit_without_batchnorm(structure: str, composite: str) -> None:
    network, without = (Parts(network) for network in STRUCTURES[structure])
    images = nets.images(2).double()
    run = wcx.Explainer(network, METHOD, composite=composite, low=LOW, high=HIGH)(images)
    torch.testing.assert_close(run.logits, without(images).detach(), rtol=1e-12, atol=1e-12)
    v = wcx.cotangent(run.logits, TARGET)
    if composite == "lrp_0":
        expected = wcx.Explainer(without, "input_x_gradient")(images).explain(v)
    else:
        expected = by_zennit(without, images, v, composite)
    # Folded parameters are rounded in another order; the denominators, down to 1e-6, enlarge that.
    assert distance(run.explain(v), expected) < 1e-9


def constant_written_later(s: Parts, x: Tensor) -> Tensor:
    shift = torch.full((8, 1, 1), 0.3, dtype=x.dtype)
    y = F.relu(s.stem(x)) + shift
    shift.add_(3)
    return y


def factor_written_later(s: Parts, x: Tensor) -> Tensor:
    factor = torch.full((8, 1, 1), 0.3, dtype=x.dtype)
    y = F.relu(s.stem(x)) * factor
    factor.add_(3)
    return y


def sum_into_a_buffer(s: Parts, x: Tensor) -> Tensor:
    buffer = torch.zeros(len(x), 8, 16, 16, dtype=x.dtype)
    buffer += F.relu(s.stem(x))
    buffer += F.relu(s.stem2(x))
    return buffer


def halves_in_place(s: Parts, x: Tensor) -> Tensor:
    y = s.stem(x)
    y[:, :4].relu_()
    y[:, 4:] += s.stem2(x)[:, 4:]
    return y


def halves(s: Parts, x: Tensor) -> Tensor:
    y = s.stem(x)
    return torch.cat([F.relu(y[:, :4]), y[:, 4:] + s.stem2(x)[:, 4:]], 1)


def twice(s: Parts, x: Tensor) -> Tensor:
    y = F.relu(s.stem(x))
    return y + y


def constant_first(s: Parts, x: Tensor) -> Tensor:
    constant = s.stem2(torch.ones_like(x))
    return F.relu(s.stem(x)) + constant


WRITTEN = {
    "a constant that is written into later": (constant_written_later, lambda s, x: F.relu(s.stem(x)) + 0.3),
    "a factor that is written into later": (factor_written_later, lambda s, x: 0.3 * F.relu(s.stem(x))),
    "summed up in a buffer": (
        sum_into_a_buffer,
        lambda s, x: torch.zeros(1, 8, 1, 1, dtype=x.dtype) + F.relu(s.stem(x)) + F.relu(s.stem2(x)),
    ),
    "in views": (halves_in_place, halves),
    "a quotient by names": (lambda s, x: torch.div(other=2.0, input=s.stem(x)), lambda s, x: s.stem(x) / 2),
    "a sum with a factor": (
        lambda s, x: torch.sub(F.relu(s.stem(x)), F.relu(s.stem2(x)), alpha=2),
        lambda s, x: torch.add(F.relu(s.stem(x)), F.relu(s.stem2(x)), alpha=-2),
    ),
    "the same tensor twice": (
        twice,
        lambda s, x: F.relu(s.stem(x)) + F.relu(s.stem(x)),
    ),
    "a convolution that does not see the image": (
        lambda s, x: F.relu(s.stem(x)) + s.stem2(torch.ones_like(x)),
        constant_first,
    ),
}


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("written", WRITTEN)
def test_the_same_function_written_another_way(written: str, composite: str) -> None:
    images = nets.images(2).double()
    map, expected = (explained(Parts(network), images, composite) for network in WRITTEN[written])
    assert distance(map, expected) < 1e-12


@pytest.mark.parametrize("composite", COMPOSITES)
def test_what_does_not_depend_on_the_image_is_constant(composite: str) -> None:
    """Also where it requires gradients: a tensor that is no parameter, cached weights, a module that the model does not own."""
    images = nets.images(2).double()
    stray = torch.linspace(0.1, 1, 8, dtype=torch.float64)[:, None, None].requires_grad_()
    before = stray.exp()
    foreign = parametrizations.weight_norm(nn.Conv2d(8, 8, 3, padding=1).double())
    networks = [
        lambda s, x, a=a, b=b, c=c: F.relu(s.bn(c(s.stem(x)))) * a.exp() / b
        for a, b, c in (
            (stray, before, foreign),
            (
                stray.detach(),
                before.detach(),
                lambda x: F.conv2d(x, foreign.weight.detach(), foreign.bias.detach(), padding=1),
            ),
        )
    ]
    map, expected = (explained(Parts(network), images, composite) for network in networks)
    assert torch.equal(map, expected)
    model = Parts(lambda s, x: F.relu(s.bn(s.stem(x))))
    expected = explained(model, images, composite)
    parametrizations.weight_norm(model.stem)
    with parametrize.cached():
        model(images)
        # 1e-12: a normed weight is the weight up to rounding.
        assert distance(explained(model, images, composite), expected) < 1e-12


@pytest.mark.parametrize("composite", COMPOSITES)
def test_the_explanation_is_of_the_network_that_ran(composite: str) -> None:
    """Once its statistics or weights have changed, the run cannot be explained any more: one line says so."""
    model, images = plain(), nets.images(2).double()
    for tensor in (model[1].running_var, model[5].bias, model[-1].weight):
        run = wcx.Explainer(model, METHOD, composite=composite, low=LOW, high=HIGH)(images)
        v = wcx.cotangent(run.logits, TARGET)
        assert torch.equal(run.explain(v), run.explain(v))
        with torch.no_grad():
            tensor.mul_(2).add_(1)
        with pytest.raises(WcxError, match="have changed since the forward pass"):
            run.explain(v)
