"""Contrasts that others have published: each is a vector, too."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wcx.contrasts.base import contrast, one_hot
from wcx.errors import WcxError


@contrast("finer")
def finer(logits: Tensor, target: Tensor, foils: Tensor, gamma: float = 0.6, k: int = 3) -> Tensor:
    """v = e_t - gamma * mean of e_s over the k foils nearest to the target in logit (all foils where there are fewer).

    The contrast of Finer-CAM (Zhang et al. 2025), gamma and k as in the paper, here with a signed map. Ties go to the lower
    index. The authors' released code does another thing: `finer_code`.

    Raises:
        WcxError: k is not a positive integer, or gamma no number.
    """
    nearest = _nearest("finer", logits, target, foils, gamma, k)
    return one_hot(target, logits) - gamma * nearest.to(logits.dtype) / nearest.sum(1, keepdim=True)


@contrast("finer_code")
def finer_code(logits: Tensor, target: Tensor, foils: Tensor, gamma: float = 1.0, k: int = 3) -> Tensor:
    """v = e_t - gamma * beta * (1 + y - sum_s beta_s y_s), beta = softmax of the logits over the k foils nearest in logit.

    What Finer-CAM's released code descends: the gradient of y_t - gamma sum_s beta_s y_s through the weights beta_s =
    p_s / sum p as well (less its 1e-9 in the denominator). With frozen weights and gamma 1 it were `weighted` restricted to
    these k foils, which are ``foils=k`` where t is the most probable class; the term beta * (y - sum_s beta_s y_s) sums to
    zero, and is as large as the foils' logits lie apart: no rounding. Foils and options as for `finer`.

    Raises:
        WcxError: k is not a positive integer, or gamma no number.
    """
    nearest = _nearest("finer_code", logits, target, foils, gamma, k)
    beta = logits.masked_fill(~nearest, -torch.inf).softmax(1)
    return one_hot(target, logits) - gamma * beta * (1 + logits - (beta * logits).sum(1, keepdim=True))


@contrast("counterfactual", uses_foils=False)
def counterfactual(logits: Tensor, target: Tensor, foils: Tensor) -> Tensor:
    """v = -e_t: what speaks against the target (Selvaraju et al. 2017, section 3.3). Ignores the foils."""
    return -one_hot(target, logits)


@contrast("cross_entropy")
def cross_entropy(logits: Tensor, target: Tensor, foils: Tensor) -> Tensor:
    """v = p - mean of e_s over the foils, p the softmax over all classes: "why p, rather than Q?" (Prabhushankar et al. 2020).

    The gradient of the cross entropy of the foil Q, or of its mean over several. The target is implied, as the class that
    p is sure of: at p_t = 1 this is `mean` (`max` with one foil), at p_Q = 1 it vanishes. It tells no target from another.
    """
    return logits.softmax(1) - foils.to(logits.dtype) / foils.sum(1, keepdim=True)


@contrast("clrp")
def clrp(logits: Tensor, target: Tensor, foils: Tensor) -> Tensor:
    """v = y_t (e_t - mean of e_s over the foils): the relevance that CLRP (Gu et al. 2018) begins with, its second variant.

    CLRP itself is ``method=lrp method.seed=relevance method.composite=z_plus method.relu=true`` under this contrast.
    """
    against = foils.to(logits.dtype) / foils.sum(1, keepdim=True)
    return logits.gather(1, target[:, None]) * (one_hot(target, logits) - against)


def _nearest(name: str, logits: Tensor, target: Tensor, foils: Tensor, gamma: float, k: int) -> Tensor:
    """Return the k foils nearest to the target in logit, of equals the lower ids, as a mask (N, C)."""
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise WcxError(f"{name}: k = {k!r} is not a number of foils; give an integer of at least 1.")
    if isinstance(gamma, bool) or not isinstance(gamma, (int, float)) or not math.isfinite(gamma):
        raise WcxError(f"{name}: gamma = {gamma!r} is no weight of the foils; give a number, such as 0.6.")
    gap = (logits - logits.gather(1, target[:, None])).abs().masked_fill(~foils, torch.inf)
    order = gap.sort(dim=1, stable=True).indices[:, :k]
    return torch.zeros_like(foils).scatter_(1, order, value=True) & foils
