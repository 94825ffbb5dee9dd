"""Images that do not fit the network: found by trying others."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from wcx.errors import WcxError

_OF_SIZES = re.compile("size|shape|height|width", re.IGNORECASE)
SIDES = (224, 256, 299, 384, 32)  # that networks are made for


def mismatch(model: nn.Module, images: Tensor, error: Exception) -> str | None:
    """Return in one line what a model that has failed on `images` takes instead; None if that is not why it failed.

    It is tried: the dtype and device of its parameters, channels first, another number of channels, and another size where the
    error speaks of one. Nothing is said that did not work, so that errors of the model itself stay what they are.
    """
    for candidate, change in _candidates(model, images, sizes=bool(_OF_SIZES.search(str(error)))):
        if change and _takes(model, candidate):
            device = candidate.device != images.device
            takes, got = (f"{x.dtype} images {tuple(x.shape)}{f' on {x.device}' * device}" for x in (candidate, images))
            return f"the model takes {takes}, got {got}; give {change}."
    return None


def _candidates(model: nn.Module, images: Tensor, *, sizes: bool) -> Iterator[tuple[Tensor, str]]:
    """Yield images that the model may take, and how to get them; nearest first."""
    kinds = [(p.dtype, p.device) for p in model.parameters() if p.is_floating_point() and not p.is_meta]
    convolutions = [module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d)]
    for dtype, device in dict.fromkeys([(images.dtype, images.device), *kinds]):
        cast = "" if dtype == images.dtype else f".to({dtype})"
        cast += "" if device == images.device else f'.to("{device}")'
        moves = (".permute(0, 3, 1, 2)", "") if images.shape[3] < images.shape[1] else ("",)
        arranged = {move: (images.permute(0, 3, 1, 2) if move else images).to(device, dtype) for move in moves}
        for move, candidate in arranged.items():
            yield candidate, f"images{move}{cast}" if move or cast else ""
        for move, candidate in arranged.items():
            for count in convolutions[:1] or [1, 3]:
                if count != candidate.shape[1]:
                    change = _with_channels(f"images{move}{cast}", candidate.shape[1], count)
                    yield candidate[:, :1].expand(-1, count, -1, -1), change
    for side in SIDES if sizes and 0 not in images.shape else ():
        if images.shape[2:] != (side, side):
            yield torch.zeros_like(images[:, :, :1, :1]).expand(-1, -1, side, side), f"images of {side} x {side} pixels"


def _with_channels(images: str, n: int, count: int) -> str:
    if n == 1:
        return f"{images}.expand(-1, {count}, -1, -1)"
    if count == 1:
        return f"{images}.mean(1, keepdim=True)"
    return f"{images}[:, :{count}]" if n > count else f"{images} with {count} channels"


def _takes(model: nn.Module, images: Tensor) -> bool:
    try:
        with torch.no_grad():
            model(images.clone())
    except WcxError:  # from a hook of ours: the images have come that far
        return True
    except Exception:
        return False
    return True
