"""The activation layer: given by name or module, or found.

Names refer to the inner network: the prefixes of wrappers (wcx.models.Normalized, DataParallel, torch.compile) are left out.
"""

from __future__ import annotations

import difflib
from collections import Counter
from dataclasses import dataclass

from torch import Tensor, nn

from wcx.errors import WcxError
from wcx.models import Normalized

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


def modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the inner network's modules by name, the network itself left out."""
    return {name.replace("_orig_mod.", ""): module for name, module in inner(model).named_modules() if name}


def candidates(model: nn.Module) -> list[str]:
    """Return the names of the last few convolutions: where to look for an activation layer."""
    return [name for name, module in modules(model).items() if isinstance(module, nn.Conv2d)][-6:]


def resolve(model: nn.Module, layer: str | nn.Module) -> tuple[str, nn.Module]:
    """Return name and module of a layer given by either; a name may leave out the prefix of a wrapper of one's own.

    Raises:
        WcxError: no such layer; the message lists candidates.
    """
    known = modules(model)
    if isinstance(layer, nn.Module):
        for name, module in known.items():
            if module is layer:
                return name, module
        raise WcxError(
            f"the layer {type(layer).__name__} is not part of the model; try one of: {', '.join(candidates(model))}."
        )
    if layer in known:
        return layer, known[layer]
    suffixed = [name for name in known if name.endswith(f".{layer}")]
    outermost = [name for name in suffixed if name.count(".") == min(other.count(".") for other in suffixed)]
    if len(outermost) == 1:
        return outermost[0], known[outermost[0]]
    names = list(dict.fromkeys(difflib.get_close_matches(str(layer), known, n=3) + candidates(model)))
    raise WcxError(f"the model has no layer {layer!r}; try one of: {', '.join(names)}.")


@dataclass
class Seen:
    """What one call of a module returned: its output, and the copy that went on through the network in its place."""

    name: str
    module: nn.Module
    output: Tensor
    passed_on: Tensor | None = None


def find(model: nn.Module, seen: list[Seen], weighted_last: nn.Module | None, classes: int) -> Seen:
    """Choose the last convolutional activation before pooling and classifier among the outputs `seen` in one forward pass.

    It is the output of the last convolution whose map is larger than 1x1 and does not hold class scores, or rather of the
    largest block around it that keeps the map's size (a residual sum, a concatenation, its normalisation).

    Args:
        seen: outputs (N, channels, h, w) of convolutions and of the blocks that hold one, in the order of their completion.
        weighted_last: the last module with weights of its own that ran: where it is a convolution to C channels, it is the
            classifier (as in SqueezeNet).
        classes: C.

    Raises:
        WcxError: there is none, or the one found runs more than once; the message lists candidates.
    """
    maps = [one for one in seen if one.output.ndim == 4 and one.output.shape[2] * one.output.shape[3] > 1]
    convolutions = [one for one in maps if isinstance(one.module, nn.Conv2d)]
    scores = [one for one in convolutions if one.module is weighted_last and one.output.shape[1] == classes]
    convolutions = [one for one in convolutions if one not in scores]
    if not convolutions:
        raise WcxError(
            f"found no convolutional activation in the model; name one: layer=... ({', '.join(candidates(model)) or 'none'})."
        )
    best = convolutions[-1]
    around = [
        one
        for one in maps
        if best.name.startswith(f"{one.name}.")
        and one.output.shape[2:] == best.output.shape[2:]
        and not any(score.name.startswith(f"{one.name}.") for score in scores)
    ]
    if around:
        best = min(around, key=lambda one: one.name.count("."))
    # A block that only hands on what one inside it returned goes by the name of the one inside.
    while same := [one for one in maps if one.passed_on is best.output]:
        best = same[-1]
    if Counter(one.name for one in seen)[best.name] > 1:
        raise WcxError(
            f"layer {best.name!r} runs more than once in a forward pass; name another: {', '.join(candidates(model))}."
        )
    return best
