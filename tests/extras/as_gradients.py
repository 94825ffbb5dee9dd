"""AttnLRP written slowly: input x gradient of a network whose functions are changed, as lxt's efficient variant; no test itself.

Nothing of wcx is used. Each change keeps a function's value and makes its gradient that of the rule (Achtibat et al. 2024):
norms with a constant deviation, activations as x times a constant quotient, products of two activations with half of the gradient
for each, and so a quarter for queries and keys. All else keeps its own: without epsilon, its rule is input x gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

PRODUCTS = {"mul", "rmul", "imul", "matmul", "rmatmul", "bmm", "mm", "einsum", "multiply"}
ACTIVATIONS = {"gelu", "silu", "hardswish", "sigmoid", "hardsigmoid", "tanh", "elu", "softplus"}


def explained(function: Callable[[Tensor], Tensor], images: Tensor, v: Tensor) -> Tensor:
    """Return the relevance of images (N, channels, H, W) for v_s y_s at the logits, v (N, C); parameters are frozen."""
    leaf = images.clone().requires_grad_()
    with Changed():
        logits = function(leaf)
    (gradient,) = torch.autograd.grad((logits * v).sum(), leaf)
    return images * gradient


def divided(x: Tensor, by: float) -> Tensor:
    """Return x, with its gradient divided."""
    return x / by + (x - x / by).detach()


class Changed(TorchFunctionMode):
    """Changes what is called in it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, changed."""
        kwargs, name = kwargs or {}, getattr(func, "__name__", "").strip("_")
        dependent = [isinstance(x, Tensor) and x.requires_grad for x in args]
        if name in PRODUCTS and sum(dependent) == 2:
            halves = [divided(x, 2) if is_dependent else x for x, is_dependent in zip(args, dependent, strict=True)]
            return {"imul": torch.mul, "rmul": torch.mul}.get(name, func)(*halves, **kwargs)
        if not any(dependent):
            return func(*args, **kwargs)
        x = args[0]
        if name in ACTIVATIONS | {"normalize"}:  # whose length is constant, too
            return x * (func(x.detach().clone(), *args[1:], **kwargs) / x.detach())
        if name == "layer_norm":
            return self._norm(x, *args[1:], **kwargs)
        if name == "scaled_dot_product_attention":
            query, key, value, *others = args
            return func(divided(query, 4), divided(key, 4), divided(value, 2), *others, **kwargs)
        if name == "multi_head_attention_forward":
            return self._heads(*args), None
        return func(*args, **kwargs)

    @staticmethod
    def _norm(x: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
        dims = tuple(range(-len(shape), 0))
        centred = x - x.mean(dims, keepdim=True)
        y = centred / (centred.square().mean(dims, keepdim=True) + eps).sqrt().detach()
        y = y if weight is None else y * weight
        return y if bias is None else y + bias

    @staticmethod
    def _heads(
        x: Tensor, _key: Any, _value: Any, _width: Any, heads: int, weight: Tensor, bias: Tensor, *rest: Any
    ) -> Tensor:
        """Self-attention of tokens first (L, N, D), as torch packs it."""
        q, k, v = F.linear(x, weight, bias).unflatten(2, (3, heads, -1)).permute(2, 1, 3, 0, 4)  # each (N, heads, L, d)
        y = F.scaled_dot_product_attention(divided(q, 4), divided(k, 4), divided(v, 2))
        return F.linear(y.permute(2, 0, 1, 3).flatten(2), rest[4], rest[5])
