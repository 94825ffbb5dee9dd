"""Parts of a cotangent: what a method that is not linear asks the gradients of, all from one forward pass.

A part is a function (v, logits) -> v' of cotangents v (K, N, C) and the logits (N, C) at the image, of v's shape. A method names
those that it needs (`Method.parts`); methods that name the same part share its backward passes. So a method knows what is
explained and what that is contrasted with, and still nothing of contrasts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from wcx.methods.base import Method

Part = Callable[[Tensor, Tensor], Tensor]

RIVALS = 5  # as many as CASE's foils


def whole(v: Tensor, logits: Tensor) -> Tensor:  # noqa: ARG001
    """v itself."""
    return v


def favoured(v: Tensor, logits: Tensor) -> Tensor:  # noqa: ARG001
    """max(v, 0): e_t of a contrast of t with its foils."""
    return v.clamp(min=0)


def opposed(v: Tensor, logits: Tensor) -> Tensor:
    """max(-v, 0): the foils, with their weights; where v opposes none, the mean of the `RIVALS` most probable not favoured."""
    foils = (-v).clamp(min=0)
    free = torch.where(v > 0, -torch.inf, logits)
    top = free.sort(dim=-1, descending=True, stable=True).indices[..., :RIVALS]
    rivals = torch.zeros_like(v).scatter_(-1, top, 1.0) * (v <= 0)
    rivals = rivals / rivals.sum(-1, keepdim=True).clamp(min=1)
    return torch.where((foils == 0).all(-1, keepdim=True), rivals, foils)


def confidence(v: Tensor, logits: Tensor) -> Tensor:
    """p_c (e_c - p): the gradient of the largest probability p_c, the same for every v."""
    p = logits.double().softmax(-1)
    top = p.argmax(-1)
    gradient = p.gather(-1, top[:, None]) * (nn.functional.one_hot(top, p.shape[-1]) - p)
    return gradient.to(v).expand_as(v)


def distinct(methods: Iterable[Method]) -> list[Part]:
    """Return the parts that methods need together: as many backward passes for each cotangent, if they share them."""
    return list(dict.fromkeys(chain.from_iterable(method.parts for method in methods)))
