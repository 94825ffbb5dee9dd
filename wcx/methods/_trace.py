"""The axes of tensors, followed through the functions that a network calls.

A convolution's channels are its axis 1; a linear layer's, or a layer norm's, the last; a permutation moves them; most other
functions leave the axes where they are.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from wcx.methods import _axes
from wcx.methods._axes import DEFINITION, HABIT, Axis, Dims, Layout, of_map, regrouped, single
from wcx.methods._calls import FunctionCall, Held, storage, tensors, written
from wcx.methods._watch import Watch

_HOOKING = frozenset((Tensor.register_hook, Tensor.retain_grad))
_SIZES = (2, 3, 5, 7, 11, 13, 17, 19)  # of a probe: each tells its axis


class Trace(Watch):
    """Follows the axes of tensors through all functions called inside it; TorchScript's are out of its sight.

    Args:
        images: (N, channels, H, W), where it begins.
        copies: values that are held are copied at once.

    Attributes:
        convolutions: how many ran.
        linears: how many linear layers ran, each at many places.
        hooked: the network has its tensors' gradients handed to it.
    """

    def __init__(self, images: Tensor, *, copies: bool = False) -> None:
        super().__init__()
        self.convolutions = self.linears = 0
        self.hooked = False
        self._dims: dict[int, tuple[weakref.ref[Tensor], Dims]] = {}
        self._constants: list[weakref.ref[Tensor]] = []
        self._copies = copies
        self._held: defaultdict[int, list[Held]] = defaultdict(list)  # by the storage
        self.keep(images, of_map(frozenset([Axis()]), 4))

    def dims(self, tensor: Tensor) -> Dims:
        """Return the axes of each dimension of a tensor; new ones if it was not met before."""
        return self.met(tensor) or self.keep(tensor, tuple(frozenset([Axis()]) for _ in range(tensor.ndim)))

    def met(self, tensor: Tensor) -> Dims | None:
        """Return the axes of each dimension of a tensor, or None if it was not met before."""
        reference, dims = self._dims.get(id(tensor), (None, ()))
        return dims if reference is not None and reference() is tensor and len(dims) == tensor.ndim else None

    def layout(self, tensor: Tensor, n: int) -> Layout | None:
        """Return how a tensor of n images is to be read as maps, or None."""
        return _axes.layout(self.dims(tensor), tensor.shape, n)

    def keep(self, tensor: Tensor, dims: Dims) -> Dims:
        """Remember the axes of a tensor."""
        self._dims[id(tensor)] = weakref.ref(tensor), dims
        return dims

    def watch(self, tensor: Tensor) -> None:
        """Cut off the graph of a tensor made without gradients, should the network write into it without gradients."""
        self._constants.append(weakref.ref(tensor))

    def hold(self, tensor: Tensor) -> Held:
        """Return a tensor's value as it is now, whatever functions called in here write into the tensor."""
        held = Held(tensor)
        if self._copies:
            held.save()
        self._held[storage(tensor)].append(held)
        return held

    def _watched(self) -> list[Tensor]:
        if not self._constants or torch.is_grad_enabled():
            return []
        return [tensor for reference in self._constants if (tensor := reference()) is not None]

    def see(self, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        """Run the function, and follow the axes through it."""
        for tensor in written(func, args, kwargs) if self._held else ():
            for held in self._held.pop(storage(tensor), ()):
                held.save()
        self.hooked |= func in _HOOKING
        constants = [(t, t._version) for t in self._watched()]
        output = func(*args, **kwargs)
        for tensor, version in constants:
            if tensor._version != version and tensor.requires_grad:
                tensor.detach_()
        if (outputs := tensors(output)) and (inputs := tensors((args, kwargs))):
            name = _name(func)
            dims = _rule(name)(self, FunctionCall(func, name, args, kwargs, inputs, outputs))
            for tensor in outputs:
                if tensor.ndim == len(dims):
                    self.keep(tensor, dims)
        return output

    def of_maps(self, call: FunctionCall) -> Dims:
        """Functions of maps (N, channels, ...)."""
        x, y = call.inputs[0], call.outputs[0]
        if x.ndim < 2:
            return ()
        ndim, dims = _ndim(call.name), self.dims(x)
        if ndim in (None, x.ndim):
            for axis in dims[1]:
                axis.mark(channels=DEFINITION)
            for axis in frozenset().union(*dims[2:]):
                axis.mark(places=DEFINITION)
        self.convolutions += "conv" in call.name and y.ndim == 4
        return of_map(dims[0], y.ndim)

    def linear(self, call: FunctionCall) -> Dims:
        """A linear layer, or F.multi_head_attention_forward, which has one into and one out of it."""
        self.linears += 2 if call.name.startswith("multi") else call.inputs[0].ndim > 2
        return self.kept(call) if call.name.startswith("multi") else self.of_last(call)

    def of_last(self, call: FunctionCall) -> Dims:
        """Functions along the last axis, by habit the channels."""
        *kept, last = self.dims(call.inputs[0])
        axis = single(last)
        if axis is None or axis.places == DEFINITION:  # a product along places, or over merged axes: new channels
            axis = Axis()
        axis.mark(channels=HABIT)
        return (*kept, frozenset([axis]))

    def normalised(self, call: FunctionCall) -> Dims:
        """Norms over the last axis, or over several."""
        if len(call.argument(1, "normalized_shape")) == 1:
            self.of_last(call)
        return self.dims(call.inputs[0])

    def product(self, call: FunctionCall) -> Dims:
        """A matrix product: with a constant, a linear layer."""
        x, *factors = call.inputs
        if factors and self.met(factors[0]) is not None:
            return _axes.product((*self.dims(x)[:-1], self.dims(factors[0])[-1]))
        return self.linear(call)

    def reduced(self, call: FunctionCall) -> Dims:
        """Means and the like: over two axes, the places are pooled."""
        x, dim = call.inputs[0], call.argument(1, "dim", "axis")
        if x.ndim == 0 or isinstance(dim, bool) or not isinstance(dim, int | tuple | list):
            return ()
        dims = self.dims(x)
        over = {d % x.ndim for d in ((dim,) if isinstance(dim, int) else dim)}
        kept = [axes for d, axes in enumerate(dims) if d not in over]
        pooled = {axis for d in over for axis in _axes.untied(dims[d])}
        if 0 not in over and len(pooled) == 2:
            for axis in pooled:
                axis.mark(places=HABIT)
            if len(kept) == 2 and (axis := single(kept[1])):
                axis.mark(channels=HABIT)
        return dims if call.outputs[0].ndim == x.ndim else tuple(kept)

    def moved(self, call: FunctionCall) -> Dims:
        """Functions that change the order of axes: a probe shows how."""
        x = call.inputs[0]
        if x.ndim > len(_SIZES):
            return ()
        probe = torch.empty(_SIZES[: x.ndim], device="meta")
        keywords = {key: argument for key, argument in call.keywords.items() if argument is not x}
        shape = call.function(probe, *call.arguments[1:], **keywords).shape
        return tuple(self.dims(x)[_SIZES.index(size)] for size in shape)

    def reshaped(self, call: FunctionCall) -> Dims:
        """Functions that merge and split axes."""
        return regrouped(call.inputs[0].shape, self.dims(call.inputs[0]), call.outputs[0].shape)

    def indexed(self, call: FunctionCall) -> Dims:
        """x[...]: slices leave the axes where they are, numbers take one away, None adds one."""
        index = call.arguments[1] if isinstance(call.arguments[1], tuple) else call.arguments[1:]
        if not all(item is None or item is Ellipsis or type(item) in (int, slice) for item in index):
            return ()
        dims = list(self.dims(call.inputs[0]))
        untouched = len(dims) - sum(type(item) in (int, slice) for item in index)
        index = (*index, ...) if Ellipsis not in index else index
        indexed: list[frozenset[Axis]] = []
        for item in index:
            if item is None:
                indexed.append(frozenset())
                continue
            count, size = untouched if item is Ellipsis else 1, call.inputs[0].shape[-len(dims) or None :][:1]
            if type(item) is slice:
                indexed.append(_axes.sliced(dims[0], item, *size))
            elif item is Ellipsis:
                indexed += dims[:count]
            del dims[:count]
        return tuple(indexed)

    def stacked(self, call: FunctionCall) -> Dims:
        """Functions that add an axis."""
        dims, dim = list(self.dims(call.inputs[0])), call.argument(1, "dim") or 0
        dims.insert(dim % call.outputs[0].ndim, frozenset())
        return tuple(dims)

    def unstacked(self, call: FunctionCall) -> Dims:
        """Functions that take an axis away."""
        dims, dim = list(self.dims(call.inputs[0])), call.argument(1, "dim") or 0
        del dims[dim % len(dims)]
        return tuple(dims)

    def summed(self, call: FunctionCall) -> Dims:
        """torch.einsum: the letters tell."""
        operands, arrow, result = str(call.arguments[0]).replace(" ", "").partition("->")
        if not arrow or "." in operands:
            return ()
        letters = {
            letter: axes
            for operand, x in zip(operands.split(","), call.inputs, strict=True)
            for letter, axes in zip(operand, self.met(x) or (), strict=False)
        }
        return tuple(letters.get(letter, frozenset()) for letter in result)

    def concatenated(self, call: FunctionCall) -> Dims:
        """Concatenations: of tokens, the places follow those of no place."""
        ndim, dim = call.outputs[0].ndim, call.argument(1, "dim", "axis") or 0
        parts = [(t.shape[dim], self.met(t) or (frozenset(),) * ndim) for t in call.inputs if t.ndim == ndim]
        along = _axes.concatenated([(size, dims[dim]) for size, dims in parts])
        if along is None:
            return self.joined(call)
        dims = list(self.kept(call))
        dims[dim] = along
        return tuple(dims)

    def joined(self, call: FunctionCall) -> Dims:
        """Sums and products: what stands at the same axis is of the same kind."""
        first = self.kept(call)
        for t in call.inputs:
            dims = self.met(t)
            if dims is not None and dims is not first and len(dims) == len(first):
                for axes, further in zip(first, dims, strict=True):
                    if (axis := single(axes)) and (partner := single(further)):
                        axis.join(partner)
                first = tuple(axes or further for axes, further in zip(first, dims, strict=True))
                self.keep(t, first)
        return first

    def kept(self, call: FunctionCall) -> Dims:
        """Any function that returns as many axes as it takes."""
        ndim = call.outputs[0].ndim
        return next((dims for t in call.inputs if t.ndim == ndim and (dims := self.met(t)) is not None), ())

    def lost(self, call: FunctionCall) -> Dims:
        """Functions that change axes in a way that is not followed."""
        return ()


_MAPS = (  # functions of maps, by the beginnings of their names
    *("conv", "deform_conv", "batch_norm", "group_norm", "instance_norm", "local_response_norm"),
    *("max_pool", "avg_pool", "adaptive_", "lp_pool", "fractional_max_pool"),
    *("interpolate", "upsample", "pixel_", "channel_shuffle", "grid_sample", "fold"),
)
_RULES = {
    Trace.linear: "linear multi_head_attention_forward",
    Trace.normalised: "layer_norm rms_norm",
    Trace.product: "matmul bmm mm",
    Trace.reduced: "mean sum amax amin max min nanmean median logsumexp std var prod",
    Trace.moved: "permute transpose movedim moveaxis swapaxes swapdims t T mT H mH adjoint rot90",
    Trace.reshaped: "view reshape flatten unflatten squeeze unsqueeze view_as reshape_as",
    Trace.indexed: "getitem",
    Trace.joined: "add radd iadd sub rsub isub mul rmul imul div truediv itruediv where maximum "
    "minimum lerp addcmul copy",
    Trace.concatenated: "cat concat concatenate",
    Trace.stacked: "stack",
    Trace.unstacked: "unbind select",
    Trace.summed: "einsum",
    Trace.lost: "tensordot cdist kron as_strided set resize resize_as addmm baddbmm",
}


@lru_cache(1024)
def _rule(name: str) -> Callable[[Trace, FunctionCall], Dims]:
    if name.startswith(_MAPS):
        return Trace.of_maps
    return next((rule for rule, names in _RULES.items() if name in names.split()), Trace.kept)


@lru_cache(1024)
def _ndim(name: str) -> int | None:
    """Return how many dimensions a function of maps takes: 4 of conv2d; None of one for any number."""
    return next((int(letter) + 2 for letter in name if letter.isdigit()), None)


def _name(function: Callable[..., Any]) -> str:
    """Return a function's name without underscores: in-place, operator, or property (Tensor.T)."""
    name = getattr(function, "__name__", "")
    return getattr(function.__self__, "__name__", "") if name == "__get__" else name.strip("_")
