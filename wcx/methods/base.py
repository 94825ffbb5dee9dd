"""What every method shares: the forward passes of a model, and one backward pass per cotangent.

A method maps a cotangent v (one number per class) to an explanation, as a rule linear in v (`Method.linear`). Its work is
split in two: `Method.run` does the forward passes, once; `Run.explain` the backward passes, one per cotangent. Methods know
nothing of contrasts.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import lru_cache, partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from wcx.errors import WcxError
from wcx.images import logits_of
from wcx.methods import _graph
from wcx.methods._mismatch import mismatch
from wcx.methods._parts import Part, whole
from wcx.methods._state import State, evaluated
from wcx.methods._undo import changes, undone

log = logging.getLogger("wcx")
DETACHED = "the logits do not depend on the input or layer by any differentiable path; is part of the model detached?"

Cotangent = Tensor | Callable[[Tensor], Tensor]


class Run(ABC):
    """The forward passes of one batch of images, ready to be explained under any number of cotangents.

    It explains the forward pass that was made: train or eval mode, hooks added or removed and autocast left since then play no
    part, in a method that makes further passes neither. Weights, buffers or modules that have changed are an error.

    Args:
        state: what the model was in these passes; made within `evaluated`.
        logits: (N, C).

    Attributes:
        logits: (N, C), detached.
        layer: name of the activation layer, or None for methods that go back to the input.
        versions: of the images, so many went through the network until now without a backward pass.
        forward: an explanation takes further forward passes.
    """

    layer: str | None = None
    versions: int = 0
    forward: ClassVar[bool] = True

    def __init__(self, state: State, logits: Tensor) -> None:
        self.logits = logits.detach().clone()
        self._state = state
        self._autocast = _autocast(logits.device.type)
        self._single = False

    @undone
    def explain(self, v: Cotangent) -> Tensor:
        """Return the explanation under each cotangent: one backward pass for each.

        Args:
            v: (N, C) or (K, N, C), or a function from logits (N, C) to either. A function is evaluated at the clean input,
                but at each point of the path by a method that walks one.

        Returns:
            (N, ...) or (K, N, ...); ... = (h, w) in activation space, (channels, H, W) in input space.

        Raises:
            WcxError: v does not fit the logits; the model has changed; what the method says of its own.
        """
        at_clean = v(self.logits.clone()) if callable(v) else v
        if not isinstance(at_clean, Tensor):
            raise WcxError(
                f"cotangent {at_clean!r} is no tensor; give (N, C) or (K, N, C), such as wcx.cotangent(run.logits, target)."
            )
        path = (lambda logits: self._stack(v(logits.clone()))) if callable(v) else None
        with self.again():
            cotangents, self._single = self._stack(at_clean), at_clean.ndim == 2
            return self._unstack(self._explain(cotangents, path))

    @contextmanager
    def again(self) -> Iterator[None]:
        """Further passes run in here, backward ones too: as the first ones did.

        Raises:
            WcxError: the model's weights, buffers or modules have changed.
        """
        now = _autocast(self._autocast[0])
        with evaluated(self._state.model, like=self._state, forward=self.forward) as state:
            if now != self._autocast:  # left with `evaluated`: a context of this generator's could be left late
                changes().note(partial(_set_autocast, *now))
                torch.autocast(*self._autocast).__enter__()
            if state is not self._state and not state.matches(self._state):
                raise WcxError(
                    "the model's weights, buffers or modules have changed since the forward pass; call the explainer on the "
                    "images again."
                )
            yield

    @abstractmethod
    def _explain(self, v: Tensor, path: Callable[[Tensor], Tensor] | None) -> Tensor:
        """Map cotangents v (K, N, C) to explanations (K, N, ...); `path` gives them at any logits (N, C), if they may vary."""

    def _stack(self, v: Tensor) -> Tensor:
        if v.ndim not in (2, 3) or v.shape[-2:] != self.logits.shape:
            raise WcxError(
                f"cotangent of shape {tuple(v.shape)} for logits {tuple(self.logits.shape)}; give (N, C) or (K, N, C)."
            )
        return (v if v.ndim == 3 else v[None]).detach().to(self.logits, copy=True)

    def _unstack(self, rows: Tensor) -> Tensor:
        """Return rows (K, N, ...) as they were asked for: (N, ...) for one cotangent (N, C)."""
        return rows[0] if self._single else rows


def _autocast(device: str) -> tuple[str, torch.dtype, bool]:
    return device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)


def _set_autocast(device: str, dtype: torch.dtype, enabled: bool) -> None:
    torch.set_autocast_dtype(device, dtype)
    torch.set_autocast_enabled(device, enabled)


class Method(ABC):
    """A method, mostly of back-propagation. A subclass stands in a file of its own; its constructor's keywords are its options.

    Attributes:
        space: where its explanations lie.
        linear: whether the explanation is linear in the cotangent, so that one pass is the sum over classes; the oracles and the
            tests of the theory ask only methods that are. An option may make an instance that is not.
        version: raised with a change that moves its numbers; part of the records' fingerprint from 2 on.
        parts: of a cotangent, see `wcx.methods._parts`: what it needs the gradients of; () of one that takes no gradients.
        transformers: it explains them alone.
        younger: options that are younger than records, with their defaults, at which they are no part of the fingerprint.
    """

    space: ClassVar[Literal["input", "activation"]]
    linear: bool = True
    version: int = 1
    parts: ClassVar[tuple[Part, ...]] = (whole,)
    transformers: ClassVar[bool] = False
    younger: ClassVar[Mapping[str, object]] = {}

    @abstractmethod
    def run(self, model: nn.Module, images: Tensor, layer: str | nn.Module | None = None) -> Run:
        """Do the forward passes for images (N, channels, H, W) in the model's input space."""

    def settled(self, model: nn.Module, images: Tensor) -> dict[str, object]:
        """Return the options that a network takes in the place of those asked for; images: any (N, channels, H, W)."""
        return {}


