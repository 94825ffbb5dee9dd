"""What feeds what, from autograd's graph alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.modules._functions import BackwardHookFunction

from wcx.methods._flow import Reach, follow

SHAPE = (2, 3, 4)


def tensor(shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float64) -> Tensor:
    """Something computed, all of whose values differ."""
    count = torch.Size(shape).numel()
    return torch.arange(float(count), dtype=dtype).view(shape).requires_grad_().exp().log()


def part_of_a_buffer(x: Tensor) -> Tensor:
    buffer = x.new_zeros(3, *SHAPE)
    buffer[1] = x
    return buffer[1]


def zeros_but_for_a_part(x: Tensor) -> Tensor:
    buffer = x.new_zeros(SHAPE)
    buffer[:, 1:] = x[:, 1:]
    return buffer


def written_by_a_view(x: Tensor) -> Tensor:
    y = x.clone()
    y[0].mul_(2)
    return y


# Each value has its place in what comes out, in another order or shape or not.
KEPT: dict[str, Callable[[Tensor], Tensor]] = {
    "clone": torch.clone,
    "another type": lambda x: x.to(torch.float32).double(),
    "copied": lambda x: torch.empty_like(x).copy_(x),
    "copied, in another type": lambda x: torch.empty(SHAPE).copy_(x),
    "view of the same shape": lambda x: x.view(SHAPE),
    "a backward hook's": lambda x: BackwardHookFunction.apply(x)[0],
    "the second of a backward hook's": lambda x: BackwardHookFunction.apply(2 * x, x, 3 * x)[1],
    "reshaped": lambda x: x.view(3, 8),
    "permuted": lambda x: x.permute(2, 0, 1),
    "permuted and copied": lambda x: x.permute(2, 0, 1).contiguous().view(-1).clone(),
    "transposed": lambda x: x.mT.reshape(8, 3),
    "flipped and rolled": lambda x: x.flip(2).roll(1, 0),
    "unsqueezed": lambda x: x[None, :, None],
    "squeezed": lambda x: x[None].squeeze(0).unsqueeze(3).squeeze(),
    "unfolded without overlap": lambda x: x.unfold(2, 2, 2),
    "expanded to itself": lambda x: x.expand(1, *SHAPE),
    "one alone, joined": lambda x: torch.stack([torch.cat([x])])[0],
    "one alone, split": lambda x: x.split(3, 1)[0].split([4], 2)[0][None].unbind()[0],
    "doubled, and the second half": lambda x: x[None].expand(2, *SHAPE)[1],
    "written into a part of a buffer": part_of_a_buffer,
}

LOST: dict[str, Callable[[Tensor], Tensor]] = {
    "scaled": lambda x: 2 * x,
    "squared": torch.square,
    "summed": lambda x: x + x,
    "scaled before": lambda x: (2 * x).clone(),
    "written into": lambda x: x.clone().mul_(2),
    "written into by a view": written_by_a_view,
    "a part": lambda x: x[:, 1:],
    "doubled": lambda x: x.expand(5, *SHAPE),
    "a part, doubled": lambda x: x[:1].expand(SHAPE),
    "a part, copied to many places": lambda x: torch.empty_like(x).copy_(x[:1]),
    "a part, copied and cut": lambda x: torch.empty_like(x).copy_(x[:1])[:1],
    "joined with itself": lambda x: torch.cat([x, x]),
    "joined of two parts": lambda x: torch.cat([x[:1], x[1:]]),
    "joined with a constant": lambda x: torch.cat([torch.zeros(1, 3, 4, dtype=x.dtype), x[1:]]),
    "stacked with itself": lambda x: torch.stack([x, x]),
    "a part in a buffer of zeros": zeros_but_for_a_part,
    "the first of a backward hook's": lambda x: BackwardHookFunction.apply(2 * x, x)[0],
    "unfolded with overlap": lambda x: x.unfold(2, 2, 1),
    "a leaf": lambda x: torch.zeros(SHAPE, dtype=x.dtype).requires_grad_(),
}


@pytest.mark.parametrize(
    ("kept", "dtype"),
    # A buffer's places go through its own type, which needs their digits.
    [
        (name, dtype)
        for name in KEPT
        for dtype in (torch.float64, torch.bfloat16)
        if "buffer" not in name or dtype.itemsize > 2
    ],
)
def test_values_are_followed_to_their_places(kept: str, dtype: torch.dtype) -> None:
    source = tensor(dtype=dtype)
    moved = KEPT[kept](source)
    node, places = follow(moved, {source.grad_fn: None})
    assert node is source.grad_fn
    if places is None:
        assert torch.equal(moved.to(dtype), source)
    else:
        assert places.shape == source.shape
        assert torch.equal(moved.flatten()[places].to(dtype), source)


@pytest.mark.parametrize("lost", LOST)
def test_other_values_are_not_followed(lost: str) -> None:
    source = tensor()
    assert follow(LOST[lost](source), {source.grad_fn: None}) is None


def test_places_are_told_only_where_something_moved() -> None:
    source = tensor()
    assert follow(source, [source.grad_fn]) == (source.grad_fn, None)
    assert follow(source.clone().to(torch.float32), [source.grad_fn])[1] is None
    assert follow(source.flip(0).flip(0), [source.grad_fn])[1].tolist() == torch.arange(24).view(SHAPE).tolist()
    assert follow(source.clone(), []) is None


def test_the_nearest_of_several_is_told() -> None:
    source = tensor()
    nearer = source.clone()
    assert follow(nearer.view(-1), {source.grad_fn, nearer.grad_fn})[0] is nearer.grad_fn


def test_reach() -> None:
    image, parameter = torch.rand(3).requires_grad_(), torch.rand(3).requires_grad_()
    before = parameter.exp()
    reach = Reach(image)
    assert image in reach
    assert image.clone() in reach
    assert (before * image.sin()).sum() in reach
    assert torch.stack([parameter, image])[0] in reach
    for other in (parameter, parameter.exp(), before, before * parameter, torch.rand(3), image.detach(), image > 0):
        assert other not in reach
    with torch.no_grad():
        assert 2 * image not in reach
    assert image not in Reach()
    assert before * image in Reach(parameter)


def test_reach_of_what_is_added_later() -> None:
    image = torch.rand(3).requires_grad_()
    first, second = image.exp(), image.sin()
    reach = Reach()
    assert first not in reach
    reach.add(second)
    assert second in reach
    assert second.clone() in reach
    assert first.clone() not in reach
    assert first * second in reach
    assert image not in reach
    assert Reach(first, second)._nodes.keys() == {first.grad_fn, second.grad_fn}


def test_reach_of_a_graph_deeper_than_pythons_stack() -> None:
    image, other = torch.rand(1).requires_grad_(), torch.rand(1).requires_grad_()
    x, y = image.clone(), other.clone()
    for _ in range(3000):
        x, y = x + x, y + y
    assert x in Reach(image)
    assert y not in Reach(image)


def test_reach_after_writing_in_place() -> None:
    image, other = torch.rand(2, 3).requires_grad_(), torch.rand(3).requires_grad_()
    reach, buffer = Reach(image), torch.zeros(2, 3)
    assert buffer not in reach
    buffer[0] = 2 * other
    assert buffer not in reach
    buffer[1] = 2 * image[1]
    assert buffer in reach
    assert buffer[0] in reach, "views share their base's graph"
