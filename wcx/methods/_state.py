"""A model while it is explained: in eval mode, frozen, in the hands of one thread, and afterwards as it was."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import checkpoint

from wcx.errors import WcxError
from wcx.methods._turns import Joint, Turns

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
    outer = _thread.state
    if outer is not None and outer.model is model and like in (None, outer):  # in the hands of this thread, and known
        with outer.renewed() if forward else nullcontext(), torch.inference_mode(mode=False), torch.enable_grad():
            yield outer
        return
    modules = _modules(model)
    parameters = _distinct(module._parameters for module in modules)
    with _turns.take([*modules, *parameters]), ExitStack() as stack:
        state = State(model, modules, parameters, once=once)
        stack.callback(state.restore)
        for context in (torch.inference_mode(mode=False), torch.enable_grad(), _uncompiled(), _uncheckpointed()):
            stack.enter_context(context)
        state.freeze(like)
        stack.callback(setattr, _thread, "state", outer)
        _thread.state = state
        yield state


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

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Let passes in here meet the model as if it had been restored, and those behind it what those before it have left."""
        if self._untouched:
            self._untouched = False
            yield
            return
        left = [
            {key: module._buffers[key] for key in entries}
            for module, entries in zip(self.modules, self._entries, strict=True)
        ]
        self._release()
        self._freeze()
        try:
            yield
        finally:
            for module, buffers in zip(self.modules, left, strict=True):
                for key, buffer in buffers.items():
                    module._buffers[key] = buffer

    def restore(self) -> None:
        """Put everything back."""
        for field, hooks in self._replaced:
            field.update(hooks)
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
        for module, mode, entries, tensors in zip(self.modules, self._modes, self._entries, self._tensors, strict=True):
            if module.training != mode:
                module.training = mode
            if tensors:
                vars(module).update(tensors)
            for key, buffer in entries.items():
                module._buffers[key] = buffer
        for parameter, flag in zip(self._parameters, self._flags, strict=True):
            parameter.requires_grad_(flag)

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


def _uncompiled() -> AbstractContextManager[object]:
    """Run compiled modules uncompiled: compiled code does not run hooks that were added after it was compiled.

    Nothing is compiled as long as torch's compiler was not imported, which takes two seconds.
    """
    return _eager if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def _uncheckpointed() -> Iterator[None]:
    """Make torch.utils.checkpoint call its function and do nothing else, in this thread.

    The second forward pass, from within the backward one, would meet neither our hooks nor the rules of DeepLIFT and LRP, and
    the reentrant kind allows no gradients but those of `backward()`.
    """
    with _kept:
        _thread.depth += 1
        try:
            yield
        finally:
            _thread.depth -= 1


@contextmanager
def _checkpoints_kept() -> Iterator[None]:
    """Wrap what both kinds of torch.utils.checkpoint are made of: the function itself may have been imported by name."""
    reentrant = checkpoint.CheckpointFunction
    hook = getattr(checkpoint, "_checkpoint_hook", type("Missing", (nullcontext,), {}))
    apply, enter, leave = reentrant.apply, hook.__enter__, hook.__exit__
    wrappers = [
        (reentrant, "apply", lambda run, preserve, *args: run(*args) if _thread.depth else apply(run, preserve, *args)),
        (hook, "__enter__", lambda self: None if _thread.depth else enter(self)),
        (hook, "__exit__", lambda self, *error: None if _thread.depth else leave(self, *error)),
    ]
    originals = [(owner, key, vars(owner).get(key)) for owner, key, _ in wrappers]
    for owner, key, wrapper in wrappers:
        setattr(owner, key, wrapper)
    try:
        yield
    finally:
        for owner, key, original in originals:
            delattr(owner, key) if original is None else setattr(owner, key, original)


class _Thread(threading.local):
    depth = 0  # of `_uncheckpointed`
    state: State | None = None  # of the model that the thread has in its hands, the last that it took


_thread, _turns = _Thread(), Turns()
_eager, _kept = Joint(lambda: torch.compiler.set_stance("force_eager")), Joint(_checkpoints_kept)
