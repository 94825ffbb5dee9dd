"""What earlier passes have shown of a network: a pass that knows the layer and its axes needs two hooks, and no trace.

It is known of the network in whose modules nothing was exchanged, for images of the same shape; and each pass is checked, so that
a network that goes another way, or fails without the gradients in front of the layer, is searched anew.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from wcx.methods import _graph, layers
from wcx.methods._axes import Layout
from wcx.methods._cut import Activation, Start, cut
from wcx.methods._search import search
from wcx.methods._state import State, evaluated
from wcx.methods.base import forward

SIZE = 16  # so many layers and shapes of images a network
_PLAIN = frozenset((int, float, complex, str, bytes))  # refer to nothing, and so to no network
_BY_GRADIENTS = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.RNNBase)  # compute otherwise without


@dataclass(frozen=True)
class Known:
    """A layer in a network, and what a pass must have in common with the one that showed it.

    Attributes:
        layer, module: its name and itself.
        layout: how its output is to be read.
        sizes: shape and strides of its output for an image, number of classes.
        form: of the graph behind it, see `_graph.form`.
        found: it was found, not named.
        idle: places among the network's modules of those that did not run, if it was found: another could be found if they did.
    """

    layer: str
    module: weakref.ref[nn.Module]
    layout: Layout
    sizes: tuple[object, ...]
    form: tuple[tuple[str, int, tuple[int, ...]], ...]
    found: bool
    idle: tuple[int, ...]

    @classmethod
    def of(cls, model: nn.Module, activation: Activation, idle: Iterable[int], *, found: bool) -> Known | None:
        """Return what a pass has shown, or None where another might give other numbers."""
        module, edge = _module(model, activation.layer), activation.edge
        if module is None or activation.logits.grad_fn is None:
            return None
        by_gradients = any(isinstance(part, _BY_GRADIENTS) for part in model.modules())
        norm = len(activation.value) == 1 and (
            isinstance(module, nn.modules.batchnorm._BatchNorm) or "BatchNorm" in edge.node.name()
        )
        # Of a norm's output for one image, `base._laid_out` moves the gradient; other outputs of a function lead their own way.
        if activation.tokens or activation.layout.grid or by_gradients or norm or edge.output_nr or activation.hooked:
            return None
        n, channels, *places = activation.value.shape
        if channels in places:  # a network could turn the axes out of sight
            return None
        nodes = _graph.way(activation.logits, edge)
        raw = activation.value.movedim((0, 1, 2, 3), activation.layout.order)  # as the layer returned it
        return cls(
            activation.layer,
            weakref.ref(module),
            activation.layout,
            _sizes(raw, activation.logits),
            _graph.form(nodes, n),
            found,
            tuple(idle),
        )

    def again(self, model: nn.Module, images: Tensor, modules: Sequence[nn.Module]) -> Activation | None:
        """Run forward with the graph beginning at the layer; None if the network went another way, or failed.

        Args:
            modules: of the model.
        """
        module = self.module()
        if module is None or _module(model, self.layer) is not module:
            return None
        start = Start(model, len(images))
        try:
            with _observed([modules[place] for place in self.idle]) as ran, start.at(module):
                logits = forward(model, images, norms=any("BatchNorm" in name for name, *_ in self.form))
        except torch.OutOfMemoryError:  # a pass with a trace needs no less
            raise
        except Exception:  # the pass with a trace tells it, if it fails as well
            return None
        leaf = start.leaf
        if (
            leaf is None
            or len(start.outputs) > 1
            or not start.with_gradients
            or ran
            or (self.found and start.handed_on)
        ):
            return None
        if logits.grad_fn is None or _sizes(leaf, logits) != self.sizes:
            return None
        if _graph.form(_graph.way(logits, get_gradient_edge(leaf)), len(images)) != self.form:
            return None
        return Activation.of(self.layer, leaf, leaf, self.layout, logits)


def _sizes(output: Tensor, logits: Tensor) -> tuple[object, ...]:
    return output.shape[1:], output.stride()[1:], logits.shape[1]


def _module(model: nn.Module, layer: str) -> nn.Module | None:
    """Return the module of a name, or None, as where the name leaves a wrapper inside out."""
    try:
        return layers.inner(model).get_submodule(layer)
    except AttributeError:
        return None


@contextmanager
def _observed(modules: Sequence[nn.Module]) -> Iterator[set[int]]:
    """Yield the places of modules that run in here."""
    ran: set[int] = set()
    handles = [
        module.register_forward_pre_hook(lambda *_, place=place: ran.add(place))
        for place, module in enumerate(modules)
        if not isinstance(module, torch.jit.ScriptModule)  # takes no hooks
    ]
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class Memory:
    """What is known of a network.

    Attributes:
        structure: what stays the same as long as no part of a module is exchanged.
        plain: values whose identity is part of it, kept so that no other takes their place.
        known: by what was asked for; None of what cannot be known.
    """

    structure: list[tuple[object, ...]] = field(default_factory=list)
    plain: list[object] = field(default_factory=list)
    known: dict[Hashable, Known | None] = field(default_factory=dict)


_memories: weakref.WeakKeyDictionary[nn.Module, Memory] = weakref.WeakKeyDictionary()


def activation(
    state: State, images: Tensor, layer: str | nn.Module | None, cancels: Callable[[Tensor, Tensor], bool] | None
) -> Activation:
    """Run forward up to and from a layer: as `cut` does for one that is given, and `search` without.

    Args:
        state: of the model, `evaluated`.
        images: (N, channels, H, W).
        layer: by name or module, or None.
        cancels: see `search`.

    Raises:
        WcxError: see there.
    """
    model = state.model
    known = _known(state)
    by_name = layer is None or isinstance(layer, str)
    key = (
        layer if by_name else id(layer),
        cancels is not None,
        *(images.shape[1:], images.stride()[1:], images.dtype, images.device, len(images) == 1),
    )
    earlier = None if known is None else known.get(key)
    if known is not None and earlier is not None:
        if (by_name or earlier.module() is layer) and (again := earlier.again(model, images, state.modules)):
            return again
        known[key] = None
    new = known is not None and key not in known
    modules = state.modules if new and layer is None else ()
    with evaluated(model) if earlier else nullcontext(), _observed(modules) as ran:  # as if there had been no pass
        activation = search(model, images, cancels) if layer is None else cut(model, images, layer)
    if known is not None and new:
        if len(known) >= SIZE:
            known.clear()
        # A norm's layer is chosen by the images' values.
        by_values = layer is None and cancels and _graph.has_norm(activation.logits, activation.edge)
        known[key] = (
            None if by_values else Known.of(model, activation, set(range(len(modules))) - ran, found=layer is None)
        )
    return activation


def _known(state: State) -> dict[Hashable, Known | None] | None:
    """Return what is known of a model, to be added to; None of one with hooks, which may do anything."""
    if state.hooked:
        return None
    fields = [vars(module).values() for module in state.modules]
    structure = [
        (*module._modules.keys(), *map(id, (module, type(module), *module._modules.values(), *values)))
        for module, values in zip(state.modules, fields, strict=True)
    ]
    memory = _memories.get(state.model)
    if memory is None or memory.structure != structure:
        plain = [value for values in fields for value in values if type(value) in _PLAIN]
        memory = _memories[state.model] = Memory(structure, plain)
    return memory.known
