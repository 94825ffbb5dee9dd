r"""Contrasts: logits, target and foils -> cotangents.

A contrast is nothing but a cotangent v, one number per class, injected at the logits: a back-propagation explanation is linear in
it, so the explanation under a contrast is sum_s v_s phi^s (Wang & Wang 2022, Eq. 1). This module knows logits and nothing of
networks.

A contrast is one function here, found by its name. It receives

- ``logits`` (N, C), C >= 2, finite; float64 unless the contrast declares ``own_dtype``;
- ``target`` (N,) int64;
- ``foils`` (N, C) bool, never holding the target, at least one per row;

and returns v (N, C) in the dtype that it was given. Further keyword arguments are the contrast's options.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from wcx.errors import WcxError, choose

Target = int | Sequence[int] | Tensor
Foils = int | Sequence[int] | Tensor | None


@dataclass(frozen=True)
class Contrast:
    """A contrast and what it declares of itself.

    Attributes:
        function: (logits, target, foils, **options) -> v, see the module's docstring.
        path_dependent: a method that walks a path (integrated gradients, SmoothGrad) asks for v at each point of it;
            for all others v is frozen at the clean input (Eq. 1).
        own_dtype: computed in the logits' own dtype instead of float64.
        uses_foils: False where v is the same whatever the foils.
    """

    function: Callable[..., Tensor]
    path_dependent: bool = False
    own_dtype: bool = False
    uses_foils: bool = True

    @property
    def defaults(self) -> dict[str, Any]:
        """The options, with the function's own values."""
        parameters = list(inspect.signature(self.function).parameters.values())[3:]
        return {parameter.name: parameter.default for parameter in parameters}


_CONTRASTS: dict[str, Contrast] = {}


def contrast(name: str, **declared: bool) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Register a function as the contrast called `name`; `declared` are attributes of `Contrast`."""

    def register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        _CONTRASTS[name] = Contrast(function, **declared)
        return function

    return register


def names() -> list[str]:
    """Return the names of all contrasts."""
    return list(_CONTRASTS)


def get(name: str) -> Contrast:
    """Return the contrast called `name`.

    Raises:
        WcxError: no such contrast; the message lists those there are.
    """
    return _CONTRASTS[choose("contrast", name, _CONTRASTS)]


@contrast("original", uses_foils=False)
def original(logits: Tensor, target: Tensor, foils: Tensor) -> Tensor:
    """v = e_t: the target's logit alone. Ignores the foils."""
    return _one_hot(target, logits)


@contrast("mean")
def mean(logits: Tensor, target: Tensor, foils: Tensor) -> Tensor:
    """v = e_t - mean of e_s over the foils (section 3.3).

    Under LRP this is not CLRP (Gu et al. 2018), whose *relevance* at the logits is y_t times this v: ours is v_s y_s.
    """
    return _one_hot(target, logits) - foils.to(logits.dtype) / foils.sum(1, keepdim=True)


@contrast("max")
def maximum(logits: Tensor, target: Tensor, foils: Tensor) -> Tensor:
    """v = e_t - e_s*, where s* is the foil of the largest logit, the first index on ties (section 3.3)."""
    rival = logits.masked_fill(~foils, -torch.inf).argmax(1)
    return _one_hot(target, logits) - _one_hot(rival, logits)


@contrast("weighted")
def weighted(logits: Tensor, target: Tensor, foils: Tensor) -> Tensor:
    """v = e_t - alpha, alpha = softmax of the logits over the foils (section 3.3, Eq. 1).

    The gradient of the log-odds y_t - logsumexp_F(y). It equals the softmax's gradient divided by p_t (1 - p_t), which is what
    underflows there: this one is bounded, and exact at any logit gap.
    """
    return _one_hot(target, logits) - logits.masked_fill(~foils, -torch.inf).softmax(1)


@contrast("probability", path_dependent=True, own_dtype=True)
def probability(logits: Tensor, target: Tensor, foils: Tensor) -> Tensor:
    """v = p_t (e_t - p), p = softmax over {target} and foils: exactly what autograd through a softmax gives.

    In the logits' own dtype and deliberately unprotected: in float32, from a logit gap of about 18 on, 1 - p_t is exactly 0 and
    the direction of v is wrong. Kept for comparison. Under LRP this is not SGLRP (Iwana et al. 2019), whose relevance at the
    logits is this v itself: ours is v_s y_s.
    """
    e_t = _one_hot(target, logits)
    p = logits.masked_fill(~(foils | e_t.bool()), -torch.inf).softmax(1)
    return p.gather(1, target[:, None]) * (e_t - p)


