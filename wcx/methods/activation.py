"""Methods that stop at a layer's activation. They share one forward and one backward pass per cotangent, through the head.

They differ in one function, `combine(activation, gradient)`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from wcx.methods._cut import Activation, cut
from wcx.methods._search import search
from wcx.methods.base import Method, Run, State, as_images, evaluated, vjp


class ActivationMethod(Method):
    """A method that combines a layer's activation with the gradient of sum_s v_s y_s there."""

    space = "activation"
    version = 2  # 2: residuals added in place, layers that others refer to, layers of channels last

    def run(self, model: nn.Module, images: Tensor, layer: str | nn.Module | None = None) -> ActivationRun:
        """See `Method.run`. Without a layer, it is found in the same forward pass."""
        images = as_images(images)
        with evaluated(model) as state:
            return ActivationRun(self, state, search(model, images) if layer is None else cut(model, images, layer))

    @abstractmethod
    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """Return the map (..., h, w) of activation and gradient (..., channels, h, w): linear in the gradient."""


class ActivationRun(Run):
    """One batch's activation (N, channels, h, w), and the graph from there to the logits."""

    def __init__(self, method: ActivationMethod, state: State, activation: Activation) -> None:
        super().__init__(state, activation.logits)
        self.layer = activation.layer
        self.activation = activation.value
        self._method, self._axis, self._graph = method, activation.axis, (activation.logits, activation.start)

    def gradients(self, v: Tensor) -> Tensor:
        """Return the gradients (K, N, channels, h, w) at the layer for cotangents v (K, N, C)."""
        with self.again():
            return vjp(*self._graph, v).movedim(self._axis + 1, 2)

    def explain_each(self, methods: Mapping[str, ActivationMethod], v: Tensor) -> dict[str, Tensor]:
        """Return the maps (K, N, h, w) of several methods for cotangents v (K, N, C): they share the backward passes."""
        activation, gradients = _at_least_float32(self.activation), _at_least_float32(self.gradients(v))
        return {name: torch.stack([rule.combine(activation, g) for g in gradients]) for name, rule in methods.items()}

    def _explain(self, v: Tensor, path: Callable[[Tensor], Tensor] | None) -> Tensor:
        return self.explain_each({"": self._method}, v)[""]


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