def as_images(images: Tensor) -> Tensor:
    """Return the images as a plain tensor, cut off from any graph.

    Raises:
        WcxError: not a floating tensor (N, channels, H, W) with N >= 1.
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point() or len(images) == 0:
        got = f"{tuple(images.shape)} {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        raise WcxError(f"images are {got}; expected a floating tensor (N, 3, H, W) in the model's input space.")
    return images.detach()


@lru_cache
def say(line: str) -> None:
    """Tell the user something that is no error: once a process, however many batches there are."""
    log.warning(line)


def forward(
    model: nn.Module, images: Tensor, watch: AbstractContextManager[object] | None = None, *, norms: bool = True
) -> Tensor:
    """Return the logits (N, C). For the arguments see `call`.

    Raises:
        WcxError: the model's output is something else, or it does not take such images.
    """
    logits = call(model, images, watch, norms=norms)
    if isinstance(logits, Mapping) or hasattr(logits, "logits"):  # of a tuple, which item it is would be a guess
        logits = logits_of(logits)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise WcxError(
            f"the model returned {got} for {len(images)} images; expected logits of shape (N, C), before any softmax."
        )
    return logits


def call(
    model: nn.Module, images: Tensor, watch: AbstractContextManager[object] | None = None, *, norms: bool = True
) -> object:
    """Return what the model returns.

    Args:
        model: the model, `evaluated`.
        images: (N, channels, H, W). The model gets a copy: it may write into its input, and a leaf allows no writing.
        watch: what the model's functions run in, and nothing else.
        norms: gradients go through a BatchNorm.

    Raises:
        WcxError: the model fails on such images, but not on others: another dtype, device, order of the axes or number of channels.
    """
    copy = images.clone()
    try:
        with _laid_out(model) if norms and len(images) == 1 else nullcontext(), watch or nullcontext():
            return model(copy)
    except (WcxError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if line := mismatch(model, images, error):
            raise WcxError(line) from error
        raise


@contextmanager
def _laid_out(model: nn.Module) -> Iterator[None]:
    """Let every BatchNorm in passes of one image get gradients that are laid out as their shape says.

    PyTorch (2.14, on the CPU) takes an image's gradient of channels last, as tokens have it, for one of channels first: it is
    wrong by more than its own norm, and right for two images (tests/methods/test_batch_independence.py).
    """

    def laid_out(_module: nn.Module, _arguments: object, output: object) -> None:
        with torch._C.DisableTorchFunction():  # not the network's
            if isinstance(output, Tensor) and output.requires_grad:
                output.register_hook(Tensor.contiguous)

    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    handles = [module.register_forward_hook(laid_out) for module in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def has_both_layouts(model: nn.Module) -> bool:
    """Return whether a model has BatchNorm and attention or LayerNorm: whose maps of one image alone `_laid_out` has moved."""
    kinds = [type(module) for module in model.modules()]
    is_token = [issubclass(kind, nn.LayerNorm) or "Attention" in kind.__name__ for kind in kinds]
    return any(issubclass(kind, nn.modules.batchnorm._BatchNorm) for kind in kinds) and any(is_token)


def vjp(logits: Tensor, wrt: Tensor | GradientEdge, v: Tensor, *, together: bool = False) -> Tensor:
    """Return the gradients (K, *wrt.shape) of sum_s v_s y_s with respect to `wrt`, one per cotangent of v (K, N, C).

    That is a backward pass each, or `together` one of all where only linear layers lead to `wrt`: their weights are then read once,
    and what a hook of a tensor's gets is no plain tensor.
    Stops at `wrt`; the graph is kept for further cotangents.

    Raises:
        WcxError: there is no way from the logits to `wrt`, or one that can be gone by `backward()` alone.
    """
    gradients: list[Tensor | None] = [None]
    if logits.requires_grad:
        gradient = partial(torch.autograd.grad, logits, [wrt], retain_graph=True, allow_unused=True)
        v = v.to(logits)
        try:
            if together and len(v) > 1 and _graph.is_head(logits, wrt):
                with suppress(RuntimeError):  # as of too little memory for all of them
                    return gradient(grad_outputs=v, is_grads_batched=True)[0]
            gradients = [gradient(grad_outputs=cotangent)[0] for cotangent in v]
        except RuntimeError as error:
            if "checkpoint" not in str(error).lower():
                raise
            raise WcxError(
                "the model computes activations again in the backward pass (gradient checkpointing) in a way that allows no "
                "explanation; switch it off, e.g. by model.set_grad_checkpointing(False)."
            ) from error
    if any(gradient is None for gradient in gradients):
        raise WcxError(DETACHED)
    return torch.stack(gradients)
