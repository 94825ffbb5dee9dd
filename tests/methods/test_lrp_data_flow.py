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

import wcx
from tests import nets
from tests.methods.modules import randomised
from tests.methods.structures import HIGH, LOW, STRUCTURES, TARGET, Parts, by_zennit, distance, explained
from wcx.methods.lrp import COMPOSITES

METHOD = "lrp"


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


@pytest.mark.parametrize("composite", [name for name in COMPOSITES if name not in ("attnlrp", "cp_lrp")])
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
