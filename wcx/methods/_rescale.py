"""The multipliers of DeepLIFT (Shrikumar et al. 2017), function by function, while the network runs.

A multiplier m of a function from x to y satisfies m (x - x') = y - y', where x' and y' are what the reference image has there.
Every function keeps its value and gets m as its gradient, so that a backward pass chains the multipliers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from wcx.errors import WcxError
from wcx.methods._flow import Reach
from wcx.methods._functions import MAX_POOLS, PRODUCTS, Call, attach, deliver, depends, is_affine
from wcx.methods._watch import Watch

# Elementwise functions. The first keep x, change its sign or replace it: their difference quotient loses no digits.
_EXACT = frozenset(["relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max", "abs"])
_KINKED = frozenset(["leaky_relu", "prelu", "rrelu", "elu", "celu", "selu"])  # smooth but for a kink at f(0) = 0
_SMOOTH = frozenset(
    ["sigmoid", "tanh", "silu", "gelu", "mish", "softplus", "log_sigmoid", "softsign", "exp", "square", "pow", "erf"]
)
_HARD = frozenset(["hardsigmoid", "hardswish"])

Rule = Callable[[Call, list[Tensor]], Tensor]


class Recorder(Watch):
    """Keeps the arguments of every function that has a rule: those of the reference image."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: deque[tuple[str, list[Tensor]]] = deque()

    def see(self, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        """Run the function as it is."""
        call = Call(func, args, kwargs)
        if call.name in _RULES:
            # Copied, since a later function may write in place.
            self.calls.append((call.full_name, [tensor.detach().clone() for tensor in call.tensors]))
        return call()


class Rescaler(Watch):
    """Gives every function its multiplier as gradient.

    Args:
        calls: what the `Recorder` saw.
        image: requires gradients; what the network computes from it gets multipliers.

    Attributes:
        eps: the precision of the coarsest dtype that came by.
    """

    def __init__(self, calls: deque[tuple[str, list[Tensor]]], image: Tensor) -> None:
        super().__init__()
        self.eps = 0.0
        self._calls, self._image = calls, Reach(image)

    def see(self, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        """Run the function, with its rule if it has one.

        Raises:
            WcxError: it has none and is not affine.
        """
        call = Call(func, args, kwargs, self._image)
        if call.name in _RULES:
            references = self._reference(call)
            result = _RULES[call.name](call, references) if call.inputs and not is_affine(call) else call()
        else:
            result = call()
            if call.inputs and depends(result, self._image) and not is_affine(call):
                raise _no_rule(call)
        if isinstance(result, Tensor) and result.is_floating_point():
            self.eps = max(self.eps, torch.finfo(result.dtype).eps)
        return result

    def _reference(self, call: Call) -> list[Tensor]:
        """Return the values that the reference image has in place of `call.inputs`."""
        name, references = self._calls.popleft() if self._calls else ("nothing", [])
        if name != call.full_name or [tensor.shape for tensor in references] != [
            tensor.shape for tensor in call.tensors
        ]:
            raise WcxError(
                f"deeplift: the network calls {call.full_name} for the image but {name} for the reference, so that their "
                "activations cannot be compared; use integrated_gradients."
            )
        return [tensor for tensor, dependent in zip(references, call.dependent, strict=True) if dependent]


def _no_rule(call: Call) -> WcxError:
    return WcxError(
        f"deeplift: the network calls {call.full_name}, for which there is no rescale rule; use integrated_gradients."
    )


def _elementwise(call: Call, references: list[Tensor]) -> Tensor:
    """The rescale rule: m = (f(x) - f(x')) / (x - x')."""
    if len(call.inputs) != 1:
        raise _no_rule(call)
    x, x0 = call.inputs[0], references[0]
    value, in_place = call.fresh()

    def f(t: Tensor) -> Tensor:
        return call.on(t.clone())

    here = x.detach()
    if call.name in _HARD:
        slope = _quotient(lambda t: t.clamp(-3, 3), here, x0, near=here == x0) / 6  # of g(x) = (clamp(x) + 3) / 6
        if call.name == "hardswish":  # x g(x)
            slope = (F.hardsigmoid(here) + F.hardsigmoid(x0)) / 2 + (here + x0) / 2 * slope
    else:
        # Where x is near x', the quotient cancels, while f' in the middle is off by f''' (x - x')^2 / 24: the two errors
        # cross where the distance is the cube root of the precision.
        near = here == x0
        if call.name not in _EXACT:
            near |= (here - x0).abs() <= torch.finfo(x.dtype).eps ** (1 / 3)
        if call.name in _KINKED:
            near &= here.sign() == x0.sign()
        slope = _quotient(f, here, x0, near)
    return deliver(call, attach(value, slope * x), in_place)


def _quotient(f: Callable[[Tensor], Tensor], x: Tensor, x0: Tensor, near: Tensor) -> Tensor:
    """Return (f(x) - f(x0)) / (x - x0), and f' half way between them where they are `near`."""
    with torch.enable_grad():
        middle = ((x + x0) / 2).requires_grad_()
        (derivative,) = torch.autograd.grad(f(middle).sum(), middle)
    return torch.where(near, derivative, (f(x) - f(x0)) / torch.where(near, 1, x - x0))


def _product(call: Call, references: list[Tensor]) -> Tensor:
    """The product rule, symmetrised: x y - x' y' = (x - x') (y + y') / 2 + (x + x') / 2 (y - y'), exactly.

    Not in the paper, which knows no product of two activations (gates, as in squeeze-and-excitation).
    """
    if len(call.inputs) != 2:
        raise _no_rule(call)
    (x, y), (x0, y0) = call.inputs, references
    value, in_place = call.fresh()
    product = call.alone(in_place=in_place)
    surrogate = product(x, (y.detach() + y0) / 2) + product((x.detach() + x0) / 2, y)
    return deliver(call, attach(value, surrogate), in_place)


def _max_pool(call: Call, references: list[Tensor]) -> Tensor:
    """The change of each output goes to one input: the winner of the image where it is the larger one, else the reference's.

    The rule of captum, with the windows' shares added up where they overlap, and with ties in the reference settled by the
    image: a constant reference has ties everywhere, and rounding would settle them.
    """
    if len(call.inputs) != 1:
        raise _no_rule(call)
    x, x0 = call.inputs[0], references[0]
    spatial = int(call.name[-2])
    options = {key: value for key, value in call.kwargs.items() if key not in ("input", "return_indices")}

    def pool(t: Tensor) -> tuple[Tensor, Tensor]:
        return getattr(F, call.name)(t, *call.args[1:], **options, return_indices=True)

    def at(t: Tensor, index: Tensor) -> Tensor:
        return t.flatten(-spatial).gather(-1, index.flatten(-spatial)).view_as(index)

    (y, winner), (y0, winner0) = pool(x.detach()), pool(x0)
    settled = pool(_with_tie_break(x0, x.detach()))[1]
    winner0 = torch.where(y0 - at(x0, settled) <= (y0 - y) / 4, settled, winner0)
    winner = torch.where(y >= y0, winner, winner0)
    chosen = at(x, winner)
    change = chosen.detach() - at(x0, winner)
    slope = torch.where(change == 0, 1, (y - y0) / torch.where(change == 0, 1, change))  # in [0, 4/3]
    return attach(y, slope * chosen)


def _with_tie_break(first: Tensor, second: Tensor) -> Tensor:
    """Return float64 values in the order of `first` and, where that agrees to 1/2048, of `second`.

    The same in every precision, and far above float32's rounding after many layers.
    """
    scale = 2.0**11
    mantissa, exponent = torch.frexp(first.double())
    coarse = torch.ldexp((mantissa * scale).round() / scale, exponent)
    return coarse + coarse.abs() / (4 * scale) * F.softsign(second.double())


_RULES: dict[str, Rule] = {
    **dict.fromkeys(_EXACT | _KINKED | _SMOOTH | _HARD, _elementwise),
    **dict.fromkeys(PRODUCTS, _product),
    **dict.fromkeys(MAX_POOLS, _max_pool),
}
