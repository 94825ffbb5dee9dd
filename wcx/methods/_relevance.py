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
- what transformers call, in composites that have rules for it: wcx/methods/_attention.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from wcx.errors import WcxError
from wcx.methods._attention import MULTI_HEAD, TRANSFORMERS, Attention
from wcx.methods._box import Box
from wcx.methods._flow import Reach, follow
from wcx.methods._functions import (
    JOINS,
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
    opened,
)
from wcx.methods._layers import Function, Layer, Normalised
from wcx.methods._shares import ByZennit, Ledger, Share, moved, shared
from wcx.methods._watch import Watch
from wcx.methods.base import say

if TYPE_CHECKING:
    from zennit.core import BasicHook

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
_GATES = frozenset(["sigmoid", "hardsigmoid"])  # not 0 where their argument is
_ELEMENTWISE = frozenset(["add", "sub", "mul", "div", "batch_norm"])
# The arguments of torch.nn.functional.batch_norm; torch.batch_norm has the weight and bias before the statistics.
_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
_TORCH_NORM = (*_NORM[:1], *_NORM[3:5], *_NORM[1:3], *_NORM[5:], "cudnn_enabled")


@dataclass(frozen=True)
class Rules:
    """The rules of a composite.

    Of convolutions, of linear layers, of all other affine functions; the box of the image; of what transformers call, if any.
    """

    convolution: BasicHook
    linear: BasicHook
    other: BasicHook
    box: Box | None = None
    attention: Attention | None = None


class UnruledError(WcxError):
    """A function has no rule.

    Attributes:
        attnlrp: another composite has one.
    """

    def __init__(self, line: str, *, attnlrp: bool) -> None:
        super().__init__(line)
        self.attnlrp = attnlrp


