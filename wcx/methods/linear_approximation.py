"""Linear approximation: activation x gradient (Wang & Wang 2022, section 4)."""

from __future__ import annotations

from torch import Tensor

from wcx.errors import choose
from wcx.methods.activation import ActivationMethod

CANCELLED = 5e-3  # of the terms' size: random signs leave 0.02 of 2,000 channels, a LayerNorm's epsilon 1e-5


class LinearApproximation(ActivationMethod):
    """phi_ij = sum_k a^k_ij dy/da^k_ij: the first-order change of y if position ij were removed.

    Args:
        reduction: over the channels, ``sum`` (the paper) or ``mean`` (the authors' code; the same signs).
        relu: see `ActivationMethod`.
    """

    may_cancel = True

    def __init__(self, reduction: str = "sum", relu: bool = False) -> None:
        super().__init__(relu)
        self.reduction = choose("reduction", reduction, ["sum", "mean"])

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """See `ActivationMethod.combine`."""
        product = activation * gradient
        return product.sum(-3) if self.reduction == "sum" else product.mean(-3)

    def cancels(self, activation: Tensor, gradient: Tensor) -> bool:
        """See `ActivationMethod.cancels`: before a LayerNorm, the channels of each token do.

        A token times a number gives the same output, so that by Euler's theorem sum_k a^k dy/da^k = 0. CDAM
        (arXiv 2312.02364), which is this method on tokens, takes them behind the norm.
        """
        product = activation * gradient
        return bool(product.sum(-3).norm() < CANCELLED * product.abs().sum(-3).norm())
