"""The forward pass up to and from a named layer: the graph begins at what the layer returns, whoever refers to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from wcx.errors import WcxError
from wcx.methods import layers
from wcx.methods._axes import Dims, Layout, layout
from wcx.methods._calls import storage, tensors
from wcx.methods._state import buffers_of
from wcx.methods._trace import Trace
from wcx.methods.base import forward


@dataclass
class Activation:
    """What a layer returned in a forward pass, and the graph from there to the logits.

    Attributes:
        layer: its name.
        value: (N, channels, h, w), detached.
        start: where gradients are taken: with respect to the value as the layer returned it, in the layer's own layout.
        layout: how that is to be read as (N, channels, h, w).
        logits: (N, C).
        tokens: the network has linear layers that act at many places.
        hooked: the network has its tensors' gradients handed to it.
    """

    layer: str
    value: Tensor
    start: Tensor | GradientEdge
    layout: Layout
    logits: Tensor
    tokens: bool
    hooked: bool

    @classmethod
    def of(
        cls,
        layer: str,
        value: Tensor,
        start: Tensor | GradientEdge,
        layout: Layout,
        logits: Tensor,
        trace: Trace | None = None,
    ) -> Activation:
        """Return the activation of a value in the layer's own layout; trace: of the pass, if one was taken."""
        tokens, hooked = (trace.linears > 0, trace.hooked) if trace else (False, False)
        return cls(layer, layout.maps(value.detach()), start, layout, logits, tokens, hooked)

    @property
    def edge(self) -> GradientEdge:
        """Where gradients are taken, in the graph."""
        return get_gradient_edge(self.start) if isinstance(self.start, Tensor) else self.start


class Start:
    """Lets the graph of a forward pass begin at what a layer returns.

    Args:
        model: the model, `evaluated`.
        n: images.
        trace: that follows the axes, if one does.

    Attributes:
        outputs: what the layer returned, one a call.
        leaf: a copy of the first output, where the graph begins; None if that was no map.
        dims: its axes, by the trace.
        handed_on: the layer returned its input, unchanged.
        with_gradients: they were on where the layer ran.
    """

    def __init__(self, model: nn.Module, n: int, trace: Trace | None = None) -> None:
        self._model, self._n, self._trace = model, n, trace
        self._versions: list[int] = []
        self.outputs: list[object] = []
        self.leaf: Tensor | None = None
        self.dims: Dims = ()
        self.handed_on = self.with_gradients = False

    @contextmanager
    def at(self, module: nn.Module) -> Iterator[None]:
        """Let the graph of the forward pass in here begin at a module."""
        before = module.register_forward_pre_hook(self._before, with_kwargs=True)
        after = module.register_forward_hook(self._after, with_kwargs=True)
        try:
            yield
        finally:
            before.remove()
            after.remove()

    def _before(self, _module: nn.Module, arguments: tuple, keywords: dict[str, object]) -> None:
        self._versions = [_version(t) for t in tensors((arguments, keywords))]

    def _after(self, _module: nn.Module, arguments: tuple, keywords: dict[str, object], output: object) -> object:
        value = layers.first(output)
        self.outputs.append(value)
        if len(self.outputs) > 1 or not isinstance(value, Tensor) or not layers.is_map(value, self._n):
            return None
        with torch._C.DisableTorchFunction():  # what follows is not the network's
            inputs = zip(tensors((arguments, keywords)), self._versions, strict=True)
            unwritten = {storage(t) for t, version in inputs if _version(t) == version}
            self.dims = self._trace.dims(value) if self._trace else ()
            self.handed_on = storage(value) in unwritten
            self.with_gradients = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
            self.leaf, following = graft(self._model, value, self._trace, handed_on=self.handed_on)
        return layers.with_first(output, following)


def cut(model: nn.Module, images: Tensor, layer: str | nn.Module) -> Activation:
    """Run forward with the graph beginning at the layer.

    Raises:
        WcxError: no such layer, or not one map (N, channels, h, w), in whichever layout, for each image.
    """
    name, module = layers.resolve(model, layer, images)
    if isinstance(module, torch.jit.ScriptModule):
        raise WcxError(f"layer {name!r} is TorchScript, which takes no hooks; {_try(model, images, name)}.")
    trace = Trace(images)
    start = Start(model, len(images), trace)
    with start.at(module), trace:
        logits = forward(model, images)
    _check(model, images, name, start.outputs)
    assert start.leaf is not None, "it returned one map"
    if (arranged := layout(start.dims, start.leaf.shape, len(images))) is None:
        untold = "which axis holds the channels" if start.leaf.ndim == 4 else "which place of the image each token is"
        raise WcxError(
            f"layer {name!r} returns shape {tuple(start.leaf.shape)}, and what the network does with it does not tell {untold}; "
            f"{_try(model, images, name)}."
        )
    return Activation.of(name, start.leaf, start.leaf, arranged, logits, trace)


def graft(
    model: nn.Module, output: Tensor, trace: Trace | None, *, attached: bool = False, handed_on: bool = False
) -> tuple[Tensor, Tensor]:
    """Make a layer's output depend on a copy of it, so that all who refer to the output count, also after writing into it.

    Args:
        attached: the copy depends on what came before; otherwise the graph begins with it.
        handed_on: the output is the layer's input, unchanged (Identity, Dropout in eval mode, a permutation): it counts only by
            what the layer hands on.

    Returns:
        source: the copy, which nobody else refers to: it keeps its value.
        following: what goes on through the network: the output itself wherever that can be written to.
    """
    without_gradients = not torch.is_grad_enabled()
    with torch.inference_mode(mode=False), torch.enable_grad():
        source = output.clone() if attached else output.detach().clone().requires_grad_()
        following = output.detach() if handed_on else output
        if _is_constant(model, output) or not _write(following, source):
            following = source.clone()
    if trace:
        trace.keep(following, trace.dims(output))
        if without_gradients:
            trace.watch(following)
    return source, following


def _is_constant(model: nn.Module, output: Tensor) -> bool:
    """Whether the output is a parameter or a buffer (or a view of one), or was made in inference mode: it is not written to."""
    base = output if output._base is None else output._base
    return (
        output.is_inference()
        or isinstance(base, nn.Parameter)
        or any(t is base for buffers in buffers_of(model) for t in buffers.values())
    )


def _write(target: Tensor, source: Tensor) -> bool:
    """Write a copy of its value into a tensor; say whether autograd allows it (not in parts of a split, or expanded ones)."""
    try:
        with torch.autograd._unsafe_preserve_version_counter(target):
            target.copy_(source)  # the value stays: nobody's saved tensor is spoilt
    except RuntimeError:
        return False
    return True


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _check(model: nn.Module, images: Tensor, name: str, outputs: list[object]) -> None:
    if len(outputs) != 1:
        lists = isinstance(layers.modules(model, aliases=True)[name], nn.ModuleList | nn.ModuleDict)
        why = " (a list of layers does not run itself)" if lists else ""
        raise WcxError(
            f"layer {name!r} ran {len(outputs)} times in a forward pass{why}, expected once; {_try(model, images, name)}."
        )
    output = outputs[0]
    if not layers.is_map(output, len(images)):
        got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise WcxError(
            f"layer {name!r} returns {got} for {len(images)} images, expected a map (N, channels, h, w) or tokens (N, T, C); "
            f"{_try(model, images, name)}."
        )


def _try(model: nn.Module, images: Tensor, name: str) -> str:
    return f"try: {', '.join(layers.candidates(model, images, but=name)) or 'a method that explains the input'}"
