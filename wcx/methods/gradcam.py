"""GradCAM (Selvaraju et al. 2017; Wang & Wang 2022, Eq. 2)."""

from __future__ import annotations

from torch import Tensor

from wcx.methods.activation import ActivationMethod


class GradCAM(ActivationMethod):
    """phi = sum_k (mean over i, j of dy/da^k_ij) a^k. Without `relu` negative values stay: the contrastive features."""

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """See `ActivationMethod.combine`."""
        return (gradient.mean((-2, -1), keepdim=True) * activation).sum(-3)
