"""Methods that stop at a layer's activation. They share one forward and one backward pass per cotangent, through the head.

They differ in one function, `combine(activation, gradient)`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from wcx.errors import WcxError
from wcx.methods import layers
from wcx.methods.base import Method, Run, State, as_images, evaluated, forward, vjp


class ActivationMethod(Method):
    """A method that combines a layer's activation with the gradient of sum_s v_s y_s there."""

    space = "activation"

    def run(self, model: nn.Module, images: Tensor, layer: str | nn.Module | None = None) -> ActivationRun:
        """See `Method.run`. Without a layer, it is found in the same forward pass."""
        images = as_images(images)
        with evaluated(model) as state:
            name, activation, logits = (_cut if layer is not None else _search)(model, images, layer)
            return ActivationRun(self, state, logits, name, activation)

    @abstractmethod
    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """Return the map (..., h, w) of activation and gradient (..., channels, h, w): linear in the gradient."""


class ActivationRun(Run):
    """One batch's activation (N, channels, h, w), and the graph from there to the logits."""

    def __init__(self, method: ActivationMethod, state: State, logits: Tensor, layer: str, activation: Tensor) -> None:
        super().__init__(state, logits)
        self.layer = layer
        self.activation = activation.detach()
        self._method, self._graph = method, (logits, activation)

    def gradients(self, v: Tensor) -> Tensor:
        """Return the gradients (K, N, channels, h, w) at the layer for cotangents v (K, N, C)."""
        with self.again():
            return vjp(*self._graph, v)

    def explain_each(self, methods: Mapping[str, ActivationMethod], v: Tensor) -> dict[str, Tensor]:
        """Return the maps (K, N, h, w) of several methods for cotangents v (K, N, C): they share the backward passes."""
        activation, gradients = _at_least_float32(self.activation), _at_least_float32(self.gradients(v))
        return {name: torch.stack([rule.combine(activation, g) for g in gradients]) for name, rule in methods.items()}

    def _explain(self, v: Tensor, path: Callable[[Tensor], Tensor] | None) -> Tensor:
        return self.explain_each({"": self._method}, v)[""]


def _cut(model: nn.Module, images: Tensor, layer: str | nn.Module) -> tuple[str, Tensor, Tensor]:
    """Run forward with the graph beginning at the layer."""
    name, module = layers.resolve(model, layer)
    leaves: list[Tensor] = []

    def hook(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        _check_map(model, name, output)
        leaves.append(output.detach().clone().requires_grad_())
        return leaves[-1].clone()  # a copy goes on: an in-place ReLU behind the layer must not overwrite the activation

    handle = module.register_forward_hook(hook)
    try:
        logits = forward(model, images)
    finally:
        handle.remove()
    if len(leaves) != 1:
        raise WcxError(
            f"layer {name!r} ran {len(leaves)} times in a forward pass, expected once; try: {_others(model, name)}."
        )
    return name, leaves[0], logits


def _search(model: nn.Module, images: Tensor, _layer: None) -> tuple[str, Tensor, Tensor]:
    """Run forward with every convolution and block observed, and choose the layer afterwards."""
    seen: list[layers.Seen] = []
    with_weights: list[nn.Module] = []
    handles = []

    def observe(name: str) -> Callable[[nn.Module, object, object], Tensor | None]:
        def hook(module: nn.Module, _args: object, output: object) -> Tensor | None:
            if not isinstance(output, Tensor) or output.ndim != 4:
                return None
            seen.append(layers.Seen(name, module, output, output.clone()))
            return seen[-1].passed_on

        return hook

    for name, module in layers.modules(model).items():
        if any(isinstance(child, nn.Conv2d) for child in module.modules()):
            handles.append(module.register_forward_hook(observe(name)))
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            handles.append(module.register_forward_pre_hook(lambda module, _args: with_weights.append(module)))
    try:
        logits = forward(model, images.clone().requires_grad_())
    finally:
        for handle in handles:
            handle.remove()
    best = layers.find(model, seen, with_weights[-1] if with_weights else None, logits.shape[1])
    return best.name, best.output, logits


def _check_map(model: nn.Module, name: str, output: object) -> None:
    if isinstance(output, Tensor) and output.ndim == 4 and output.is_floating_point():
        return
    got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
    raise WcxError(f"layer {name!r} returns {got}, expected a map (N, channels, h, w); try: {_others(model, name)}.")


def _others(model: nn.Module, name: str) -> str:
    return ", ".join(other for other in layers.candidates(model) if other != name)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
