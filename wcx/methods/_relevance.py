"""Layer-wise relevance propagation, function by function, while the network runs.

Every function keeps its value and gets a rule in place of its gradient, so that a backward pass seeded with relevance at the
logits ends with relevance at the image. The rules are zennit's; here is which call gets which, whether a module or plain code
makes it:

- convolution, linear: the composite's rule. A BatchNorm of their output is merged into them first (canonisation), for this run
  alone: the model's own parameters are never touched.
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
from wcx.methods._functions import LAYERS, MAX_POOLS, MOVES, SUMS, Call, attach, deliver, depends, is_affine

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


@dataclass(frozen=True)
class Rules:
    """The rules of a composite: of convolutions, of linear layers, of all other affine functions, of the first convolution."""

    convolution: BasicHook
    linear: BasicHook
    other: BasicHook
    first: BasicHook | None = None


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
    """Gives every function its rule."""

    def __init__(self, rules: Rules, ledger: Ledger) -> None:
        super().__init__()
        self.eps = 0.0
        self._rules, self._ledger = rules, ledger
        self._first = rules.first is not None  # no convolution has come by yet
        self._last: tuple[Tensor, int, Tensor, _Layer, BasicHook] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function, with its rule if it has one.

        Raises:
            WcxError: there is none for it.
        """
        call = Call(func, args, kwargs or {})
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
        if depends(result):
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
        add, alpha = getattr(torch, call.name), call.kwargs.get("alpha", 1)
        layer = _Function(lambda t: add(*t.unbind(-1), alpha=alpha))
        return deliver(call, self._node(both, lambda: value, layer, self._rules.other), in_place)

    def _affine(self, call: Call) -> Tensor:
        x = call.inputs[0]
        value, in_place = call.fresh()
        if self._first and call.name in _ELEMENTWISE and value.shape == x.shape:
            # Before a box rule, which bounds what the first convolution sees, relevance stays with its pixel.
            return deliver(call, attach(value, x), in_place)
        layer = _Function((Call(getattr(torch, call.name), call.args, call.kwargs) if in_place else call).alone())
        # Copied, since the network may write into x later on.
        return deliver(call, self._node(x.clone(), lambda: value, layer, self._rules.other), in_place)

    def _layer(self, call: Call) -> Tensor:
        given = _bound(call, "input", "weight", "bias")
        x = given.pop("input")
        if not depends(x):  # an activation in place of the weight
            return self._harmless(call)
        layer = _Layer(call.function, given.pop("weight"), given.pop("bias", None), call.args[3:], given)
        rule = self._rules.linear if call.name == "linear" else self._rules.convolution
        if self._first and call.name != "linear":
            rule, self._first = self._rules.first, False
        value = self._node(x, lambda: call.on(x.detach()), layer, rule)
        mergeable = not call.name.startswith("conv_transpose") and (call.name != "linear" or value.ndim == 2)
        self._last = (value, value._version, x, layer, rule) if mergeable else None
        return value

    def _batch_norm(self, call: Call) -> Tensor:
        """Merge BatchNorm into the layer whose very output it normalises, else treat it as an affine function."""
        given = _bound(call, "input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
        h = given["input"]
        if self._last is None or self._last[0] is not h or self._last[1] != h._version:
            return self._affine(call)
        _, _, x, layer, rule = self._last
        norm = {key: _precise(value.detach()) if isinstance(value, Tensor) else value for key, value in given.items()}
        del norm["input"]
        # Where a rule leaves the parameters alone, merging them would only change the denominators' rounding.
        function = call.function
        together = _Function(lambda t: function(layer(t), **norm))
        return self._node(
            x, lambda: call.on(h.detach()), together if isinstance(rule, Epsilon) else layer.merged(norm), rule
        )

    def _node(self, x: Tensor, value: Callable[[], Tensor], layer: nn.Module, rule: BasicHook) -> Tensor:
        return _Rule.apply(x, value, layer, rule, self._ledger)


class UntilConvolution(TorchFunctionMode):
    """Stops the network at its first convolution; `seen` is then its input."""

    class Reached(BaseException):
        """The convolution is reached. No Exception, since it is no error, and the network might catch those."""

    seen: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function, or stop."""
        call = Call(func, args, kwargs or {})
        if call.name in LAYERS and call.name != "linear":
            self.seen = call.tensors[0]
            raise self.Reached
        return call()


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
        below = _precise(x)
        rule.stored_tensors["input"] = (below,)
        try:
            with torch.autocast(x.device.type, enabled=False):
                below = rule.backward(layer, (below,), (relevance.to(below.dtype),))[0]
        finally:
            rule.stored_tensors.clear()
        ledger.enter(relevance, below)
        return below.to(x.dtype), None, None, None, None


class _Function(nn.Module):
    """A function of one tensor as a layer without parameters."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, x: Tensor) -> Tensor:
        return self._function(x)


class _Layer(nn.Module):
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
        self.weight = nn.Parameter(_precise(weight.detach()), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(_precise(bias.detach()), requires_grad=False)
        self._call = function, args, kwargs

    def forward(self, x: Tensor) -> Tensor:
        function, args, kwargs = self._call
        return function(x, self.weight, self.bias, *args, **kwargs)

    def merged(self, norm: dict[str, Any]) -> _Layer:
        """Return this layer followed by a BatchNorm with the arguments `norm`."""
        scale = (norm["running_var"] + norm.get("eps", 1e-5)).rsqrt()
        if norm.get("weight") is not None:
            scale = scale * norm["weight"]
        bias = scale * ((0 if self.bias is None else self.bias) - norm["running_mean"])
        if norm.get("bias") is not None:
            bias = bias + norm["bias"]
        function, args, kwargs = self._call
        return _Layer(function, self.weight * scale.view(-1, *[1] * (self.weight.ndim - 1)), bias, args, kwargs)


def _bound(call: Call, *names: str) -> dict[str, Any]:
    return dict(zip(names, call.args, strict=False)) | call.kwargs


def _precise(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _per_image(relevance: Tensor, n: int) -> Tensor:
    return relevance.reshape(n, -1).sum(1, dtype=torch.float64)
