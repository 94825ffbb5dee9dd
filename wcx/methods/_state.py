"""A model while it is explained: in eval mode, frozen, in the hands of one thread, and afterwards as it was."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from wcx.errors import WcxError
from wcx.methods._process import plain
from wcx.methods._turns import Claim, Turns
from wcx.methods._undo import Undo, changes, modes

_HOOKS = [
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks"),
]

_SMALL = 4096  # numbers of a tensor that is compared as a whole


@contextmanager
def evaluated(
    model: nn.Module, like: State | None = None, *, once: bool = False, forward: bool = True
) -> Iterator[State]:
    """Put the model in eval mode with gradients on and its parameters frozen; restore everything afterwards, come what may.

    Frozen, since only gradients with respect to inputs or activations are wanted: none of the parameters' is computed or
    written. Threads that explain models which share a module or a parameter take turns. Compiled modules run uncompiled, and
    gradient checkpointing keeps its activations instead of computing them again.

    Args:
        model: the model.
        like: the hooks are those of this earlier state.
        once: all passes are made in here, each within another `evaluated`, so that the state is never compared with a later one.
        forward: there are forward passes in here, not backward ones alone.

    Yields:
        The state that is restored.

    Raises:
        WcxError: no nn.Module, or a model that cannot be explained as it is; nothing has been touched then.
    """
    check_model(model)
    outer, undo, start = _thread.state, changes(), modes()
    try:
        undo.note(start)
        is_held = outer is not None and outer.model is model and like in (None, outer)  # in the hands of this thread
        state = outer if outer is not None and is_held else _take(model, undo, once=once)
        # No contexts: after an interrupt this generator may end as late as the traceback is collected, and would leave them then.
        _leave_inference(undo)
        torch.set_grad_enabled(True)
        if state is outer:
            if forward:
                state.renew(undo)
        else:
            state.freeze(like)
            _thread.state = state
        yield state
    finally:
        undo.through(start)


def _leave_inference(undo: Undo) -> None:
    """Leave torch's inference mode, in which nothing has gradients, until it is put back."""
    guards: list[torch._C._InferenceMode] = []

    def leave() -> None:
        for guard in guards:
            guard.__exit__(None, None, None)

    if torch.is_inference_mode_enabled():
        undo.note(leave)
        guards.extend(map(torch._C._InferenceMode, [False]))  # made and kept in one step of the interpreter


def _take(model: nn.Module, undo: Undo, *, once: bool) -> State:
    """Take a model out of the hands of other threads, and note what gives it back as it was."""
    modules = _modules(model)
    parameters = _distinct(module._parameters for module in modules)
    claim = Claim()
    undo.note(partial(_turns.leave, claim))
    _turns.take(claim, [*modules, *parameters])
    state = State(model, modules, parameters, once=once)
    undo.note(state.restore)
    plain(undo, claim)
    undo.note(partial(vars(_thread).update, state=_thread.state))
    return state


def buffers_of(model: nn.Module) -> Iterable[Mapping[str, Tensor | None]]:
    """Return the buffers of each module by name, as they are now."""
    state = _thread.state
    modules = state.modules if state is not None and state.model is model else model.modules()
    return (module._buffers for module in modules)


def check_model(model: object) -> None:
    """Raise a WcxError if the model is no module."""
    if not isinstance(model, nn.Module):
        raise WcxError(f"the model is a {type(model).__name__}; expected an nn.Module that returns logits (N, C).")


