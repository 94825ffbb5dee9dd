"""The forward pass up to and from a named layer: the graph begins at what the layer returns, whoever refers to it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from wcx.errors import WcxError
from wcx.methods import layers
from wcx.methods._axes import Layout, layout
from wcx.methods._calls import storage, tensors
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
    """

    layer: str
    value: Tensor
    start: Tensor | GradientEdge
    layout: Layout
    logits: Tensor

    @classmethod
    def of(cls, layer: str, value: Tensor, start: Tensor | GradientEdge, layout: Layout, logits: Tensor) -> Activation:
        """Return the activation of a value in the layer's own layout."""
        return cls(layer, layout.maps(value), start, layout, logits)


def cut(model: nn.Module, images: Tensor, layer: str | nn.Module) -> Activation:
    """Run forward with the graph beginning at the layer.

    Raises:
        WcxError: no such layer, or not one map (N, channels, h, w), in whichever layout, for each image.
    """
    name, module = layers.resolve(model, layer, images)
    if isinstance(module, torch.jit.ScriptModule):
        raise WcxError(f"layer {name!r} is TorchScript, which takes no hooks; {_try(model, images, name)}.")
    outputs: list[object] = []
    versions: list[int] = []
    leaf, dims = images, ()

    def before(_module: nn.Module, arguments: tuple, keywords: dict[str, object]) -> None:
        versions[:] = [_version(t) for t in tensors((arguments, keywords))]

    def after(_module: nn.Module, arguments: tuple, keywords: dict[str, object], output: object) -> object:
        nonlocal leaf, dims
        value = layers.first(output)
        outputs.append(value)
        if len(outputs) > 1 or not layers.is_map(value, len(images)):
            return None
        with torch._C.DisableTorchFunction():  # what follows is not the network's
            inputs = zip(tensors((arguments, keywords)), versions, strict=True)
            unwritten = {storage(t) for t, version in inputs if _version(t) == version}
            dims = trace.dims(value)
            leaf, following = graft(model, value, trace, handed_on=storage(value) in unwritten)
        return layers.with_first(output, following)

    trace = Trace(images)
    hooked = module.register_forward_pre_hook(before, with_kwargs=True)
    with hooked, module.register_forward_hook(after, with_kwargs=True), trace:
        logits = forward(model, images)
    _check(model, images, name, outputs)
    if (arranged := layout(dims, leaf.shape, len(images))) is None:
        untold = "which axis holds the channels" if leaf.ndim == 4 else "which place of the image each token is"
        raise WcxError(
            f"layer {name!r} returns shape {tuple(leaf.shape)}, and what the network does with it does not tell {untold}; "
            f"{_try(model, images, name)}."
        )
    return Activation.of(name, leaf.detach(), leaf, arranged, logits)


def graft(
    model: nn.Module, output: Tensor, trace: Trace, *, attached: bool = False, handed_on: bool = False
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
        or any(t is base for module in model.modules() for t in module._buffers.values())
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
