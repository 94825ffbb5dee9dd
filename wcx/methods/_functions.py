"""What a network calls in its forward pass, one torch function at a time.

DeepLIFT and LRP give a rule to every function. They see the calls through a TorchFunctionMode, whether a module or plain code
makes them, so that `F.relu`, `+` and a module that runs twice need no special care, and the model needs no hook.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor
from torch.overrides import resolve_name

_DIMENSIONS = ("1d", "2d", "3d")

# Values change place, repeat or drop out, but are not changed; dropout does nothing in eval mode.
MOVES = frozenset(
    {"alias", "clone", "contiguous", "detach", "get", "getitem", "requires_grad"}
    | {"bfloat16", "cpu", "cuda", "double", "float", "half", "to", "type", "type_as"}
    | {"cat", "concat", "concatenate", "dstack", "hstack", "stack", "vstack"}
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
LAYERS = frozenset(
    ["linear", *(f"conv{d}" for d in _DIMENSIONS), *(f"conv_transpose{d}" for d in _DIMENSIONS)],
)

# Linear in two inputs together, or affine in one with the other constant.
SUMS = frozenset(["add", "sub", "rsub"])

# Affine in one input as long as the others are constant.
AFFINE = frozenset(
    [
        *("mul", "div", "neg", "mean", "sum", "matmul", "mm", "bmm", "batch_norm", "interpolate", "upsample"),
        *(f"{kind}_pool{d}" for kind in ("avg", "adaptive_avg") for d in _DIMENSIONS),
    ]
)

# Bilinear in two inputs, by the function of that name in torch.
PRODUCTS = frozenset(["mul", "matmul", "mm", "bmm"])

MAX_POOLS = frozenset(f"{kind}_pool{d}" for kind in ("max", "adaptive_max") for d in _DIMENSIONS)

_SYNONYMS = {
    **dict.fromkeys(["iadd", "radd"], "add"),
    **dict.fromkeys(["isub", "subtract"], "sub"),
    **dict.fromkeys(["imul", "rmul", "multiply"], "mul"),
    **dict.fromkeys(["truediv", "itruediv", "idiv", "true_divide", "divide"], "div"),
    **{"imatmul": "matmul", "negative": "neg", "positive": "alias", "ipow": "pow", "clip": "clamp"},
}


@dataclass(frozen=True)
class Call:
    """One call of a torch function.

    Attributes:
        function, args, kwargs: as the mode saw them.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)

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
        return list(_tensors((self.args, self.kwargs)))

    @cached_property
    def inputs(self) -> list[Tensor]:
        """Those of them that depend on the image; one that stands twice, as in x * x, is here twice."""
        return [tensor for tensor in self.tensors if _depends(tensor)]

    def __call__(self) -> Any:
        """Return what the function returns."""
        return self.function(*self.args, **self.kwargs)

    def on(self, value: Tensor) -> Any:
        """Return what the function makes of `value` in place of its one input; written into it, if it is such a function."""
        return self.alone()(value)

    def alone(self) -> Callable[[Tensor], Any]:
        """Return `on` as a function that lasts: it holds neither the input nor anything that the network may write into."""
        function, hole, first = self.function, object(), self.tensors[0]
        values = {id(one): hole for one in self.inputs}
        if id(first) not in values:
            values[id(first)] = first.detach().clone()
        args, kwargs = _replaced((self.args, self.kwargs), values)

        def on(value: Tensor) -> Any:
            filled, named = _replaced((args, kwargs), {id(hole): value})
            return function(*filled, **named)

        return on

    def fresh(self) -> tuple[Any, bool]:
        """Return the function's value, on copies of what it could write into, and whether it wrote it there."""
        copies = {id(one): one.detach().clone() for one in [self.tensors[0], *self.inputs]}
        args, kwargs = _replaced((self.args, self.kwargs), copies)
        value = self.function(*args, **kwargs)
        return value, value is copies[id(self.tensors[0])]


def depends(value: Any) -> bool:
    """Tell whether `value`, what a function returned, holds a tensor that depends on the image."""
    return any(_depends(tensor) for tensor in _tensors(value))


def is_affine(call: Call) -> bool:
    """Tell whether the function is affine in the image's part of its arguments, taken together."""
    if call.name in MOVES or call.name in SUMS:
        return True
    if call.name not in LAYERS | AFFINE or len(call.inputs) != 1:
        return False
    if call.name == "batch_norm":  # not with the statistics of the batch itself
        return not (call.kwargs["training"] if "training" in call.kwargs else (*call.args, *6 * [False])[5])
    if call.name == "div":
        return call.inputs[0] is call.args[0] and not call.kwargs.get("rounding_mode")
    return True


def attach(value: Tensor, surrogate: Tensor) -> Tensor:
    """Return `value` (without a graph) with the graph of `surrogate`: its gradient takes the place of the function's own."""
    return value + (surrogate - surrogate.detach()).to(value.dtype)


def deliver(call: Call, value: Tensor, in_place: bool) -> Tensor:
    """Return `value` as the call's result: written into its first tensor, if the function works in place."""
    return call.tensors[0].copy_(value) if in_place else value


def _depends(tensor: Tensor) -> bool:
    """A leaf is a parameter, never something computed: the image enters the network as a copy."""
    return tensor.requires_grad and not tensor.is_leaf


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from _tensors(one)
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))


def _replaced(value: Any, values: dict[int, Any]) -> Any:
    """Return `value` with what has its id in `values` replaced, within tuples, lists and dictionaries."""
    if id(value) in values:
        return values[id(value)]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_replaced(one, values) for one in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_replaced(one, values) for one in value)
    if isinstance(value, dict):
        return {key: _replaced(one, values) for key, one in value.items()}
    return value