class Propagation(Watch):
    """Gives every function its rule.

    Args:
        rules: of the composite.
        ledger: gets what the rules absorb.
        image: requires gradients; what the network computes from it carries relevance.

    Attributes:
        eps: the precision of the coarsest dtype that came by.
        attends: whether a function came by without which there is no transformer.
    """

    def __init__(self, rules: Rules, ledger: Ledger, image: Tensor) -> None:
        super().__init__()
        self.eps, self.attends = 0.0, False
        self._rules, self._ledger, self._image = rules, ledger, Reach(image)
        self._tokens_first = False  # whether linear layers see tokens before images
        self._convolved = Reach()  # what a convolution lies behind
        self._layers: dict[Any, tuple[Tensor, Layer, BasicHook, torch.Size]] = {}  # by the node of their output

    def see(self, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        """Run the function, with its rule if it has one.

        Raises:
            WcxError: there is none for it.
        """
        call = Call(func, args, kwargs, self._image)
        result = self._rule(call)(call) if call.inputs else call()
        if isinstance(result, Tensor) and result.is_floating_point():
            self.eps = max(self.eps, torch.finfo(result.dtype).eps)
        return result

    def _rule(self, call: Call) -> Callable[[Call], Any]:
        if call.name in MOVES or call.name in MAX_POOLS:
            return self._joined if call.name in JOINS and len(call.inputs) < len(call.tensors) else Call.__call__
        if call.name in _ACTIVATIONS and len(call.inputs) == 1:
            return self._pass
        if call.name in SUMS and len(call.inputs) == 2:
            return self._sum
        if not is_affine(call):
            return self._attended if self._rules.attention and call.name in Attention.FUNCTIONS else self._harmless
        if call.name in LAYERS:
            return self._layer
        return self._batch_norm if call.name == "batch_norm" else self._affine

    def _harmless(self, call: Call) -> Any:
        """A function without a rule may only return what carries no relevance: a size, an index, a comparison."""
        result = call()
        if depends(result, self._image):
            what = " of two activations" if len(call.inputs) == 2 else ""
            ruled = call.name in Attention.FUNCTIONS and not self._rules.attention
            raise UnruledError(
                f"lrp: the network calls {call.full_name}{what}, for which there is no rule; use "
                f"{'composite=attnlrp' if ruled else 'deeplift'} or integrated_gradients.",
                attnlrp=ruled,
            )
        return result

    def _attended(self, call: Call) -> Any:
        """A function that transformers call."""
        self.attends |= call.name in TRANSFORMERS
        if call.name == MULTI_HEAD:
            return self._multi_head(call)
        held = self._rules.attention.held(call)
        if held is None:
            return call().detach()
        if held is not call:
            return self._rule(held)(held) if held.inputs else held()
        value, in_place = call.fresh()
        share = self._rules.attention.share(call, in_place=in_place)
        if share is None:
            return self._harmless(call)
        return deliver(call, self._shared(value, share, *(x.clone() for x in call.inputs)), in_place)

    def _multi_head(self, call: Call) -> Any:
        """Multi-head attention, call by call: its linear layers see (tokens, N, channels), or (tokens N, channels)."""
        before, self._tokens_first = self._tokens_first, True
        try:
            with self:
                return opened(call.function)(*call.args, **call.kwargs)
        finally:
            self._tokens_first = before

    def _pass(self, call: Call) -> Tensor:
        if call.name in _GATES and self._rules.attention and call.inputs[0].grad_fn in self._layers:
            say(
                f"lrp: a gate ({call.name} of a layer's output) hands its relevance on as it is, and the layer divides that by its "
                "output, which is 0 at a gate half open: maps may be larger than what they explain by powers of ten."
            )
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
        parameters, value = (given.pop("weight"), given.pop("bias", None)), call.on(x.detach())
        # Autocast rounds what the layer sees: a rule of other numbers would divide by other sums than the network's.
        x = x.to(value.dtype, copy=True)
        weight, bias = (None if p is None else lasting(p.to(value.dtype)) for p in parameters)
        layer = Layer(call.function, weight, bias, call.args[3:], given)
        if call.name == "linear":
            rule = self._rules.linear
        elif self._rules.box and x not in self._convolved:
            rule = self._rules.box.rule(x)
        else:
            rule = self._rules.convolution
        value = self._node(x, value, layer, rule, tokens_first=self._tokens_first and call.name == "linear")
        if call.name != "linear":
            self._convolved.add(value)
        if not call.name.startswith("conv_transpose"):
            self._layers[value.grad_fn] = x, layer, rule, value.shape
        return value

    def _batch_norm(self, call: Call) -> Tensor:
        """Merge BatchNorm into the layer whose output it normalises, else treat it as an affine function."""
        from zennit.rules import Epsilon

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

    def _joined(self, call: Call) -> Tensor:
        """Values joined with constants, which keep what relevance falls to them (a class token); joined tokens may come first."""
        share = moved(call.alone(in_place=False))
        inputs = (x.clone() for x in call.inputs)
        return self._shared(call().detach(), share, *inputs, tokens_first=(call.argument(1, "dim") or 0) == 0)

    def _node(
        self, x: Tensor, value: Tensor, layer: nn.Module, rule: BasicHook, *, tokens_first: bool = False
    ) -> Tensor:
        return self._shared(value, ByZennit(layer, rule), x, tokens_first=tokens_first)

    def _shared(self, value: Tensor, share: Share, *inputs: Tensor, tokens_first: bool = False) -> Tensor:
        return shared(value, share, self._ledger, tokens_first, *inputs)


def _bound(call: Call, *names: str) -> dict[str, Any]:
    return dict(zip(names, call.args, strict=False)) | call.kwargs


def _keeps_channels(places: Tensor | None, to: torch.Size, shape: torch.Size, channel: int) -> bool:
    """Tell whether each channel of an output of `shape` is the same of dimension 1 at its `places` in a tensor of shape `to`."""
    if places is None:
        return channel == 1
    channels = torch.arange(shape[channel], device=places.device).view(-1, *[1] * (len(shape) - channel - 1))
    return bool((places // to[2:].numel() % to[1] == channels).all())
