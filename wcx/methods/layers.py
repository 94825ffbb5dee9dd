"""The names of activation layers, and what a network's layers return.

Names refer to the inner network: the prefixes of wrappers (wcx.models.Normalized, DataParallel, torch.compile) are left out.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor, nn

from wcx.errors import WcxError
from wcx.images import Normalized
from wcx.methods._axes import Dims, layout
from wcx.methods._trace import Trace
from wcx.methods._undo import changes
from wcx.methods.base import forward

Ended = tuple[str, Dims, Sequence[int]]  # a layer that ran: name, axes and shape of its output
_COMPILED = re.compile(r"\._orig_mod(?=\.|$)")
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
    return {_COMPILED.sub("", name) if "_orig_mod" in name else name: module for name, module in named if name}


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
    ended: list[Ended] = []
    runs: Counter[str] = Counter()
    trace = Trace(images[:1])

    def after(name: str, output: object) -> None:
        runs[name] += 1
        with torch._C.DisableTorchFunction():
            if shows_places(output := first(output), 1, trace):
                ended.append((name, trace.dims(output), output.shape))

    with torch.no_grad(), observed(model, after), trace:
        forward(model, images[:1])
    return last_maps([layer for layer in ended if layer[0] != but], runs, 1)


def last_maps(ended: Sequence[Ended], runs: Mapping[str, int], n: int) -> list[str]:
    """Return the names of the last six layers whose outputs for n images can be read as maps, of those that ran once."""
    read = (name for name, dims, shape in reversed(ended) if runs[name] == 1 and layout(dims, shape, n))
    return list(islice(read, 6))[::-1]


def behind(layer: str, ended: Sequence[Ended]) -> str | None:
    """Return the name of the next layer that ended after another, and that does not hold it; None if there is none."""
    names = [name for name, *_ in ended]
    return next((name for name in names[names.index(layer) + 1 :] if not layer.startswith(f"{name}.")), None)


def listed(model: nn.Module, named: Mapping[str, nn.Module] | None = None) -> set[str]:
    """Return the names of modules that are items of a list or a sequence of them; named: see `observed`."""
    named = {"": inner(model), **(named or modules(model))}
    lists = {name: module for name, module in named.items() if isinstance(module, nn.Sequential | nn.ModuleList)}
    return {f"{name}.{item}".lstrip(".") for name, module in lists.items() for item, _ in module.named_children()}


@contextmanager
def observed(
    model: nn.Module,
    after: Callable[[str, object], object],
    before: Callable[[str], None] = lambda _name: None,
    named: Mapping[str, nn.Module] | None = None,
) -> Iterator[None]:
    """Call `before(name)` and `after(name, output)` around every module's forward; what `after` returns replaces the output.

    `named` are the modules by name, if they were looked up already.
    """
    handles = []
    try:
        for name, module in (named or modules(model)).items():
            if not isinstance(module, torch.jit.ScriptModule):  # takes no hooks
                handles.append(module.register_forward_pre_hook(lambda *_, name=name: before(name)))
                handles.append(module.register_forward_hook(lambda *call, name=name: after(name, call[-1])))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replaced(forwards: Mapping[nn.Module, Callable[..., object]]) -> Iterator[None]:
    """Let other functions run in the place of modules' forward."""
    before = {module: {key: value for key, value in vars(module).items() if key == "forward"} for module in forwards}

    def put_back() -> None:
        for module, function in before.items():
            vars(module).pop("forward", None)
            vars(module).update(function)

    undo = changes()
    try:
        undo.note(put_back)
        for module, function in forwards.items():
            vars(module)["forward"] = function
        yield
    finally:
        undo.through(put_back)


def first(output: object) -> object:
    """Return what a module hands on to the next: its output, or the first item of a tuple (as in transformers)."""
    return output[0] if isinstance(output, tuple | list) and output else output


def with_first(output: object, following: Tensor) -> object:
    """Return a module's output with another tensor in place of its `first`."""
    if not isinstance(output, tuple | list):
        return following
    items = [following, *output[1:]]
    return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)


def is_map(output: object, n: int) -> bool:
    """Whether a layer's output is floating, of n images, and has the dimensions of a map, or of tokens."""
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return False
    return output.shape[0] == n if output.ndim == 4 else output.ndim == 3 and n in output.shape[:2]


def shows_places(output: object, n: int, trace: Trace) -> bool:
    """Whether an output is a map larger than 1x1, wherever its channels are, or holds tokens of known places."""
    if not is_map(output, n):
        return False
    return sum(size > 1 for size in output.shape[1:]) > 1 if output.ndim == 4 else trace.layout(output, n) is not None
