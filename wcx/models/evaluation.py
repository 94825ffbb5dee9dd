"""Evaluation passes: forward passes that no backward pass follows (hidden images, the last image of a walk).

They may go through a copy of the network, with BatchNorm folded into the convolutions before it and, if asked for, compiled; and
in another precision. Explanations never do. A copy is compared with the network on real images before it is used.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from wcx.errors import WcxError, choose
from wcx.images import Normalized, logits_of
from wcx.models import precision

KINDS = ("auto", "eager", "folded", "compiled")
PRECISIONS = {"float32": None, "tf32": None, "bfloat16": torch.bfloat16}  # to what images and weights are cast
TOLERANCE = 1e-5  # max abs(difference) / max abs(y) of an image that a copy may make

log = logging.getLogger("wcx")


@dataclass(frozen=True)
class Evaluation:
    """What evaluation passes go through: the model itself, or a copy of it.

    Attributes:
        model: [0, 1] pixels -> logits.
        kind: ``eager``: the model as it is; ``folded`` or ``compiled``.
        network: the copy, of what lies behind the normalisation; None: the model's own.
        dtype: to which images are cast; None: as they are.
        tf32: whether a GPU may use TF32.
        compiled: the copy for batches of `batch` images.
        reason: why nothing faster was taken.
    """

    model: nn.Module
    kind: str = "eager"
    network: nn.Module | None = None
    dtype: torch.dtype | None = None
    tf32: bool = False
    compiled: Callable[[Tensor], Any] | None = None
    batch: int = 0
    reason: str = ""

    def prepare(self, pixels: Tensor) -> Tensor:
        """Return pixels (N, channels, H, W) as the network takes them: normalised once, whatever is then made of them.

        Hiding pixels commutes with this. A size of 1 may stand for any of N, H and W.
        """
        inside = pixels if _inside(self.model) is None else self.model.normalise(pixels)  # type: ignore[operator]
        return inside if self.dtype is None else inside.to(self.dtype)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits (N, C), at least float32, of prepared images (N, channels, H, W)."""
        network: Callable[[Tensor], Any] = self.network or _inside(self.model) or self.model
        if self.compiled is not None and len(images) == self.batch:
            network = self.compiled
        with torch.inference_mode(), precision.tf32(allowed=self.tf32):
            logits = logits_of(network(images))
        return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits

    def logits(self, pixels: Tensor) -> Tensor:
        """Return the logits (N, C) of pixels (N, channels, H, W)."""
        return self(self.prepare(pixels))

    def cast(self, how: precision.Precision) -> Evaluation:
        """Return this with weights in a precision of a walk."""
        networks = {"model": self.model} | ({"network": self.network} if self.network else {})
        changed = {key: precision.cast(network, how.dtype) for key, network in networks.items()}
        compiled = self.compiled if changed == networks else None
        return replace(self, **changed, tf32=how.tf32, compiled=compiled)  # type: ignore[arg-type]


def evaluation_of(
    model: nn.Module, images: Tensor, kind: str = "auto", numbers: str = "float32", batch: int = 32
) -> Evaluation:
    """Return what the evaluation passes of a model go through.

    Args:
        model: [0, 1] pixels -> logits, in eval mode.
        images: real ones, (N, channels, H, W), to compare a copy with the model.
        kind: ``eager`` is the model as it is; ``auto`` folds what can be folded, and takes no copy beyond `TOLERANCE`: `reason`
            says so. ``compiled`` is for trying: on a CPU torch.compile took half a minute, and a pass as long as before.
        numbers: what it computes in: float32, tf32, bfloat16 (the last layer in float32).
        batch: images a pass.

    Raises:
        WcxError: an unknown kind or precision; a copy that was asked for by its name, or bfloat16, which cannot be had.
    """
    choose("evaluation", kind, KINDS)
    dtype = PRECISIONS[choose("evaluation_precision", numbers, PRECISIONS)]
    result = Evaluation(model, tf32=numbers == "tf32")
    try:
        if kind != "eager":
            result = _folded(result, images)
        if dtype is not None:
            result = _cast(result, images, dtype)
            if kind == "compiled":
                result = replace(result, reason=f"{numbers} is not compiled")
        elif kind == "compiled" and result.kind == "folded":
            result = _compiled(result, images, batch)
    except Exception as error:  # whatever a network of someone else's does when it is copied
        if dtype is not None:
            raise WcxError(f"evaluation_precision={numbers}: {_line(error)}; give float32.") from error
        if isinstance(error, torch.OutOfMemoryError):  # the choice is part of the fingerprint: memory must not make it
            raise WcxError(f"no memory for a copy of the network: {_line(error)}; give evaluation=eager.") from error
        result = replace(result, reason=f"the network cannot be copied: {_line(error)}")
    if kind not in ("auto", result.kind):
        raise WcxError(f"evaluation={kind}: {result.reason}; give auto or eager.")
    if result.reason:
        log.info("evaluation passes are %s: %s", result.kind, result.reason)
    return result


