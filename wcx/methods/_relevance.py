"""Layer-wise relevance propagation, function by function, while the network runs.

Every function keeps its value and gets a rule in place of its gradient, so that a backward pass seeded with relevance at the
logits ends with relevance at the image. The rules are zennit's; here is which call gets which, whether a module or plain code
makes it:

- convolution, linear: the composite's rule. A BatchNorm of their output is merged into them first (canonisation), for this run
  alone: the model's own parameters are never touched. What feeds a BatchNorm is read from autograd's graph: copies, casts,
  backward hooks and calls in between do not matter, nor do reshapes and transpositions that leave every channel one channel.
  Whatever else the layer feeds keeps the layer's own output.
- all other affine functions (sums of two activations, average pooling, a BatchNorm elsewhere): the epsilon rule.
- elementwise activations: relevance passes, as zennit has it. Max pooling: to the winner.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from zennit.core import BasicHook
from zennit.rules import Epsilon

from wcx.errors import WcxError
from wcx.methods._box import Box
from wcx.methods._flow import Reach, follow
from wcx.methods._functions import (
    LAYERS,
    MAX_POOLS,
    MOVES,
    SUMS,
    Call,
    attach,
    deliver,
    depends,
    is_affine,
    is_neutral,
    lasting,
    precise,
)
from wcx.methods._layers import Function, Layer, Normalised

# zennit.types.Activation, by function; clamp is hardtanh.
_ACTIVATIONS = frozenset(
    {
        "relu",
        "relu6",
        "elu",
        "celu",
        "selu",
        "leaky_relu",
        "prelu",
        "rrelu",
        "gelu",
        "silu",
        "hardswish",
        "hardtanh",
        "clamp",
    }
    | {"sigmoid", "hardsigmoid", "log_sigmoid", "tanh", "softplus", "softsign", "threshold"}
    | {"hardshrink", "softshrink", "tanhshrink"}
)
_ELEMENTWISE = frozenset(["add", "sub", "mul", "div", "batch_norm"])
# The arguments of torch.nn.functional.batch_norm; torch.batch_norm has the weight and bias before the statistics.
_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
_TORCH_NORM = (*_NORM[:1], *_NORM[3:5], *_NORM[1:3], *_NORM[5:], "cudnn_enabled")


@dataclass(frozen=True)
class Rules:
    """The rules of a composite: of convolutions, of linear layers, of all other affine functions; the box of the image."""

    convolution: BasicHook
    linear: BasicHook
    other: BasicHook
    box: Box | None = None


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

    def enter(self, above: Tensor, below: Tensor) -> None:
        """A rule turned relevance `above` into `below`."""
        n = len(self.absorbed)
        self.absorbed += _per_image(above, n) - _per_image(below, n)
        self.size = torch.maximum(self.size, _per_image(above.abs(), n))


class Propagation(TorchFunctionMode):
    """Gives every function its rule.

    Args:
        rules: of the composite.
        ledger: gets what the rules absorb.
        image: requires gradients; what the network computes from it carries relevance.
    """

    def __init__(self, rules: Rules, ledger: Ledger, image: Tensor) -> None:
        super().__init__()
        self.eps = 0.0
        self._rules, self._ledger, self._image = rules, ledger, Reach(image)
        self._convolved = Reach()  # what a convolution lies behind
        self._layers: dict[Any, tuple[Tensor, Layer, BasicHook, torch.Size]] = {}  # by the node of their output

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function, with its rule if it has one.

        Raises:
            WcxError: there is none for it.
        """
        call = Call(func, args, kwargs or {}, self._image)
        result = self._rule(call)(call) if call.inputs else call()
        if isinstance(result, Tensor) and result.is_floating_point():
            self.eps = max(self.eps, torch.finfo(result.dtype).eps)
        return result

    def _rule(self, call: Call) -> Callable[[Call], Any]:
        if call.name in MOVES or call.name in MAX_POOLS:
            return Call.__call__
        if call.name in _ACTIVATIONS and len(call.inputs) == 1:
            return self._pass
        if call.name in SUMS and len(call.inputs) == 2:
            return self._sum
        if not is_affine(call):
            return self._harmless
        if call.name in LAYERS:
            return self._layer
        return self._batch_norm if call.name == "batch_norm" else self._affine

    def _harmless(self, call: Call) -> Any:
        """A function without a rule may only return what carries no relevance: a size, an index, a comparison."""
        result = call()
        if depends(result, self._image):
            what = " of two activations" if len(call.inputs) == 2 else ""
            raise WcxError(
                f"lrp: the network calls {call.full_name}{what}, for which there is no rule; use deeplift or "
                "integrated_gradients."
            )
        return result

    def _pass(self, call: Call) -> Tensor:
        value, in_place = call.fresh()
        return deliver(call, attach(value, call.inputs[0]), in_place)

    def _sum(self, call: Call) -> Tensor:
        """The sum of two activations, as zennit's canonizers have it: both stacked, and summed by a layer of its own."""
        value, in_place = call.fresh()
        both = torch.stack(torch.broadcast_tensors(*call.inputs), -1)
        add = call.alone(in_place=in_place)
        return deliver(
            call, self._node(both, value, Function(lambda t: add(*t.unbind(-1))), self._rules.other), in_place
        )

    def _affine(self, call: Call) -> Tensor:
        x = call.inputs[0]
        value, in_place = call.fresh()
        if is_neutral(call):  # a copy, also for a BatchNorm behind it
            return deliver(call, x.to(value.dtype, copy=True), in_place)
        if self._rules.box and call.name in _ELEMENTWISE and value.shape == x.shape and x not in self._convolved:
            # Before a box rule, which bounds what the first convolution sees, relevance stays with its pixel.
            return deliver(call, attach(value, x), in_place)
        layer = Function(call.alone(in_place=in_place))
        # Copied, since the network may write into x later on.
        return deliver(call, self._node(x.clone(), value, layer, self._rules.other), in_place)

    def _layer(self, call: Call) -> Tensor:
        given = _bound(call, "input", "weight", "bias")
        x = given.pop("input")
        if x not in self._image:  # an activation in place of the weight
            return self._harmless(call)
        weight, bias = (None if p is None else lasting(p) for p in (given.pop("weight"), given.pop("bias", None)))
        layer = Layer(call.function, weight, bias, call.args[3:], given)
        if call.name == "linear":
            rule = self._rules.linear
        elif self._rules.box and x not in self._convolved:
            rule = self._rules.box.rule(x)
        else:
            rule = self._rules.convolution
        x = x.clone()
        value = self._node(x, call.on(x.detach()), layer, rule)
        if call.name != "linear":
            self._convolved.add(value)
        if not call.name.startswith("conv_transpose"):
            self._layers[value.grad_fn] = x, layer, rule, value.shape
        return value

    def _batch_norm(self, call: Call) -> Tensor:
        """Merge BatchNorm into the layer whose output it normalises, else treat it as an affine function."""
        norm = _bound(call, *(_TORCH_NORM if call.function is torch.batch_norm else _NORM))
        h = norm.pop("input")
        source = follow(h, self._layers)
        if source is None:
            return self._affine(call)
        node, places = source
        x, layer, rule, shape = self._layers[node]
        channel = len(shape) - layer.weight.ndim + 1
        if not _keeps_channels(places, h.shape, shape, channel):
            return self._affine(call)
        norm = {key: lasting(item.detach()) if isinstance(item, Tensor) else item for key, item in norm.items()}
        # Where a rule leaves the parameters alone, merging them would only change the denominators' rounding.
        together = Normalised(layer, channel, call.function, norm) if isinstance(rule, Epsilon) else layer.merged(norm)
        value = call.on(h.detach())
        y = self._node(x, value if places is None else value.flatten()[places], together, rule)
        if layer.weight.ndim > 2:
            self._convolved.add(y)
        return y if places is None else y.flatten()[places.flatten().argsort()].view(h.shape)

    def _node(self, x: Tensor, value: Tensor, layer: nn.Module, rule: BasicHook) -> Tensor:
        return _Rule.apply(x, lambda: value, layer, rule, self._ledger)


