"""Localisation: the share of positive attribution inside the object's box (section 6)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wcx.measures.base import Measure


class Localisation(Measure):
    """sum of max(phi, 0) inside the box / sum of max(phi, 0), NaN without positive attribution; beside the box's share.

    A box x, y, w, h in pixels may cut through pixels, which then count by the part that it covers.
    """

    needs_box = True

    @staticmethod
    def columns(ranks: Sequence[str]) -> list[str]:
        return ["box_fraction", *(f"inside_box/{rank}" for rank in ranks)]

    def __call__(self, maps: Tensor, boxes: Tensor) -> Tensor:
        """See `Measure`; NaN for an image whose box is not known."""
        x, y, w, h = boxes.T
        height, width = maps.shape[-2:]
        rows, columns = _cover(y, h, height)[:, None, None, :], _cover(x, w, width)[:, None, :, None]
        positive = maps.double().clamp(min=0)
        inside = (rows @ (positive @ columns))[..., 0, 0]  # 0 / 0 is NaN
        return torch.cat([(w * h / (height * width))[:, None], inside / positive.sum((2, 3))], dim=1)


def _cover(start: Tensor, length: Tensor, n: int) -> Tensor:
    """Return how much of each of n pixels the intervals (N,) cover, 0 to 1, (N, n)."""
    edges = torch.arange(n, dtype=torch.float64, device=start.device)
    first, last = start[:, None], (start + length)[:, None]
    return (torch.minimum(edges + 1, last) - torch.maximum(edges, first)).clamp(0, 1)
