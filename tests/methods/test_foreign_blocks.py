"""Blocks and functions as other libraries write them: squares, gates, convolutions among tokens, pairs of tokens."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import wcx
from tests.methods.modules import Function
from tests.methods.test_tokens import CLASSES, WIDTH, Block, Transformer, check, images, patches, randomised
from wcx.errors import WcxError

pytestmark = pytest.mark.usefixtures("one_thread")


class Gate(nn.Module):
    """A number that was learnt, in front of the map."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.tensor([0.3]))

    def forward(self, a: Tensor) -> Tensor:
        return self.gate.view(1, 1, 1, 1) * a


FUNCTIONS: dict[str, Callable[[], nn.Module]] = {
    "a square (StarReLU)": lambda: Function(lambda a: a.relu() ** 2 - 0.4),
    "a power of two": lambda: Function(lambda a: 2**a),
    "a gate before the map": Gate,
}


@pytest.mark.parametrize("what", FUNCTIONS)
def test_functions_behind_a_convolution(what: str) -> None:
    last = Function(lambda a: a.permute(0, 2, 3, 1))
    head = (Function(lambda a: a.mean((1, 2))), nn.Linear(WIDTH, CLASSES))
    model = nn.Sequential(nn.Conv2d(3, WIDTH, 3), last, FUNCTIONS[what](), nn.Sequential(*head))
    check(randomised(model), "2", "2", lambda a: a[0].permute(2, 0, 1), images())
    check(model, None, "0", lambda a: a[0], images())


class Positions(nn.Module):
    """A block that adds a convolution of its patches to what attention returns, and none to the class token (CoaT)."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.convolution = Block(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, t: Tensor) -> Tensor:
        t = self.block(t)
        encoded = self.convolution(t[:, 1:].transpose(1, 2).unflatten(2, (3, 5))).flatten(2).transpose(1, 2)
        return t + torch.cat([torch.zeros_like(t[:, :1]), encoded], 1)


def test_blocks_of_convolutions_under_a_class_token() -> None:
    """The last block holds the last convolution, and its patches lead nowhere."""
    check(randomised(Transformer(block=Positions)), None, "blocks.1", patches(1), images(), "blocks.2.block.norm1")


class Branches(nn.Module):
    """A block that hands on its first branch and works on the second (CoaT's parallel blocks)."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        return first, self.block(second)


class Parallel(Transformer):
    """Serial blocks, and blocks in whose tuples the second is what goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.parallel = nn.ModuleList(Branches() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        first = self.blocks[0](self.embedding(x).flatten(2).transpose(1, 2))
        second = self.blocks[1](first)
        for block in self.parallel:
            first, second = block(first, second)
        return self.fc(self.norm(second).mean(1))


def test_a_block_that_hands_on_its_first_input_is_not_the_last() -> None:
    check(randomised(Parallel()), None, "blocks.1", patches(0), images())


class Pairs(nn.Module):
    """Attention written out: of tokens (N, heads, T, T), or of channels (N, heads, channels, channels) as in XCiT."""

    def __init__(self, channels: bool) -> None:
        super().__init__()
        self.qkv, self.softmax, self.channels = nn.Linear(WIDTH, 3 * WIDTH), nn.Softmax(-1), channels

    def forward(self, t: Tensor) -> Tensor:
        q, k, v = self.qkv(t).unflatten(2, (3, 2, WIDTH // 2)).permute(2, 0, 3, 1, 4)
        pairs = q.transpose(-2, -1) @ k if self.channels else q @ k.transpose(-2, -1)
        weights = self.softmax(pairs)
        return t + (v @ weights if self.channels else weights @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_pairs_of_tokens_or_channels_are_no_map(channels: bool, known: bool) -> None:
    def joined(t: Tensor, _extra: Tensor) -> Tensor:
        return t if known else t.reshape(len(t), -1).reshape(t.shape)  # the places are lost, as in TNT

    model = randomised(Transformer(joined, lambda t: t.mean(1), lambda: Pairs(channels)))
    with pytest.raises(WcxError, match=r"'blocks.1.softmax' returns shape .* does not tell") as caught:
        wcx.explain(model, images(), 1, layer="blocks.1.softmax")
    assert ".softmax" not in str(caught.value).partition("; try")[2]
    if known:
        check(model, "blocks.1", "blocks.1", patches(0), images())
