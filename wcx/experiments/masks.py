"""Which pixels are hidden: by the sign of the attribution (the paper), or so many of the lowest or highest rank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

KINDS = ("sign", "equal", "fraction")


def by_sign(attribution: Tensor, kept: str) -> Tensor:
    """Return the mask (H, W) of the pixels of the other sign than what is kept; zeros stay (section 5.2.2)."""
    return attribution < 0 if kept == "positive" else attribution > 0


def by_rank(attribution: Tensor, kept: str, count: int) -> Tensor:
    """Return the mask (H, W) of the `count` lowest ranks (positive kept) or highest (negative kept); ties by index."""
    order = attribution.flatten().argsort(stable=True)
    chosen = order[:count] if kept == "positive" else order[len(order) - count :]
    mask = torch.zeros(len(order), dtype=torch.bool, device=attribution.device)
    mask[chosen] = True
    return mask.reshape(attribution.shape)


def equal_count(pair: Sequence[Tensor], kept: str, n_minus_one: bool) -> int:
    """Return how many pixels all contrasts mask so that none masks more than another (the authors' code).

    Positive kept: the smaller number of positive pixels of the pair. Negative kept: the larger number of negative
    pixels, and one less with `n_minus_one`, as their comparison of ranks has it.
    """
    if kept == "positive":
        return min(int((one > 0).sum()) for one in pair)
    return max(0, max(int((one < 0).sum()) for one in pair) - int(n_minus_one))


def share_inside(attribution: Tensor, box: np.ndarray) -> float:
    """Return the share of the positive attribution (H, W) inside a box x, y, w, h (pixels); NaN if there is none."""
    height, width = attribution.shape
    positive = attribution.double().clamp(min=0)
    total = float(positive.sum())
    inside = _cover(box[1], box[3], height).to(positive) @ positive @ _cover(box[0], box[2], width).to(positive)
    return float(inside) / total if total > 0 else float("nan")


def _cover(start: float, length: float, n: int) -> Tensor:
    """Return how much of each of n pixels the interval covers, 0 to 1."""
    edges = torch.arange(n, dtype=torch.float64)
    return (torch.clamp(edges + 1, max=start + length) - torch.clamp(edges, min=start)).clamp(0, 1)
