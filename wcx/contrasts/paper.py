"""The paper's contrasts (section 3.3), and what it contrasts with."""

from __future__ import annotations

import torch
from torch import Tensor

from wcx.contrasts.base import contrast, one_hot


@contrast("original", uses_foils=False)
def original(logits: Tensor, target: Tensor, foils: Tensor) -> Tensor:
    """v = e_t: the target's logit alone. Ignores the foils."""
    return one_hot(target, logits)


@contrast("mean")
def mean(logits: Tensor, target: Tensor, foils: Tensor) -> Tensor:
    """v = e_t - mean of e_s over the foils (section 3.3).

    With a cluster of confusable classes as foils (``foils=confused:k``), CWOX's class within its cluster (Xie et al. 2023).
    Under LRP this is not CLRP (Gu et al. 2018), whose *relevance* at the logits is y_t times this v (`clrp`): ours is v_s y_s.
    """
    return one_hot(target, logits) - foils.to(logits.dtype) / foils.sum(1, keepdim=True)


@contrast("max")
def maximum(logits: Tensor, target: Tensor, foils: Tensor) -> Tensor:
    """v = e_t - e_s*, where s* is the foil of the largest logit, the first index on ties (section 3.3)."""
    rival = logits.masked_fill(~foils, -torch.inf).argmax(1)
    return one_hot(target, logits) - one_hot(rival, logits)


@contrast("weighted")
def weighted(logits: Tensor, target: Tensor, foils: Tensor) -> Tensor:
    """v = e_t - alpha, alpha = softmax of the logits over the foils (section 3.3, Eq. 1).

    The gradient of the log-odds y_t - logsumexp_F(y). It equals the softmax's gradient divided by p_t (1 - p_t), which is what
    underflows there: this one is bounded, and exact at any logit gap.
    """
    return one_hot(target, logits) - logits.masked_fill(~foils, -torch.inf).softmax(1)


@contrast("probability", path_dependent=True, own_dtype=True)
def probability(logits: Tensor, target: Tensor, foils: Tensor) -> Tensor:
    """v = p_t (e_t - p), p = softmax over {target} and foils: exactly what autograd through a softmax gives.

    In the logits' own dtype and deliberately unprotected: in float32, from a logit gap of about 18 on, 1 - p_t is exactly 0 and
    the direction of v is wrong. Kept for comparison. Under LRP this is not SGLRP (Iwana et al. 2019), whose relevance at the
    logits is this v itself: ours is v_s y_s.
    """
    e_t = one_hot(target, logits)
    p = logits.masked_fill(~(foils | e_t.bool()), -torch.inf).softmax(1)
    return p.gather(1, target[:, None]) * (e_t - p)
