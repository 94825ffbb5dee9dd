"""Linear approximation: activation x gradient (Wang & Wang 2022, section 4)."""

from __future__ import annotations

from torch import Tensor

from wcx.errors import choose
from wcx.methods.activation import ActivationMethod


class LinearApproximation(ActivationMethod):
    """phi_ij = sum_k a^k_ij dy/da^k_ij: the first-order change of y if position ij were removed.

    Args:
        reduction: over the channels, ``sum`` (the paper) or ``mean`` (the authors' code; the same signs).
    """

    def __init__(self, reduction: str = "sum") -> None:
        self.reduction = choose("reduction", reduction, ["sum", "mean"])

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """See `ActivationMethod.combine`."""
        product = activation * gradient
        return product.sum(-3) if self.reduction == "sum" else product.mean(-3)
