"""The rules of AttnLRP (Achtibat et al. 2024) and CP-LRP (Ali et al. 2022) for what transformers call.

R is the relevance of y = f(x), and 0/0 is stabilised as in the epsilon rule:

- softmax s of x (AttnLRP, Proposition 3.1: Taylor expansion at x): R_i <- x_i (R_i - s_i sum_j R_j). The expansion's constant
  keeps the rest: relevance is not conserved here.
- a product of two activations (Propositions 3.2 and 3.3): the epsilon rule, half to each of them.
- scaled_dot_product_attention, seen whole: both rules at once. With c = R / y, the gradients of (c y).sum() times q, k and v are
  handed on, a quarter to q and k each and half to v. No attention map is formed.
- LayerNorm and its kin (Proposition 3.4): the norm is a constant, and the epsilon rule holds for what is left. LayerNorm's mean
  is part of it, its bias absorbs.
- elementwise activations: relevance passes, in these composites as in all others (the identity rule).
- CP-LRP: attention probabilities are constants, so that the epsilon rule holds for the values and nothing goes to q and k.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from wcx.methods._functions import PRODUCTS, Call, lasting
from wcx.methods._shares import Share

MULTI_HEAD, FUSED = "multi_head_attention_forward", "scaled_dot_product_attention"
NORMS = frozenset(["layer_norm", "rms_norm", "group_norm", "normalize"])
LENGTHS = frozenset(["norm", "linalg_norm", "linalg_vector_norm"])
# AttnLRP is chosen for a network that calls one of them: gates and products there are in convolutional networks, too.
TRANSFORMERS = frozenset([MULTI_HEAD, FUSED, "softmax", "layer_norm", "rms_norm"])


class Attention:
    """Shares out the relevance of functions that transformers call.

    Args:
        stabilised: of denominators, by the epsilon rule.
        constant: whether attention probabilities are constants (CP-LRP).
    """

    FUNCTIONS = TRANSFORMERS | NORMS | LENGTHS | PRODUCTS

    def __init__(self, stabilised: Callable[[Tensor], Tensor], *, constant: bool) -> None:
        self._stabilised, self._constant = stabilised, constant

    def held(self, call: Call) -> Call | None:
        """Return a call with those inputs held constant that get no relevance; None if its whole value is a constant."""
        if call.name in LENGTHS or (self._constant and call.name == "softmax"):
            return None
        if not self._constant or call.name != FUSED:
            return call
        arguments = {**dict(enumerate(call.args)), **call.kwargs}
        for key in (0, 1, 3, "query", "key", "attn_mask"):
            if isinstance(arguments.get(key), Tensor):
                arguments[key] = arguments[key].detach()
        return Call(
            call.function,
            tuple(value for key, value in arguments.items() if isinstance(key, int)),
            {key: value for key, value in arguments.items() if isinstance(key, str)},
            call.image,
        )

    def share(self, call: Call, *, in_place: bool) -> Share | None:
        """Return the rule of a function that is not affine, or None if there is none."""
        if call.name == "softmax" and len(call.inputs) == 1:
            dim = call.argument(1, "dim")
            return lambda relevance, x: [_softmax(relevance, x, dim)]
        if call.name in PRODUCTS and len(call.inputs) == 2:
            return self._by_gradient(call.alone(in_place=in_place), (1 / 2, 1 / 2))
        if call.name == FUSED and (shares := _shares(call)):
            return self._by_gradient(call.alone(in_place=False), shares)
        if call.name in NORMS and len(call.inputs) == 1 and call.inputs[0] is call.argument(0, "input"):
            return self._by_gradient(_NORMS[call.name](call), (1.0,))
        return None

    def _by_gradient(self, function: Callable[..., Tensor], shares: Sequence[float]) -> Share:
        """The epsilon rule of a function of several inputs, each of which gets its share of input x gradient."""

        def share(relevance: Tensor, *inputs: Tensor) -> list[Tensor]:
            with torch.enable_grad():
                leaves = [x.detach().requires_grad_() for x in inputs]
                z = function(*leaves)
            gradients = torch.autograd.grad(z, leaves, relevance / self._stabilised(z.detach()))
            return [part * x * gradient for part, x, gradient in zip(shares, inputs, gradients, strict=True)]

        return share


def _softmax(relevance: Tensor, x: Tensor, dim: int) -> Tensor:
    below = x * (relevance - x.softmax(dim) * relevance.sum(dim, keepdim=True))
    return below.masked_fill(x == -torch.inf, 0)  # masked places have no relevance, but an infinite x


def _shares(call: Call) -> list[float]:
    """Return the shares of query, key and value, as far as they depend on the image: half for the values, the rest for the weights.

    Empty if a mask depends on it.
    """
    arguments = {**dict(zip(("query", "key", "value", "attn_mask"), call.args, strict=False)), **call.kwargs}
    names = [key for key, value in arguments.items() if isinstance(value, Tensor) and value in call.image]
    weights = len({"query", "key"} & set(names))
    whole = 1 + (weights > 0 and "value" in names)
    return [] if "attn_mask" in names else [1 / whole if name == "value" else 1 / (whole * weights) for name in names]


def _held_scale(x: Tensor, dims: Sequence[int], eps: float | None) -> Tensor:
    """Return 1 / root mean square, without a graph."""
    return (x.detach().square().mean(dims, keepdim=True) + (torch.finfo(x.dtype).eps if eps is None else eps)).rsqrt()


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _options(call: Call, *names: str) -> list[Any]:
    """Return the arguments behind the input."""
    values = [call.argument(position, name) for position, name in enumerate(names, 1)]
    return [lasting(value) if isinstance(value, Tensor) else value for value in values]


def _layer_norm(call: Call) -> Callable[[Tensor], Tensor]:
    shape, weight, bias, eps = _options(call, "normalized_shape", "weight", "bias", "eps")
    dims = range(-len(shape), 0)

    def function(x: Tensor) -> Tensor:
        centred = x - x.mean(tuple(dims), keepdim=True)
        return _affine(centred * _held_scale(centred, tuple(dims), 1e-5 if eps is None else eps), weight, bias)

    return function


def _rms_norm(call: Call) -> Callable[[Tensor], Tensor]:
    shape, weight, eps = _options(call, "normalized_shape", "weight", "eps")
    return lambda x: _affine(x * _held_scale(x, tuple(range(-len(shape), 0)), eps), weight, None)


def _group_norm(call: Call) -> Callable[[Tensor], Tensor]:
    groups, weight, bias, eps = _options(call, "num_groups", "weight", "bias", "eps")

    def function(x: Tensor) -> Tensor:
        grouped = x.reshape(len(x), groups, -1)
        centred = grouped - grouped.mean(2, keepdim=True)
        y = (centred * _held_scale(centred, (2,), 1e-5 if eps is None else eps)).reshape(x.shape)
        column = [-1, *[1] * (x.ndim - 2)]
        return _affine(y, *(None if p is None else p.view(column) for p in (weight, bias)))

    return function


def _normalize(call: Call) -> Callable[[Tensor], Tensor]:
    p, dim, eps = _options(call, "p", "dim", "eps")
    p, dim, eps = (default if value is None else value for value, default in ((p, 2.0), (dim, 1), (eps, 1e-12)))
    return lambda x: x / x.detach().norm(p, dim, keepdim=True).clamp_min(eps)


_NORMS = {"layer_norm": _layer_norm, "rms_norm": _rms_norm, "group_norm": _group_norm, "normalize": _normalize}
