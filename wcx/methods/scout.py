"""SCOUT (Wang & Vasconcelos 2020, arXiv 2004.07769), with the softmax score as its confidence."""

from __future__ import annotations

from torch import Tensor

from wcx.methods._parts import confidence, favoured, opposed
from wcx.methods.activation import ActivationMethod
from wcx.methods.linear_approximation import LinearApproximation


class Scout(ActivationMethod):
    """phi = a(t) * (max_ij a(Q) - a(Q)) * a(c) at each position, all three non-negative: the discriminant explanation.

    a(t) and a(Q) are max(sum_k a^k dy/da^k, 0) of what v favours and of what it opposes (with contrast `max`, of one foil);
    a(c) = max(sum_k a^k max(dp_c/da^k, 0), 0) of the largest probability p_c. Where v opposes no class (`original`), the five most
    probable others are Q. The authors' code sets negative values to 1e-7 where this has 0.
    """

    linear = False
    parts = (favoured, opposed, confidence)
    may_cancel = True

    def combine(self, activation: Tensor, target: Tensor, foils: Tensor, score: Tensor) -> Tensor:
        """See `ActivationMethod.combine`."""
        a_t, a_q, a_c = (
            (activation * gradient).sum(-3).clamp(min=0) for gradient in (target, foils, score.clamp(min=0))
        )
        return a_t * (a_q.amax((-2, -1), keepdim=True) - a_q) * a_c

    def cancels(self, activation: Tensor, gradient: Tensor) -> bool:
        """See `ActivationMethod.cancels`: where linear approximation does, whose maps these are."""
        return LinearApproximation().cancels(activation, gradient)
