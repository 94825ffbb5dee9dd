"""The activation layer, found in the forward pass itself: the last convolutional activation that leads to the logits."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from wcx.errors import WcxError
from wcx.methods import _graph, layers
from wcx.methods._axes import Dims, channels
from wcx.methods._cut import Activation, graft
from wcx.methods._trace import Trace
from wcx.methods.base import DETACHED, forward

TOKENS = 3  # so many linear layers in a row, each at all places, and what was seen last by a convolution is no longer the image


@dataclass(eq=False)
class Seen:
    """What a call of a module returned.

    Attributes:
        value: a copy of the output, a tensor with four dimensions, as the module returned it.
        edge: where the graph goes on from there: in-place functions and other references change neither.
        dims: its axes.
        convolution: the module called a convolution itself, not through another module.
    """

    name: str
    value: Tensor
    edge: GradientEdge
    dims: Dims
    convolution: bool

    @property
    def places(self) -> tuple[int, ...]:
        """(h, w)."""
        axis = channels(self.dims)
        return () if axis is None else tuple(size for d, size in enumerate(self.value.shape) if d not in {0, axis})


def search(model: nn.Module, images: Tensor) -> Activation:
    """Run forward with every module observed, and choose the layer afterwards.

    Raises:
        WcxError: there is none, it runs more than once, or it is but the first step of a network of tokens.
    """
    start = (images.clone() if images.is_inference() else images.detach()).requires_grad_()
    trace = Trace(start)
    seen: list[Seen] = []
    maps: list[str] = []
    runs: Counter[str] = Counter()
    following_as: dict[object, Seen] = {}  # by the state in which the output went on: a block may hand it on
    calls: list[list[int]] = []  # of the modules that run: convolutions before, and inside of other modules

    def before(_name: str) -> None:
        calls.append([trace.convolutions, 0])

    def after(name: str, output: object) -> Tensor | None:
        earlier, inside = calls.pop()
        convolutions = trace.convolutions - earlier
        if calls:
            calls[-1][1] += convolutions
        runs[name] += 1
        with torch._C.DisableTorchFunction():  # what follows is not the network's
            if not layers.is_map(output, len(images)):
                return None
            if layers.has_places(output):
                maps.append(name)
            return note(name, output, convolutions > inside) if convolutions else None

    def note(name: str, output: Tensor, convolution: bool) -> Tensor:
        first, following = following_as.get(_state(output)), output
        if first is None:
            source = output
            if output._is_view() or output.grad_fn is None:  # a view's edge does not outlive writing into its base
                source, following = graft(model, output, trace, attached=output.grad_fn is not None)
            value = output.detach().clone() if source is output else source.detach()
            first = Seen(name, value, _edge(source), trace.dims(output), convolution)
            following_as[_state(following)] = first
        seen.append(replace(first, name=name, convolution=convolution))
        return following

    with layers.observed(model, after, before), trace:
        logits = forward(model, start)
    names = [name for name in maps if runs[name] == 1][-6:]
    best = find(seen, logits, names)
    if runs[best.name] > 1:
        raise WcxError(
            f"layer {best.name!r} runs more than once in a forward pass; name another: {', '.join(names) or 'none'}."
        )
    axis = channels(best.dims)
    return Activation(best.name, best.value.movedim(axis, 1), best.edge, axis, logits)


def _state(output: Tensor) -> object:
    """Return what stays the same as long as nobody writes into a tensor, with gradients or without."""
    return None if output.grad_fn is None else (_graph.key(_edge(output)), output._version)


def _edge(tensor: Tensor) -> GradientEdge:
    with torch.inference_mode(mode=False), torch.enable_grad():
        return get_gradient_edge(tensor)


def find(seen: list[Seen], logits: Tensor, names: list[str]) -> Seen:
    """Choose the last convolutional activation before pooling and classifier among what was seen in a forward pass.

    It is the output of the last convolution that leads to the logits (or of a block of convolutions that does, though they do not),
    whose map is larger than 1x1 and does not hold class scores, or rather of the largest block around it that keeps the map's size
    (a residual sum, a concatenation, its normalisation).

    Args:
        seen: outputs of convolutions and of the blocks that hold one, in the order of their completion.
        logits: (N, C). A convolution to C channels behind which no layer has weights is the classifier (as in SqueezeNet).
        names: layers to propose.

    Raises:
        WcxError: there is none.
    """
    if not logits.requires_grad:
        raise WcxError(DETACHED)
    proposed = f"name one: layer=... ({', '.join(names) or 'none returns a map'})"
    leading, behind = _graph.leading(logits), _graph.behind_weights(logits)
    maps = [s for s in seen if _graph.key(s.edge) in leading and math.prod(s.places) > 1]
    # Of a backbone that runs without gradients, no convolution leads to the logits; the block that holds them does.
    convolutions = [s for s in maps if s.convolution or not any(t.name.startswith(f"{s.name}.") for t in maps)]
    scores = [
        s
        for s in convolutions
        if _graph.key(s.edge) in behind and s.value.numel() == logits.numel() * math.prod(s.places)
    ]
    convolutions = [s for s in convolutions if s not in scores]
    if not convolutions:
        raise WcxError(f"found no convolutional activation in the model; {proposed}.")
    best = convolutions[-1]
    around = [
        s
        for s in maps
        if best.name.startswith(f"{s.name}.")
        and s.places == best.places
        and not any(score.name.startswith(f"{s.name}.") for score in scores)
    ]
    if around:
        best = min(around, key=lambda s: s.name.count("."))
    nodes = _graph.way(logits, best.edge)
    if _graph.convolutions([node for node in nodes if (node, 0) not in behind]):
        raise WcxError(
            f"behind {best.name} there is a convolution in no module's sight (TorchScript, the network's own forward); {proposed}."
        )
    if (depth := _graph.linear_layers(nodes, len(logits))) >= TOKENS:
        raise WcxError(
            f"the last map of a convolution is {best.name}'s, and behind it {depth} linear layers in a row act on tokens (as in a "
            f"transformer): it is not what the network sees last; tokens are not supported; {proposed}, or explain the input."
        )
    # A block that only hands on what one inside it returned goes by the name of the one inside.
    return next(s for s in maps if _graph.key(s.edge) == _graph.key(best.edge))
