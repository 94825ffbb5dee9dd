"""What every method shares: the state of the model, the forward passes, and one backward pass per cotangent.

A method maps a cotangent v (one number per class) to an explanation that is linear in v. Its work is split in two:
`Method.run` does the forward passes, once; `Run.explain` the backward passes, one per cotangent. Methods know nothing of contrasts.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from wcx.errors import WcxError

Cotangent = Tensor | Callable[[Tensor], Tensor]


class Run(ABC):
    """The forward passes of one batch of images, ready to be explained under any number of cotangents.

    Attributes:
        logits: (N, C), detached.
        layer: name of the activation layer, or None for methods that go back to the input.
    """

    layer: str | None = None

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits.detach()

    def explain(self, v: Cotangent) -> Tensor:
        """Return the explanation under each cotangent: one backward pass for each.

        Args:
            v: (N, C) or (K, N, C), or a function from logits (N, C) to either. A function is evaluated at the clean input,
                but at each point of the path by a method that walks one.

        Returns:
            (N, ...) or (K, N, ...); ... = (h, w) in activation space, (3, H, W) in input space.

        Raises:
            WcxError: v does not fit the logits.
        """
        at_clean = v(self.logits) if callable(v) else v
        cotangents = self._stack(at_clean)
        path = (lambda logits: self._stack(v(logits))) if callable(v) else None
        maps = self._explain(cotangents, path)
        return maps if at_clean.ndim == 3 else maps[0]

    @abstractmethod
    def _explain(self, v: Tensor, path: Callable[[Tensor], Tensor] | None) -> Tensor:
        """Map cotangents v (K, N, C) to explanations (K, N, ...); `path` gives them at any logits (N, C), if they may vary."""

    def _stack(self, v: Tensor) -> Tensor:
        if v.ndim not in (2, 3) or v.shape[-2:] != self.logits.shape:
            raise WcxError(
                f"cotangent of shape {tuple(v.shape)} for logits {tuple(self.logits.shape)}; give (N, C) or (K, N, C)."
            )
        return (v if v.ndim == 3 else v[None]).detach().to(self.logits)


class Method(ABC):
    """A back-propagation method. A subclass stands in a file of its own; its constructor's keywords are its options."""

    space: ClassVar[Literal["input", "activation"]]

    @abstractmethod
    def run(self, model: nn.Module, images: Tensor, layer: str | nn.Module | None = None) -> Run:
        """Do the forward passes for images (N, 3, H, W) in the model's input space."""


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode with gradients on and its parameters frozen; restore every flag afterwards, come what may.

    Frozen, since only gradients with respect to inputs or activations are wanted: none of the parameters' is computed or written.
    """
    if not isinstance(model, nn.Module):
        raise WcxError(f"the model is a {type(model).__name__}; expected an nn.Module that returns logits (N, C).")
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for module, _ in modes:
            module.training = False
        for parameter, _ in flags:
            parameter.requires_grad_(requires_grad=False)
        with torch.inference_mode(mode=False), torch.enable_grad(), _uncompiled():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _uncompiled() -> AbstractContextManager[object]:
    """Run compiled modules uncompiled: compiled code does not run hooks that were added after it was compiled.

    Nothing is compiled as long as torch's compiler was not imported, which takes two seconds.
    """
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def as_images(images: Tensor) -> Tensor:
    """Return the images as a plain tensor, cut off from any graph.

    Raises:
        WcxError: not a floating tensor (N, channels, H, W) with N >= 1.
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point() or len(images) == 0:
        got = f"{tuple(images.shape)} {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        raise WcxError(f"images are {got}; expected a floating tensor (N, 3, H, W) in the model's input space.")
    images = images.detach()
    return images.clone() if images.is_inference() else images


def forward(model: nn.Module, images: Tensor) -> Tensor:
    """Return the logits (N, C).

    Raises:
        WcxError: the model's output is something else.
    """
    logits = model(images)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise WcxError(
            f"the model returned {got} for {len(images)} images; expected logits of shape (N, C), before any softmax."
        )
    return logits


def vjp(logits: Tensor, wrt: Tensor, v: Tensor) -> Tensor:
    """Return the gradients (K, *wrt.shape) of sum_s v_s y_s with respect to `wrt`: one backward pass per cotangent of v (K, N, C).

    Stops at `wrt`; the graph is kept for further cotangents.
    """
    if not logits.requires_grad:
        raise WcxError(
            "the logits do not depend on the input or layer by any differentiable path; is part of the model detached?"
        )
    return torch.stack([torch.autograd.grad(logits, wrt, one, retain_graph=True)[0] for one in v.to(logits)])
