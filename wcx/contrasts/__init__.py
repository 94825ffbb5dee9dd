r"""Contrasts: logits, target and foils -> cotangents.

A contrast is nothing but a cotangent v, one number per class, injected at the logits: a back-propagation explanation is linear in
it, so the explanation under a contrast is sum_s v_s phi^s (Wang & Wang 2022, Eq. 1). This module knows logits and nothing of
networks.

A contrast is one function in a file of this package (`paper`, `rivals`), found by its name. It receives

- ``logits`` (N, C), C >= 2, finite; float64 unless the contrast declares ``own_dtype``;
- ``target`` (N,) int64;
- ``foils`` (N, C) bool, never holding the target, at least one per row;

and returns v (N, C) in the dtype that it was given. Further keyword arguments are the contrast's options.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wcx.contrasts import paper, rivals  # noqa: F401  # their order is that of tables
from wcx.contrasts.base import Contrast, as_names, contrast, get, names, split_options
from wcx.contrasts.classes import Confused, Foils, Target, as_targets, foil_masks, most_probable
from wcx.errors import WcxError

__all__ = [
    "Confused",
    "Contrast",
    "Foils",
    "Target",
    "as_names",
    "as_targets",
    "contrast",
    "cotangent",
    "evaluate",
    "foil_masks",
    "get",
    "most_probable",
    "names",
    "split_options",
]


@torch.no_grad()
def cotangent(
    logits: Tensor,
    target: Target,
    contrast: str | Sequence[str] = "weighted",
    foils: Foils = None,
    **contrast_options: Any,
) -> Tensor:
    """Return the cotangent of a contrast: one number per class, to be injected at the logits.

    Args:
        logits: (N, C), any floating dtype, finite. With C = 1 (a sigmoid, section 3.2) v = 1 under every contrast.
        target: the class to explain: an int, (N,), or (T, N) for T targets an image.
        contrast: one of `names()`, or a list of them.
        foils: the classes it is contrasted with. None: every other class; a list of class ids; an (N, K) tensor of class ids,
            a set for each image; an int k: the k most probable others; a `Confused`: those that the target is most confused with.
            A target among its own foils is left out of them.
        **contrast_options: options of the contrast, e.g. ``gamma`` and ``k`` of finer.

    Returns:
        v (N, C) in the logits' dtype and on their device; (T, N, C) for T targets; a list of contrasts adds a leading axis.

    Raises:
        WcxError: unknown contrast or option; target or foil out of range; no foil left; logits not (N, C) or not finite.

    Example:
        >>> import torch, wcx
        >>> wcx.cotangent(torch.tensor([[2.0, 1.0, 1.0]]), target=0, contrast="weighted")
        tensor([[ 1.0000, -0.5000, -0.5000]])
    """
    names = as_names(contrast)
    options = split_options(names, contrast_options)
    targets = as_targets(target, logits)
    masks = foil_masks(logits, targets, foils)
    v = torch.stack([evaluate(name, logits, targets, masks, **options[name]) for name in names])
    return v[0] if isinstance(contrast, str) else v


@torch.no_grad()
def evaluate(name: str, logits: Tensor, targets: Tensor, masks: Tensor, **options: Any) -> Tensor:
    """Return the cotangents (..., N, C) of one contrast at logits (N, C), for targets (..., N) and foil masks (..., N, C).

    Raises:
        WcxError: unknown contrast or option; logits not finite.
    """
    rule, _ = get(name), split_options([name], options)
    if not bool(logits.isfinite().all()):
        raise WcxError("logits hold NaN or infinite values: no contrast is defined; check the model and its input.")
    if logits.shape[1] == 1:
        return torch.ones(masks.shape, dtype=logits.dtype, device=logits.device)
    values = logits if rule.own_dtype else logits.double()
    rows = [
        rule.function(values, target, mask, **options)
        for target, mask in zip(targets.reshape(-1, len(logits)), masks.reshape(-1, *logits.shape), strict=True)
    ]
    return torch.stack(rows).to(logits.dtype).reshape(masks.shape)