class State:
    """All of a model that passes depend on or could change, to be restored after them, and compared before later ones.

    Raises:
        WcxError: inference tensors or lazy parameters, with which no backward pass is possible.
    """

    def __init__(
        self, model: nn.Module, modules: list[nn.Module], parameters: list[nn.Parameter], *, once: bool = False
    ) -> None:
        self.model, self.modules, self._parameters = model, modules, parameters
        self._buffers = _distinct(module._buffers for module in modules)
        self._check()
        self._modes = [module.training for module in modules]
        self._flags = [parameter.requires_grad for parameter in parameters]
        self._versions = [parameter._version for parameter in parameters]
        self._untouched = once  # until the first pass
        self._values = {} if once else _sample((*parameters, *self._buffers))
        fields = [vars(module) for module in modules]
        self._entries = [dict(module._buffers) for module in modules]
        # Such as the weight that weight_norm's hook computes anew in every forward pass.
        kinds = set(
            chain.from_iterable(map(type, field.values()) for field in fields)
        )  # most networks have none: no search
        any_tensor = any(issubclass(kind, Tensor) for kind in kinds)
        self._tensors = [
            {key: value for key, value in field.items() if isinstance(value, Tensor)} if any_tensor else {}
            for field in fields
        ]
        self._hooks = [
            {key: field[key].copy() for key in _HOOKS if field.get(key)} if any(map(field.get, _HOOKS)) else {}
            for field in fields
        ]
        self._replaced: list[tuple[dict[str, object], dict[str, object]]] = []

    @property
    def hooked(self) -> bool:
        """Whether modules had hooks."""
        return any(self._hooks)

    def freeze(self, like: State | None) -> None:
        """Set every mode and flag, and the hooks of `like`, if it is not None; let passes write into copies of the buffers."""
        self._freeze()
        hooks = {} if like is None else dict(zip(like.modules, like._hooks, strict=True))
        for module, present in zip(self.modules, self._hooks, strict=True):
            before = hooks.get(module, present)
            if before != present:
                keys = before.keys() | present.keys()
                self._replaced.append((vars(module), {key: vars(module)[key] for key in keys}))
                vars(module).update({key: before[key].copy() if key in before else OrderedDict() for key in keys})

    def renew(self, undo: Undo) -> None:
        """Let passes meet the model as if it had been restored, and those behind them what those before them have left."""
        if self._untouched:
            self._untouched = False
            return
        left = [
            {key: module._buffers[key] for key in entries}
            for module, entries in zip(self.modules, self._entries, strict=True)
        ]
        undo.note(partial(self._put_buffers, left))
        self._release()
        self._freeze()

    def restore(self) -> None:
        """Put everything back; after an interrupt the hooks as well, since whoever added them may not have come to remove them."""
        for field, hooks in self._replaced:
            field.update(hooks)
        if not isinstance(sys.exc_info()[1], Exception | None):
            for module, before in zip(self.modules, self._hooks, strict=True):
                for key, hooks in ((key, vars(module)[key]) for key in _HOOKS if vars(module).get(key)):
                    for extra in hooks.keys() - before.get(key, {}).keys():
                        del hooks[extra]
        self._release()

    def _freeze(self) -> None:
        for module in self.modules:
            if module.training:  # assigning an attribute of a module takes longer than asking for it
                module.training = False
        for parameter, flag in zip(self._parameters, self._flags, strict=True):
            if flag:
                parameter.requires_grad_(requires_grad=False)
        copies = {id(b): (b.detach() if b.requires_grad else b).clone() for b in self._buffers}
        for module, entries, tensors in zip(self.modules, self._entries, self._tensors, strict=True):
            for key, buffer in entries.items():
                module._buffers[key] = copies.get(id(buffer))
            if tensors:
                vars(module).update({key: value.clone() for key, value in tensors.items() if value.is_inference()})

    def _release(self) -> None:
        for module, mode, tensors in zip(self.modules, self._modes, self._tensors, strict=True):
            if module.training != mode:
                module.training = mode
            if tensors:
                vars(module).update(tensors)
        self._put_buffers(self._entries)
        for parameter, flag in zip(self._parameters, self._flags, strict=True):
            parameter.requires_grad_(flag)

    def _put_buffers(self, named: Sequence[Mapping[str, Tensor | None]]) -> None:
        for module, buffers in zip(self.modules, named, strict=True):
            for key, buffer in buffers.items():
                module._buffers[key] = buffer

    def matches(self, earlier: State) -> bool:
        """Tell whether modules, weights and buffers are those of an earlier state; modes and hooks play no part."""
        parts, before = ([*map(id, state.modules), *map(id, state._parameters)] for state in (self, earlier))
        return (
            parts == before
            and self._versions == earlier._versions
            and self._values.keys() == earlier._values.keys()
            and all(torch.equal(row, earlier._values[kind]) for kind, row in self._values.items())
        )

    def _check(self) -> None:
        for tensor in (*self._parameters, *self._buffers):
            if is_lazy(tensor):
                raise WcxError("the model has lazy layers that have not seen an image; call model(images) before.")
            if tensor.is_inference():
                raise WcxError(
                    "the model was built or loaded under torch.inference_mode, and its tensors allow no backward pass; build it "
                    "outside of it, or explain copy.deepcopy(model), copied outside of it."
                )


def _modules(model: nn.Module) -> list[nn.Module]:
    """Return what `model.modules()` yields, in half the time."""
    modules: dict[int, nn.Module] = {}
    waiting = [model]
    while waiting:
        module = waiting.pop()
        if id(module) not in modules:
            modules[id(module)] = module
            if children := module._modules:
                waiting += [child for child in children.values() if child is not None][::-1]
    return list(modules.values())


def _distinct(tensors: Iterable[Mapping[str, Any]]) -> list[Any]:
    """Return each parameter or buffer of modules once, in their order: what `model.parameters()` takes three times as long for."""
    return list({id(t): t for named in tensors for t in named.values() if t is not None}.values())


@torch.no_grad()
def _sample(tensors: Iterable[Tensor]) -> dict[tuple[torch.device, torch.dtype], Tensor]:
    """Return the bytes of small tensors, and of large ones those of the first number of each row; one row a device and dtype.

    In-place changes through `.data`, and the statistics that a BatchNorm updates, leave no trace but the values.
    """
    rows: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        if tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta:
            large = tensor.numel() > _SMALL
            part = tensor.as_strided(tensor.shape[:1], tensor.stride()[:1]) if large else tensor.reshape(-1)
            rows.setdefault((tensor.device, tensor.dtype), []).append(part)
    return {kind: torch.cat(row).view(torch.uint8) for kind, row in rows.items()}


class _Held(threading.local):
    state: State | None = None  # of the model that the thread has in its hands, the last that it took


_thread, _turns = _Held(), Turns()
