"""What a network calls in its forward pass, one torch function at a time.

DeepLIFT and LRP give a rule to every function. They see the calls through a TorchFunctionMode, whether a module or plain code
makes them, so that `F.relu`, `+` and a module that runs twice need no special care, and the model needs no hook.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import resolve_name

from wcx.methods._calls import tensors
from wcx.methods._flow import Reach

_DIMENSIONS = ("1d", "2d", "3d")

JOINS = frozenset(["cat", "concat", "concatenate"])

# Values change place, repeat or drop out, but are not changed; dropout does nothing in eval mode.
MOVES = frozenset(
    {"alias", "clone", "contiguous", "copy", "detach", "get", "getitem", "requires_grad"}
    | {"bfloat16", "cpu", "cuda", "double", "float", "half", "to", "type", "type_as"}
    | JOINS
    | {"dstack", "hstack", "stack", "vstack"}
    | {"chunk", "dsplit", "hsplit", "split", "split_with_sizes", "tensor_split", "unbind", "vsplit"}
    | {
        "expand",
        "expand_as",
        "narrow",
        "index_select",
        "pad",
        "repeat",
        "repeat_interleave",
        "select",
        "take_along_dim",
        "tile",
    }
    | {"flatten", "reshape", "reshape_as", "squeeze", "unflatten", "unfold", "unsqueeze", "view", "view_as"}
    | {
        "flip",
        "fliplr",
        "flipud",
        "moveaxis",
        "movedim",
        "permute",
        "roll",
        "rot90",
        "swapaxes",
        "swapdims",
        "t",
        "transpose",
    }
    | {"channel_shuffle", "pixel_shuffle", "pixel_unshuffle"}
    | {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"}
)

# Linear in the input, with a weight and a bias.
LAYERS = frozenset(["linear", *map("".join, product(("conv", "conv_transpose"), _DIMENSIONS))])

# Linear in two inputs together, or affine in one with the other constant.
SUMS = frozenset(["add", "sub", "rsub"])

# Affine in one input as long as the others are constant.
AFFINE = frozenset(
    [
        *("mul", "div", "neg", "mean", "sum", "matmul", "mm", "bmm", "batch_norm", "interpolate", "upsample"),
        *("einsum", "scaled_dot_product_attention"),
        *map("_pool".join, product(("avg", "adaptive_avg"), _DIMENSIONS)),
    ]
)

# The number with which a function hands its one input on.
_NEUTRAL = {"add": 0, "sub": 0, "mul": 1, "div": 1}

# Bilinear in two inputs, by the function of that name in torch.
PRODUCTS = frozenset(["mul", "matmul", "mm", "bmm", "einsum"])

MAX_POOLS = frozenset(map("_pool".join, product(("max", "adaptive_max"), _DIMENSIONS)))

_SYNONYMS = {
    **dict.fromkeys(["iadd", "radd"], "add"),
    **dict.fromkeys(["isub", "subtract"], "sub"),
    **dict.fromkeys(["imul", "rmul", "multiply"], "mul"),
    **dict.fromkeys(["truediv", "itruediv", "idiv", "true_divide", "divide"], "div"),
    **{"imatmul": "matmul", "negative": "neg", "positive": "alias", "ipow": "pow", "clip": "clamp"},
}


class _Hole:
    """Stands where a tensor is to be filled in."""


@dataclass(frozen=True)
class Call:
    """One call of a torch function.

    Attributes:
        function, args, kwargs: as the mode saw them.
        image: tells what depends on the image.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    image: Reach = field(default_factory=Reach)

    @cached_property
    def name(self) -> str:
        """The function's name without the marks of operators and in-place variants: "add" for add_, __iadd__ and __radd__."""
        bare = getattr(self.function, "__name__", "").strip("_")
        return _SYNONYMS.get(bare, bare)

    @property
    def full_name(self) -> str:
        """The name for messages, such as torch.nn.functional.layer_norm."""
        return resolve_name(self.function) or self.name

    @cached_property
    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments, in order."""
        return tensors((self.args, self.kwargs))

    @cached_property
    def dependent(self) -> list[bool]:
        """Which of them depend on the image: none where gradients are off."""
        return [torch.is_grad_enabled() and tensor in self.image for tensor in self.tensors]

    @cached_property
    def inputs(self) -> list[Tensor]:
        """Those of them that do; one that stands twice, as in x * x, is here twice."""
        return [tensor for tensor, dependent in zip(self.tensors, self.dependent, strict=True) if dependent]

    def argument(self, position: int, name: str) -> Any:
        """Return what was given at `position` or by `name`; None if nothing was."""
        return self.args[position] if position < len(self.args) else self.kwargs.get(name)

    def __call__(self) -> Any:
        """Return what the function returns."""
        return self.function(*self.args, **self.kwargs)

    def on(self, *values: Tensor) -> Any:
        """Return what the function makes of `values` in place of its inputs; written into them, if it is such a function."""
        return _filled(self.function, self._form, self._with(values))

    def fresh(self) -> tuple[Any, bool]:
        """Return the function's value, on copies of what it could write into, and whether it wrote it there."""
        tensors = self._with([tensor.detach().clone() for tensor in self.inputs])
        value = _filled(self.function, self._form, tensors)
        return value, value is tensors[0]

    def alone(self, *, in_place: bool) -> Callable[..., Tensor]:
        """Return `on` as a function that lasts, in float32 or finer, and writes nowhere, if it did `in_place`.

        It holds neither an input nor anything that the network may write into.
        """
        function, form = getattr(torch, self.name) if in_place else self.function, self._form
        constants = [
            None if dependent else lasting(tensor)
            for tensor, dependent in zip(self.tensors, self.dependent, strict=True)
        ]

        def alone(*values: Tensor) -> Tensor:
            supply = iter(values)
            return _filled(function, form, [next(supply) if tensor is None else tensor for tensor in constants])

        return alone

    @cached_property
    def _form(self) -> Any:
        """The arguments with holes for their tensors."""
        return _mapped((self.args, self.kwargs), Tensor, lambda _: _Hole())

    def _with(self, values: Iterable[Tensor]) -> list[Tensor]:
        """Return the tensors with `values` in place of the inputs, the first one copied if it is none: it may be written into."""
        supply = iter(values)
        return [
            next(supply) if dependent else tensor if i else tensor.detach().clone()
            for i, (tensor, dependent) in enumerate(zip(self.tensors, self.dependent, strict=True))
        ]


