"""Calls as layers of their own, for zennit's rules, which want modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Function(nn.Module):
    """A function of one tensor as a layer without parameters."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, x: Tensor) -> Tensor:
        return self._function(x)


class Normalised(nn.Module):
    """A layer followed by a BatchNorm with the arguments `norm`; `channel` is the dimension of its channels."""

    def __init__(self, layer: Layer, channel: int, function: Callable[..., Tensor], norm: dict[str, Any]) -> None:
        super().__init__()
        self.layer, self._channel, self._function, self._norm = layer, channel, function, norm

    def forward(self, x: Tensor) -> Tensor:
        return self._function(self.layer(x).movedim(self._channel, 1), **self._norm).movedim(1, self._channel)


class Layer(nn.Module):
    """A call of a convolution or linear function as a layer, for the rules that change its parameters."""

    def __init__(
        self,
        function: Callable[..., Tensor],
        weight: Tensor,
        bias: Tensor | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self._call = function, args, kwargs

    def forward(self, x: Tensor) -> Tensor:
        function, args, kwargs = self._call
        return function(x, self.weight, self.bias, *args, **kwargs)

    def merged(self, norm: dict[str, Any]) -> Layer:
        """Return this layer followed by a BatchNorm with the arguments `norm`."""
        scale = (norm["running_var"] + norm.get("eps", 1e-5)).rsqrt()
        if norm.get("weight") is not None:
            scale = scale * norm["weight"]
        bias = scale * ((0 if self.bias is None else self.bias) - norm["running_mean"])
        if norm.get("bias") is not None:
            bias = bias + norm["bias"]
        function, args, kwargs = self._call
        return Layer(function, self.weight * scale.view(-1, *[1] * (self.weight.ndim - 1)), bias, args, kwargs)
