"""Which classes are explained, and which they are contrasted with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor, nn

from wcx.errors import WcxError

Target = int | Sequence[int] | Tensor


@dataclass(frozen=True)
class Confused:
    """As foils: the k classes with which a network confuses the target most.

    Attributes:
        k: how many.
        confusion: soft confusion (C, C), C[t, s] = mean p_s over images of class t; a row of NaN where there are none.
    """

    k: int
    confusion: Tensor

    @staticmethod
    def count(setting: object) -> int | None:
        """Return k of a setting ``confused:k``; None if it is no text.

        Raises:
            WcxError: another text.
        """
        if not isinstance(setting, str):
            return None
        name, _, number = setting.partition(":")
        if name != "confused" or not number.isdecimal() or int(number) < 1:
            raise WcxError(f"foils = {setting!r}: give null, an int k, class ids, or confused:k, such as confused:5.")
        return int(number)

    def masks(self, targets: Tensor, classes: int) -> Tensor:
        """Return the foils of targets (..., N) as masks (..., N, C): the k largest C[t, s], s not t, of equals the lower ids.

        Raises:
            WcxError: a confusion of another number of classes, fewer than k others, or a target without images.
        """
        if self.confusion.shape != (classes, classes) or not 1 <= self.k < classes:
            raise WcxError(
                f"foils=confused:{self.k} with a confusion of shape {tuple(self.confusion.shape)} for {classes} classes; give one "
                f"of ({classes}, {classes}) and 1 to {classes - 1} foils."
            )
        rows = self.confusion.to(targets.device)[targets]
        if bool((empty := rows.isnan().any(-1)).any()):
            raise WcxError(
                f"class {int(targets[empty][0])} has no training image, so that nothing tells what it is confused with; name its "
                "foils."
            )
        is_target = nn.functional.one_hot(targets, classes).bool()
        order = rows.masked_fill(is_target, -torch.inf).sort(dim=-1, descending=True, stable=True).indices
        return torch.zeros_like(is_target).scatter_(-1, order[..., : self.k], value=True)


Foils = int | Sequence[int] | Tensor | Confused | None


def as_targets(target: Target, logits: Tensor) -> Tensor:
    """Return `target` as int64 class ids (N,) or (T, N) on the logits' device.

    Raises:
        WcxError: not integers, of another shape, or outside 0 ... C - 1.
    """
    if not isinstance(logits, Tensor):
        raise WcxError(f"logits are a {type(logits).__name__}; expected a floating tensor (N, C).")
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

    For `foils` see `cotangent`.

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
        return torch.zeros_like(is_target).scatter_(-1, order[..., :foils], value=True)
    if isinstance(foils, Confused):
        return foils.masks(targets, classes)
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