def depends(value: Any, image: Reach) -> bool:
    """Tell whether `value`, what a function returned, holds a tensor that depends on the image."""
    return any(tensor in image for tensor in tensors(value))


def is_affine(call: Call) -> bool:
    """Tell whether the function is affine in the image's part of its arguments, taken together."""
    if call.name in MOVES or call.name in SUMS:
        return True
    if call.name not in LAYERS | AFFINE or len(call.inputs) != 1:
        return False
    if call.name == "batch_norm":  # not with the statistics of the batch itself
        return not call.argument(5, "training")
    if call.name == "div":
        return call.inputs[0] is call.argument(0, "input") and not call.kwargs.get("rounding_mode")
    if call.name == "scaled_dot_product_attention":
        return call.inputs[0] is call.argument(2, "value")
    return True


def is_neutral(call: Call) -> bool:
    """Tell whether an affine function of one input hands it on for the number that stands beside it, as in x * 1."""
    number = call.argument(1, "other")
    return len(call.tensors) == 1 and isinstance(number, (int, float)) and number == _NEUTRAL.get(call.name)


def precise(x: Tensor) -> Tensor:
    """Return `x` in float32 if it is coarser."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def lasting(constant: Tensor) -> Tensor:
    """Return a constant that lasts, in float32 or finer: networks may write into what is no parameter."""
    value = precise(constant.detach())
    return value.clone() if value.dtype == constant.dtype and not isinstance(constant, nn.Parameter) else value


def opened(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of torch.nn.functional that does not hand itself over as a whole: a mode sees the calls it makes."""
    checks = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    namespace = {**function.__globals__, **dict.fromkeys(checks, lambda *_: False)}
    inside = FunctionType(function.__code__, namespace, function.__name__, function.__defaults__, function.__closure__)
    inside.__kwdefaults__ = function.__kwdefaults__
    return inside


def attach(value: Tensor, surrogate: Tensor) -> Tensor:
    """Return `value` (without a graph) with the graph of `surrogate`: its gradient takes the place of the function's own."""
    return value + (surrogate - surrogate.detach()).to(value.dtype)


def deliver(call: Call, value: Tensor, in_place: bool) -> Tensor:
    """Return `value` as the call's result: written into its first tensor, if the function works in place."""
    return call.tensors[0].copy_(value) if in_place else value


def _mapped(value: Any, kind: type, function: Callable[[Any], Any]) -> Any:
    """Return `value` with `function` of what is of `kind`, in the order of `tensors`."""
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, (tuple, list)):
        items = [_mapped(item, kind, function) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        return {key: _mapped(item, kind, function) for key, item in value.items()}
    return value


def _filled(function: Callable[..., Any], form: Any, tensors: Iterable[Tensor]) -> Any:
    """Return what a function makes of `tensors` in the holes of its arguments."""
    supply = iter(tensors)
    args, kwargs = _mapped(form, _Hole, lambda _: next(supply))
    return function(*args, **kwargs)
