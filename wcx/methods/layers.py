"""The names of activation layers, and what a network's layers return.

Names refer to the inner network: the prefixes of wrappers (wcx.models.Normalized, DataParallel, torch.compile) are left out.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from wcx.errors import WcxError
from wcx.images import Normalized
from wcx.methods.base import forward

_WRAPPERS = (Normalized, nn.DataParallel, nn.parallel.DistributedDataParallel)


def inner(model: nn.Module) -> nn.Module:
    """Return the network inside any wrappers."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif isinstance(model, Normalized):
            model = model.model
        elif isinstance(model, _WRAPPERS):
            model = model.module
        else:
            return model


def modules(model: nn.Module, *, aliases: bool = False) -> dict[str, nn.Module]:
    """Return the inner network's modules by name, the network itself left out.

    Args:
        aliases: a module of several names goes by each of them, not by the first alone.
    """
    named = inner(model).named_modules(remove_duplicate=not aliases)
    return {re.sub(r"\._orig_mod(?=\.|$)", "", name): module for name, module in named if name}


def resolve(model: nn.Module, layer: str | nn.Module, images: Tensor | None = None) -> tuple[str, nn.Module]:
    """Return name and module of a layer given by either; a name may leave out the prefix of a wrapper of one's own.

    Args:
        images: (N, 3, H, W): one pass shows which layers there are to choose from, if the layer is none.

    Raises:
        WcxError: no such layer; the message lists candidates.
    """
    if not isinstance(layer, str | nn.Module):
        raise WcxError(f"layer is a {type(layer).__name__}; give one layer, by its name or as a module of the model.")
    named = modules(model, aliases=True)
    if isinstance(layer, nn.Module):
        for name, module in named.items():
            if module is layer:
                return name, module
        raise WcxError(f"the layer {type(layer).__name__} is not part of the model{_try(model, images)}.")
    if layer in named:
        return layer, named[layer]
    suffixed = [name for name in named if name.endswith(f".{layer}")]
    depth = min((name.count(".") for name in suffixed), default=0)
    outermost = [name for name in suffixed if name.count(".") == depth]
    if len(outermost) == 1:
        return outermost[0], named[outermost[0]]
    close = difflib.get_close_matches(layer, named, n=3)
    raise WcxError(f"the model has no layer {layer!r}{_try(model, images, close)}.")


def _try(model: nn.Module, images: Tensor | None, close: list[str] = ()) -> str:
    names = list(dict.fromkeys([*close, *(candidates(model, images) if images is not None else ())]))
    return f"; try one of: {', '.join(names)}" if names else ""


def candidates(model: nn.Module, images: Tensor, but: str = "") -> list[str]:
    """Return the names of the last six layers that return a map once in a pass, in the order in which they end.

    Args:
        images: (N, 3, H, W); the first is sent through the network.
        but: a name to leave out.
    """
    ended: list[str] = []
    runs: Counter[str] = Counter()

    def after(name: str, output: object) -> None:
        runs[name] += 1
        if is_map(output, 1) and has_places(output):
            ended.append(name)

    with torch.no_grad(), observed(model, after):
        forward(model, images[:1])
    return [name for name in ended if runs[name] == 1 and name != but][-6:]


@contextmanager
def observed(
    model: nn.Module,
    after: Callable[[str, object], object],
    before: Callable[[str], None] = lambda _name: None,
) -> Iterator[None]:
    """Call `before(name)` and `after(name, output)` around every module's forward; what `after` returns replaces the output."""
    handles = []
    for name, module in modules(model).items():
        if isinstance(module, torch.jit.ScriptModule):  # takes no hooks
            continue
        handles += [
            module.register_forward_pre_hook(lambda _module, _arguments, name=name: before(name)),
            module.register_forward_hook(lambda _module, _arguments, output, name=name: after(name, output)),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def is_map(output: object, n: int) -> bool:
    """Whether a layer's output is 4-dimensional, floating, and of n images."""
    return isinstance(output, Tensor) and output.ndim == 4 and output.is_floating_point() and output.shape[0] == n


def has_places(output: Tensor) -> bool:
    """Whether a map is larger than 1x1, wherever its channels are."""
    return sum(size > 1 for size in output.shape[1:]) > 1
