"""CASE (2025, arXiv 2506.07327): GradCAM whose channel weights are cleared of what the foils share."""

from __future__ import annotations

import torch
from torch import Tensor

from wcx.methods._parts import favoured, opposed
from wcx.methods.activation import ActivationMethod


class CASE(ActivationMethod):
    """phi = sum_k (w_t - <w_t, w_F> / norm(w_F)^2 w_F)_k a^k, w GradCAM's weights of the target and of the foils.

    w_t are those of what v favours, w_F those of what it opposes: with contrast `mean`, of the mean of the foils. As published:
    ``contrast=mean foils=confused:5 method.relu=true``. Where v opposes no class (`original`), the five most probable others are
    the foils. The projection is exact: the authors' code adds 1e-8 to the squared norm, here a w_F of 0 takes nothing away.

    A contrast e_t - gamma mean of e_s whose gamma depends on the layer's activation: for one v linear in the gradients, but not
    in v.
    """

    linear = False
    parts = (favoured, opposed)

    def combine(self, activation: Tensor, target: Tensor, foils: Tensor) -> Tensor:
        """See `ActivationMethod.combine`."""
        w_t, w_f = (gradient.mean((-2, -1), keepdim=True) for gradient in (target, foils))
        size = (w_f * w_f).sum(-3, keepdim=True)
        gamma = (w_t * w_f).sum(-3, keepdim=True) / torch.where(size > 0, size, 1)
        return ((w_t - gamma * w_f) * activation).sum(-3)
