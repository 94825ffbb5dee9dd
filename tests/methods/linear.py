"""Proposition 3: one pass is the sum over classes, under every contrast; not a test itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import wcx
from wcx import contrasts


def check(
    explained: Callable[[str], Tensor],
    phis: Tensor,
    logits: Tensor,
    target: Tensor,
    tolerance: float = 1e-9,
    names: Sequence[str] = tuple(contrasts.names()),
) -> None:
    """Compare maps (N, ...) of each contrast with sum_s v_s phi^s, relative to sum_s abs(v_s) norm(phi^s).

    Args:
        explained: a contrast's name -> the maps.
        phis: (N, C, ...), each class by itself.
        logits: (N, C).
        target: (N,).
        tolerance: of an image's error.
        names: of contrasts.
    """
    for name in names:
        v = wcx.cotangent(logits, target, name)
        size = (v.abs() * phis.flatten(2).norm(dim=2)).sum(1)
        error = explained(name) - torch.einsum("ns,ns...->n...", v, phis)
        assert bool((error.flatten(1).norm(dim=1) <= tolerance * size).all()), name