def _inside(model: nn.Module) -> nn.Module | None:
    """Return what lies behind the normalisation, if nothing but normalisation is before it."""
    watched = model._forward_hooks or model._forward_pre_hooks
    return model.model if type(model) is Normalized and not watched else None


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


@torch.no_grad()
def _folded(current: Evaluation, images: Tensor) -> Evaluation:
    """Return the evaluation by a copy with BatchNorm folded; as it is, with a reason, where there is none or it errs."""
    network = copy.deepcopy(_inside(current.model) or current.model)
    pairs = _pairs(network, current.prepare(images[:1]))
    if not pairs:
        return replace(current, reason="no BatchNorm follows a convolution")
    for conv, norm in pairs:
        statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)
    norms = {norm for _, norm in pairs}
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if child in norms:
                setattr(parent, name, nn.Identity())
    return _checked(current, replace(current, kind="folded", network=network), images)


def _pairs(network: nn.Module, images: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Return the convolutions whose output a BatchNorm takes, as it is and alone of all modules, each called once."""
    calls, takers = Counter[nn.Module](), Counter[int]()
    outputs: list[tuple[nn.Conv2d, Tensor, int]] = []
    found: list[tuple[nn.Conv2d, nn.BatchNorm2d, Tensor]] = []

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        calls[module] += 1
        for conv, output, version in outputs:
            if args and args[0] is output:
                takers[id(output)] += 1
                if type(module) is nn.BatchNorm2d and output._version == version and module.running_mean is not None:
                    found.append((conv, module, output))

    def after(module: nn.Module, _: object, output: Any) -> None:
        if type(module) is nn.Conv2d:
            outputs.append((module, output, output._version))

    leaves = [module for module in network.modules() if not [*module.children()]]
    free = {module for module in leaves if not module._forward_hooks and not module._forward_pre_hooks}
    with ExitStack() as stack:
        for module in leaves:
            stack.enter_context(module.register_forward_pre_hook(before))
            stack.enter_context(module.register_forward_hook(after))
        network(images)
    single = [(c, n) for c, n, output in found if calls[c] == calls[n] == takers[id(output)] == 1]
    return [(conv, norm) for conv, norm in single if {conv, norm} <= free]


def _cast(current: Evaluation, images: Tensor, dtype: torch.dtype) -> Evaluation:
    """Return the evaluation by a copy in a coarser dtype, the layer that gives the logits in float32 if it is linear."""
    network = copy.deepcopy(current.network or _inside(current.model) or current.model)
    linear = {module for module in network.modules() if type(module) is nn.Linear}
    outputs: dict[nn.Module, Tensor] = {}
    with ExitStack() as stack, torch.no_grad():
        for module in linear:
            stack.enter_context(module.register_forward_hook(lambda m, _, output: outputs.update({m: output})))
        logits = logits_of(network(current.prepare(images[:1])))
    network.to(dtype)
    for module in (module for module, output in outputs.items() if output is logits):
        module.float().register_forward_pre_hook(lambda _, args: (args[0].float(),))
    cast = replace(current, network=network, dtype=dtype)
    cast.logits(images[:1])  # it may refuse
    return cast


def _compiled(current: Evaluation, images: Tensor, batch: int) -> Evaluation:
    """Return the evaluation by a compiled copy; as it is, with a reason, without a compiler or where the copy errs."""
    cuda = images.device.type == "cuda"
    if not (importlib.util.find_spec("triton") if cuda else shutil.which(os.environ.get("CXX", "g++"))):
        return replace(current, reason="there is no compiler")
    network = torch.compile(current.network, dynamic=False, options={"freezing": True})
    repeated = images.repeat(-(-batch // len(images)), 1, 1, 1)[:batch]
    return _checked(current, replace(current, kind="compiled", compiled=network, batch=batch), repeated)


def _checked(current: Evaluation, faster: Evaluation, images: Tensor) -> Evaluation:
    """Return the faster of two, if its logits are those of the model; else the other with a reason."""
    eager, copied = Evaluation(current.model), replace(faster, tf32=False)
    parts = images.split(faster.batch or 1)  # a compiled copy is for batches of one size
    errors = [_difference(copied.logits(part), eager.logits(part)) for part in parts]
    error = float(torch.cat(errors).max())
    if error <= TOLERANCE:
        return faster
    return replace(
        current, reason=f"{faster.kind}, its logits differ by {error:.1e} of the largest, above {TOLERANCE:.0e}"
    )


def _difference(logits: Tensor, expected: Tensor) -> Tensor:
    """Return max |difference| / max |logit| of each image, (N,)."""
    return (logits - expected).abs().amax(1) / expected.abs().amax(1)