@contrast("finer")
def finer(logits: Tensor, target: Tensor, foils: Tensor, gamma: float = 0.6, k: int = 3) -> Tensor:
    """v = e_t - gamma * mean of e_s over the k foils nearest to the target in logit (all foils where there are fewer).

    The contrast of Finer-CAM (Zhang et al. 2025), gamma and k as in the paper, here with a signed map. Ties go to the lower
    index. The authors' released code weighs the k foils by p_s / sum p instead, with gamma 1 and gradients through the weights:
    `weighted` with ``foils=k`` (where t is the most probable class), plus a gradient term.

    Raises:
        WcxError: k is not a positive integer, or gamma no number.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise WcxError(f"finer: k = {k!r} is not a number of foils; give an integer of at least 1.")
    if isinstance(gamma, bool) or not isinstance(gamma, (int, float)) or not math.isfinite(gamma):
        raise WcxError(f"finer: gamma = {gamma!r} is no weight of the foils; give a number, such as 0.6.")
    gap = (logits - logits.gather(1, target[:, None])).abs().masked_fill(~foils, torch.inf)
    order = gap.sort(dim=1, stable=True).indices[:, :k]
    nearest = torch.zeros_like(foils).scatter_(1, order, value=True) & foils
    return _one_hot(target, logits) - gamma * nearest.to(logits.dtype) / nearest.sum(1, keepdim=True)


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
        contrast: original, mean, max, weighted, probability, finer; or a list of them.
        foils: the classes it is contrasted with. None: every other class; a list of class ids; an (N, K) tensor of class ids,
            a set for each image; an int k: the k most probable others. A target among its own foils is left out of them.
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
    names = [contrast] if isinstance(contrast, str) else list(contrast)
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


def as_targets(target: Target, logits: Tensor) -> Tensor:
    """Return `target` as int64 class ids (N,) or (T, N) on the logits' device.

    Raises:
        WcxError: not integers, of another shape, or outside 0 ... C - 1.
    """
    if logits.ndim != 2 or not logits.is_floating_point() or logits.numel() == 0:
        raise WcxError(f"logits have shape {tuple(logits.shape)} and dtype {logits.dtype}; expected floating (N, C).")
    n, classes = logits.shape
    ids = _as_ids(target, "target", logits)
    if ids.ndim == 0:
        ids = ids.expand(n)
    if ids.ndim not in (1, 2) or ids.shape[-1] != n:
        raise WcxError(f"target has shape {tuple(ids.shape)} for {n} images; give an int, ({n},) or (T, {n}).")
    _check_range(ids, "target", classes)
    return ids


def foil_masks(logits: Tensor, targets: Tensor, foils: Foils = None) -> Tensor:
    """Return the foils of every image as a mask (..., N, C), the image's own target of targets (..., N) left out.

    Raises:
        WcxError: foils not integers, of another shape or out of range; no foil left beside the target.
    """
    n, classes = logits.shape
    is_target = nn.functional.one_hot(targets, classes).bool()
    if foils is None:
        return ~is_target
    if classes == 1:
        raise WcxError("foils were given to a model of one class (a sigmoid), which has none; leave foils out.")
    if isinstance(foils, Integral) and not isinstance(foils, bool):
        foils = int(foils)
        if not 1 <= foils < classes:
            raise WcxError(
                f"foils={foils} asks for the {foils} most probable others of {classes} classes; give 1 to {classes - 1}."
            )
        order = logits.masked_fill(is_target, -torch.inf).sort(dim=-1, descending=True, stable=True).indices
        return torch.zeros_like(is_target).scatter_(-1, order[..., : int(foils)], value=True)
    ids = _as_ids(foils, "foils", logits)
    if ids.ndim == 1:
        ids = ids.expand(n, -1)
    if ids.ndim != 2 or ids.shape[0] != n:
        raise WcxError(
            f"foils have shape {tuple(ids.shape)} for {n} images; give None, an int k, a list of class ids or ({n}, K)."
        )
    _check_range(ids, "foil", classes)
    masks = torch.zeros(n, classes, dtype=torch.bool, device=logits.device).scatter_(1, ids, value=True) & ~is_target
    if len(lonely := targets[~masks.any(-1)]):
        raise WcxError(f"no foil is left for target {lonely[0]}: name at least one class beside the target itself.")
    return masks


def most_probable(logits: Tensor, k: int) -> Tensor:
    """Return t_1 ... t_k, the most probable classes of logits (N, C), as (k, N); of equals the lower id first."""
    if logits.shape[1] < k:
        raise WcxError(f"targets = {k}, but the model has {logits.shape[1]} classes.")
    return logits.sort(dim=1, descending=True, stable=True).indices[:, :k].T


def split_options(contrasts: Sequence[str], options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return for each of `contrasts` those of `options` that it knows; WcxError if none does, or no contrast is named."""
    if not contrasts:
        raise WcxError(f"no contrast is named; give at least one of: {', '.join(names())}.")
    options_of = {name: list(get(name).defaults) for name in contrasts}
    for key in options:
        if not any(key in keys for keys in options_of.values()):
            listing = "; ".join(f"{name}: {', '.join(keys) or 'none'}" for name, keys in options_of.items())
            raise WcxError(f"unknown contrast option {key!r}. Options by contrast: {listing}.")
    return {name: {key: value for key, value in options.items() if key in keys} for name, keys in options_of.items()}


def _one_hot(index: Tensor, like: Tensor) -> Tensor:
    return torch.zeros_like(like).scatter_(1, index[:, None], 1.0)


def _as_ids(values: Target | Foils, what: str, logits: Tensor) -> Tensor:
    try:
        ids = torch.as_tensor(values, device=logits.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise WcxError(f"{what} {values!r} are not class ids; give integers.") from error
    if ids.numel() == 0:
        raise WcxError(f"{what} {values!r} name no class; give at least one.")
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise WcxError(f"{what} of dtype {ids.dtype} are not class ids; give integers.")
    return ids.long()


def _check_range(ids: Tensor, what: str, classes: int) -> None:
    wrong = ids[(ids < 0) | (ids >= classes)]
    if wrong.numel():
        raise WcxError(f"{what} {int(wrong[0])} is out of range: the model has {classes} classes, 0 to {classes - 1}.")