class _Rule(torch.autograd.Function):
    """A value whose backward pass is a rule of zennit."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, value: Callable[[], Tensor], layer: nn.Module, rule: BasicHook, ledger: Ledger
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.parts = layer, rule, ledger
        return value()

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor | None, ...]:
        (x,), (layer, rule, ledger) = ctx.saved_tensors, ctx.parts
        below = precise(x)
        rule.stored_tensors["input"] = (below,)
        try:
            with torch.autocast(x.device.type, enabled=False):
                below = rule.backward(layer, (below,), (relevance.to(below.dtype),))[0]
        finally:
            rule.stored_tensors.clear()
        ledger.enter(relevance, below)
        return below.to(x.dtype), None, None, None, None


def _bound(call: Call, *names: str) -> dict[str, Any]:
    return dict(zip(names, call.args, strict=False)) | call.kwargs


def _keeps_channels(places: Tensor | None, to: torch.Size, shape: torch.Size, channel: int) -> bool:
    """Tell whether each channel of an output of `shape` is the same of dimension 1 at its `places` in a tensor of shape `to`."""
    if places is None:
        return channel == 1
    channels = torch.arange(shape[channel], device=places.device).view(-1, *[1] * (len(shape) - channel - 1))
    return bool((places // to[2:].numel() % to[1] == channels).all())


def _per_image(relevance: Tensor, n: int) -> Tensor:
    return relevance.reshape(n, -1).sum(1, dtype=torch.float64)
