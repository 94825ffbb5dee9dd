"""Methods that stop at a layer's activation. They share one forward and one backward pass per cotangent, through the head.

Through linear layers alone that is one of all cotangents. They differ in one function, `combine(activation, gradient)`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from wcx.errors import WcxError
from wcx.methods import _memory
from wcx.methods._cut import Activation
from wcx.methods._functions import precise
from wcx.methods._parts import Part, distinct
from wcx.methods._search import probe
from wcx.methods.base import Method, Run, State, as_images, evaluated, vjp

PLAIN = (-4, -3, -2, -1)  # (N, channels, h, w), where nothing is asked that a GPU would have to wait for


class ActivationMethod(Method):
    """A method that combines a layer's activation with the gradient of sum_s v_s y_s there, or of parts of it.

    Args:
        relu: negative values become 0, as most published maps have it; then the map is not linear in v.
    """

    space = "activation"
    may_cancel: ClassVar[bool] = False  # see `cancels`
    version = 3  # 2: residuals added in place, layers that others refer to, of channels last; 3: all cotangents at once
    younger: ClassVar = {"relu": False}
    relu = False

    def __init__(self, relu: bool = False) -> None:
        self.relu, self.linear = relu, type(self).linear and not relu

    def run(self, model: nn.Module, images: Tensor, layer: str | nn.Module | None = None) -> ActivationRun:
        """See `Method.run`. Without a layer, it is found in the same forward pass."""
        images = as_images(images)
        with evaluated(model) as state:
            found = _memory.activation(state, images, layer, self.cancels if self.may_cancel else None)
            return ActivationRun(self, state, found)

    @abstractmethod
    def combine(self, activation: Tensor, *gradients: Tensor) -> Tensor:
        """Return the map (..., h, w) of an activation and a gradient for each of `parts`, all (..., channels, h, w).

        With `linear`, there is one gradient, and the map is linear in it.
        """

    def map(self, activation: Tensor, *gradients: Tensor) -> Tensor:
        """Return what `combine` returns, with the ReLU that was asked for."""
        combined = self.combine(activation, *gradients)
        return combined.clamp(min=0) if self.relu else combined

    def cancels(self, activation: Tensor, gradient: Tensor) -> bool:
        """Whether the map of activation (N, channels, h, w) and gradient is 0 by what the network does next, but for rounding."""
        return False


class ActivationRun(Run):
    """One batch's activation (N, channels, h, w), and the graph from there to the logits.

    Attributes:
        activation: (N, channels, h, w).
        method: whose run it is.
    """

    forward = False

    def __init__(self, method: ActivationMethod, state: State, activation: Activation) -> None:
        super().__init__(state, activation.logits)
        self.layer = activation.layer
        self.activation = activation.value
        self.method, self._layout, self._graph = method, activation.layout, (activation.logits, activation.start)
        self._together = not activation.hooked

    def gradients(self, v: Tensor) -> Tensor:
        """Return the gradients (K, N, channels, h, w) at the layer for cotangents v (K, N, C).

        Raises:
            WcxError: only tokens of no place (class, registers) lead to the logits, as behind the last block's attention.
        """
        with self.again():
            return self._gradients(v)

    def _gradients(self, v: Tensor) -> Tensor:
        gradients = vjp(*self._graph, v, together=self._together)
        maps = self._layout.maps(gradients)
        if self._layout.grid and not maps.any() and gradients.any():
            raise WcxError(
                f"layer {self.layer!r} leads to the logits by its tokens of no place (class, registers) alone: the gradient of its "
                f"{maps.shape[-2]}x{maps.shape[-1]} patches is 0; name a layer before the last attention, or none, and it is found."
            )
        return maps

    def cancels(self, method: ActivationMethod) -> bool:
        """Whether a method has no map at this layer: see `ActivationMethod.cancels`."""
        return method.may_cancel and method.cancels(self.activation, self.gradients(probe(self.logits))[0])

    def explain_each(self, methods: Mapping[str, ActivationMethod], v: Tensor) -> dict[str, Tensor]:
        """Return the maps (K, N, h, w) of several methods for cotangents v (K, N, C): they share the backward passes.

        Those are one for each cotangent and distinct part of it that the methods need.
        """
        with self.again():
            return self._each(methods, v)

    def _each(self, methods: Mapping[str, ActivationMethod], v: Tensor) -> dict[str, Tensor]:
        activation, parts = precise(self.activation), distinct(methods.values())
        gradients = {part: precise(self._gradients(part(v, self.logits))) for part in parts}
        for rule in methods.values():
            if (
                self._layout.order != PLAIN
                and rule.may_cancel
                and rule.cancels(activation, gradients[rule.parts[0]][0])
            ):
                method = type(rule).__module__.rpartition(".")[2]
                raise WcxError(
                    f"{method} is 0 at layer {self.layer!r}, whose channels cancel in the norm behind it; name that, or no layer."
                )
        return {name: self._maps(rule, activation, gradients) for name, rule in methods.items()}

    def _maps(self, rule: ActivationMethod, activation: Tensor, gradients: Mapping[Part, Tensor]) -> Tensor:
        by_cotangent = zip(*(gradients[part] for part in rule.parts), strict=True)
        return torch.stack([rule.map(activation, *of_parts) for of_parts in by_cotangent])

    def _explain(self, v: Tensor, path: Callable[[Tensor], Tensor] | None) -> Tensor:
        return self._each({"": self.method}, v)[""]
