"""XGradCAM, signed (Fu et al. 2020; not in the paper)."""

from __future__ import annotations

import torch
from torch import Tensor

from wcx.methods.activation import ActivationMethod


class XGradCAM(ActivationMethod):
    """phi = sum_k w_k a^k with w_k = (sum_ij a^k_ij dy/da^k_ij) / (sum_ij abs(a^k_ij)).

    Normalised by the absolute sum, since pre-ReLU activations may sum to anything; a channel that is 0 everywhere adds 0.
    """

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """See `ActivationMethod.combine`."""
        size = activation.abs().sum((-2, -1), keepdim=True)
        inner = (activation * gradient).sum((-2, -1), keepdim=True)
        weight = torch.where(size > 0, inner / torch.where(size > 0, size, 1), 0)
        return (weight * activation).sum(-3)
