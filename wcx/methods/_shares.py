"""Relevance handed down: what a rule makes of a function's relevance, and where the rest of it stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from wcx.methods._functions import precise

if TYPE_CHECKING:
    from zennit.core import BasicHook  # of the extra lrp

Share = Callable[..., Sequence[Tensor]]  # (relevance, *inputs) -> the inputs' relevances


class Ledger:
    """Where relevance stayed on its way: with biases and stabilisers.

    Attributes:
        absorbed: (N,) float64, what entered the rules and did not leave them.
        size: the largest sum of absolute relevances that came by, (N,) float64.
    """

    def open(self, seed: Tensor) -> None:
        """Begin with relevance `seed` (N, C) at the logits."""
        self.absorbed = torch.zeros(len(seed), dtype=torch.float64, device=seed.device)
        self.size = _per_image(seed.abs(), len(seed))

    def enter(self, above: Tensor, below: Sequence[Tensor], *, tokens_first: bool = False) -> None:
        """A rule turned relevance `above` into `below`, of images first, or of tokens, images, channels in this order."""
        n = len(self.absorbed)
        self.absorbed += _per_image(above, n, tokens_first)
        for relevance in below:
            self.absorbed -= _per_image(relevance, n, tokens_first)
        self.size = torch.maximum(self.size, _per_image(above.abs(), n, tokens_first))


def moved(function: Callable[..., Tensor]) -> Share:
    """The share of inputs whose values are moved, among constants that keep what falls to them."""

    def share(relevance: Tensor, *inputs: Tensor) -> Sequence[Tensor]:
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_() for x in inputs]
            value = function(*leaves)
        return torch.autograd.grad(value, leaves, relevance)

    return share


@dataclass(frozen=True)
class ByZennit:
    """The share of a layer's one input, by a rule of zennit."""

    layer: nn.Module
    rule: BasicHook

    def __call__(self, relevance: Tensor, x: Tensor) -> Sequence[Tensor]:
        """Return the relevance of `x` in a tuple."""
        self.rule.stored_tensors.update(input=(x,), kwargs={})  # zennit 1.0 asks for the layer's keywords, too
        try:
            return self.rule.backward(self.layer, (x,), (relevance,))
        finally:
            self.rule.stored_tensors.clear()


def shared(value: Tensor, share: Share, ledger: Ledger, tokens_first: bool, *inputs: Tensor) -> Tensor:
    """Return `value` with a graph whose backward pass hands relevance on to `inputs`, and books it; see `Ledger.enter`."""
    return _Rule.apply(lambda: value, share, ledger, tokens_first, *inputs)


class _Rule(torch.autograd.Function):
    """A value whose backward pass is a rule."""

    @staticmethod
    def forward(
        ctx: Any, value: Callable[[], Tensor], share: Share, ledger: Ledger, tokens_first: bool, *inputs: Tensor
    ) -> Tensor:
        ctx.save_for_backward(*inputs)
        ctx.parts = share, ledger, tokens_first
        output = value()
        return output.clone() if output._is_view() else output  # the network may write into it

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor | None, ...]:
        (share, ledger, tokens_first), saved = ctx.parts, ctx.saved_tensors
        inputs = [precise(x) for x in saved]
        device = relevance.device.type
        with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
            below = share(relevance.to(inputs[0].dtype), *inputs)
        ledger.enter(relevance, below, tokens_first=tokens_first)
        return None, None, None, None, *(part.to(x.dtype) for part, x in zip(below, saved, strict=True))


def _per_image(relevance: Tensor, n: int, tokens_first: bool = False) -> Tensor:
    """Return the sums of each image, (n,) float64; no copy is made, in float64 or contiguous, which takes longer than a rule."""
    if tokens_first:
        relevance = relevance.reshape(-1, n, relevance.shape[-1]).transpose(0, 1)
    elif len(relevance) != n:
        relevance = relevance.reshape(n, -1)
    precision = torch.promote_types(relevance.dtype, torch.float32)
    return relevance.sum(tuple(range(1, relevance.ndim)), dtype=precision).double()
