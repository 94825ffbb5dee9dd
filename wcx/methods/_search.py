"""The activation layer, found in the forward pass itself: the last convolutional activation that leads to the logits.

Of a network of tokens (a transformer, a mixer), it is the output of the last block whose patches the logits depend on.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from wcx.errors import WcxError
from wcx.methods import _graph, layers
from wcx.methods._axes import Dims, Layout, layout
from wcx.methods._calls import Held
from wcx.methods._cut import Activation, cut, graft
from wcx.methods._trace import Trace
from wcx.methods.base import DETACHED, forward, vjp

TOKENS = 3  # so many linear layers in a row, each at all places, and what was seen last by a convolution is no longer the image
BLOCK = 2  # linear layers at many places in a block of tokens, at least


@dataclass(eq=False)
class Seen:
    """What a call of a module returned.

    Attributes:
        held: the output, a map or tokens, as the module returned it.
        edge: where the graph goes on from there: in-place functions and other references change neither.
        dims: its axes.
        n: images.
        convolution: the module called a convolution itself, not through another module.
    """

    name: str
    held: Held
    edge: GradientEdge
    dims: Dims
    n: int
    convolution: bool

    @property
    def value(self) -> Tensor:
        """What is held."""
        return self.held.value

    @cached_property
    def key(self) -> _graph.Edge:
        """What tells the edge from others."""
        return _graph.key(self.edge)

    @cached_property
    def layout(self) -> Layout | None:
        """How the value is to be read as maps, by all that the network did with it: asked for once that is known."""
        return layout(self.dims, self.value.shape, self.n)

    @property
    def tokens(self) -> int:
        """How many there are, of whatever place: 1 of a block that hands on the class token alone."""
        return math.prod(sorted(self.value.shape)[:-1]) // self.n

    @property
    def places(self) -> tuple[int, ...]:
        """(h, w)."""
        return () if self.layout is None else self.layout.places

    @property
    def is_map(self) -> bool:
        """Whether there is more than one place."""
        return math.prod(self.places) > 1


@dataclass
class OpenCall:
    """A call of a module that is running: what has run before it, and inside of other modules that it called.

    Attributes:
        convolutions, linears: that ran before.
        inside: convolutions that modules inside ran.
        blocks: there is a block of tokens inside.
    """

    convolutions: int
    linears: int
    inside: int = 0
    blocks: bool = False


def search(
    model: nn.Module, images: Tensor, cancels: Callable[[Tensor, Tensor], bool] | None, *, copied: bool = False
) -> Activation:
    """Run forward with every module observed, and choose the layer afterwards.

    Args:
        cancels: of activation and gradient (N, channels, h, w): the method has no map there. The norm behind the block is taken.
        copied: every output that may be chosen is copied at once, not only where the trace sees a function write into it.

    Raises:
        WcxError: there is none, it runs more than once, or it is but the first step of a network of tokens.
    """
    start = (images.clone() if images.is_inference() else images.detach()).requires_grad_()
    trace = Trace(start, copies=copied)
    seen: list[Seen] = []
    blocks: dict[_graph.Edge, Seen] = {}  # not one that hands on what another returned
    maps: list[layers.Ended] = []
    runs: Counter[str] = Counter()
    following_as: dict[object, Seen] = {}  # by the state in which the output went on: a block may hand it on
    calls: list[OpenCall] = []  # of the modules that run
    n, named = len(images), layers.modules(model)
    listed = layers.listed(model, named)

    def before(_name: str) -> None:
        calls.append(OpenCall(trace.convolutions, trace.linears))

    def after(name: str, output: object) -> object:
        call = calls.pop()
        convolutions = trace.convolutions - call.convolutions
        runs[name] += 1
        with torch._C.DisableTorchFunction():  # what follows is not the network's
            tensor = layers.first(output)
            is_map, places = layers.is_map(tensor, n), layers.shows_places(tensor, n, trace)
            block = name in listed and not call.blocks and trace.linears - call.linears >= BLOCK and is_map
            if calls:
                calls[-1].inside += convolutions
                calls[-1].blocks |= call.blocks or block
            if places:
                maps.append((name, trace.dims(tensor), tensor.shape))
            if not is_map or not (convolutions or block):
                return None
            noted, following = note(name, tensor, convolutions > call.inside)
            seen.extend([noted] * bool(convolutions))
            if block:
                blocks.setdefault(noted.key, noted)
            return layers.with_first(output, following)

    def note(name: str, output: Tensor, convolution: bool) -> tuple[Seen, Tensor]:
        state, following = _state(output), output
        if (first := following_as.get(state)) is not None:
            return replace(first, name=name, convolution=convolution), following
        source = output
        if output._is_view() or output.grad_fn is None:  # a view's edge does not outlive writing into its base
            source, following = graft(model, output, trace, attached=output.grad_fn is not None)
        first = Seen(name, trace.hold(source), _edge(source), trace.dims(output), n, convolution)
        following_as[state if following is output is source else _state(following)] = first
        return first, following

    with layers.observed(model, after, before, named), trace:
        logits = forward(model, start)
    names = layers.last_maps(maps, runs, n)
    best = find(seen, list(blocks.values()), logits, names)
    if runs[best.name] > 1:
        other = (
            f"name another: {', '.join(names)}" if names else "use a method that explains the input, such as gradient"
        )
        raise WcxError(f"layer {best.name!r} runs more than once in a forward pass; {other}.")
    if not best.held.save():  # written into out of the trace's sight, by TorchScript or an autograd function
        return search(model, images, cancels, copied=True)
    found = Activation.of(best.name, best.value, best.edge, best.layout, logits, trace)
    # A backward pass is asked for behind a norm alone.
    if (
        cancels
        and _graph.has_norm(logits, best.edge)
        and cancels(found.value, best.layout.maps(vjp(logits, best.edge, probe(logits)))[0])
    ):
        behind = layers.behind(best.name, maps)
        return cut(model, images, behind) if behind else found
    return found


def _state(output: Tensor) -> object:
    """Return what stays the same as long as nobody writes into a tensor, with gradients or without."""
    return None if output.grad_fn is None else (_graph.key(_edge(output)), output._version)


def _edge(tensor: Tensor) -> GradientEdge:
    if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():  # entering a mode takes longer than this
        return get_gradient_edge(tensor)
    with torch.inference_mode(mode=False), torch.enable_grad():
        return get_gradient_edge(tensor)


def find(seen: list[Seen], blocks: list[Seen], logits: Tensor, names: list[str]) -> Seen:
    """Choose the last convolutional activation before pooling and classifier among what was seen in a forward pass.

    It is the output of the last convolution that leads to the logits (or of a block of convolutions that does, though they do not),
    whose map is larger than 1x1 and does not hold class scores, or rather of the largest block around it that keeps the map's size
    (a residual sum, a concatenation, its normalisation). Where tokens follow, see `last_block`.

    Args:
        seen: outputs of convolutions and of the modules that hold one, in the order of their completion.
        blocks: likewise of blocks of tokens.
        logits: (N, C). A convolution to C channels behind which no layer has weights is the classifier (as in SqueezeNet).
        names: layers to propose.

    Raises:
        WcxError: there is none.
    """
    if not logits.requires_grad:
        raise WcxError(DETACHED)
    proposed = f"name one: layer=... ({', '.join(names) or 'none returns a map'})"
    leading, behind = _graph.leading(logits), _graph.behind_weights(logits)
    seen = [s for s in seen if s.key in leading]  # whose places are told where they matter: it takes time
    blocks = [s for s in blocks if s.key in leading and s.tokens > 1]

    def is_convolution(s: Seen) -> bool:
        # Of a backbone that runs without gradients, no convolution leads to the logits; the block that holds them does.
        inside = () if s.convolution else (part for part in seen if _holds(s, [part]))
        return s.is_map and not any(part.is_map for part in inside)

    behind_all = [s for s in seen if s.key in behind and is_convolution(s)]
    scores = [s for s in behind_all if s.value.numel() == logits.numel() * math.prod(s.places)]
    best = next((s for s in reversed(seen) if s not in scores and is_convolution(s)), None)
    if best is None:
        return last_block(blocks, logits, f"found no convolutional activation in the model; {proposed}.")
    around = [s for s in seen if _holds(s, [best]) and s.places == best.places and not _holds(s, scores)]
    if around:
        best = min(around, key=lambda s: s.name.count("."))
    nodes = _graph.way(logits, best.edge)
    if _graph.convolutions([node for node in nodes if (node, 0) not in behind]):
        raise WcxError(
            f"behind {best.name} there is a convolution in no module's sight (TorchScript, the network's own forward); {proposed}."
        )
    if (depth := _graph.linear_layers(nodes, len(logits))) >= TOKENS:
        message = (
            f"the last map of a convolution is {best.name}'s, and behind it {depth} linear layers in a row act on tokens (as in a "
            f"transformer), in no block of a list or sequence that returns a map or tokens; {proposed}, or explain the input."
        )
        return last_block(blocks, logits, message)
    if blocks and not best.layout.maps(vjp(logits, best.edge, probe(logits))).any():
        return last_block(blocks, logits, f"the logits do not depend on the places of {best.name}; {proposed}.")
    # A block that only hands on what one inside it returned goes by the name of the one inside.
    return next(s for s in seen if s.key == best.key and s.is_map)


def probe(logits: Tensor) -> Tensor:
    """Return a cotangent (1, N, C) that no network is made for."""
    return torch.randn((1, *logits.shape), generator=torch.Generator().manual_seed(0)).to(logits)


def _holds(layer: Seen, parts: Sequence[Seen]) -> bool:
    """Whether one of the parts is inside a layer."""
    return any(part.name.startswith(f"{layer.name}.") for part in parts)


def last_block(blocks: Sequence[Seen], logits: Tensor, message: str) -> Seen:
    """Choose the last block of tokens whose patches lead to the logits: behind a class token's last attention, none does.

    Args:
        blocks: those that lead to the logits, in the order of their completion.
        logits: (N, C).
        message: of the error, if there are none.

    Raises:
        WcxError: there is none, or its places are not known.
    """
    for block in reversed(blocks):
        gradient = vjp(logits, block.edge, probe(logits))
        if not gradient.any():
            raise WcxError(
                f"the gradient of the logits at {block.name} is 0 everywhere: is the classifier untrained, its weights 0?"
            )
        if block.layout is None:
            shape = tuple(block.value.shape)
            raise WcxError(
                f"block {block.name} returns {shape}, and which place of the image each token is cannot be told; {message}"
            )
        if block.layout.maps(gradient).any():
            return block
    if blocks:
        raise WcxError(
            f"in none of the {len(blocks)} blocks of tokens do the patches lead to the logits (behind {blocks[-1].name} it is the "
            f"class token alone); name a layer before the last attention, or explain the input."
        )
    raise WcxError(message)
