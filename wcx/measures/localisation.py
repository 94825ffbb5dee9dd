"""Localisation: the share of positive attribution inside the object's box (section 6)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
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
        """See `Measure.columns`."""
        return ["box_fraction", *(f"inside_box/{rank}" for rank in ranks)]

    def __call__(self, maps: Tensor, ranks: Sequence[str], box: np.ndarray | None) -> dict[str, float]:
        """See `Measure`; nothing for an image whose box is not known."""
        if box is None:
            return {}
        x, y, w, h = (float(side) for side in box)
        height, width = maps.shape[-2:]
        rows, columns = _cover(y, h, height), _cover(x, w, width)
        values = {"box_fraction": w * h / (height * width)}
        for rank, attribution in zip(ranks, maps, strict=True):
            positive = attribution.double().clamp(min=0)
            total = float(positive.sum())
            inside = float(rows.to(positive) @ positive @ columns.to(positive))
            values[f"inside_box/{rank}"] = inside / total if total > 0 else float("nan")
        return values


def _cover(start: float, length: float, n: int) -> Tensor:
    """Return how much of each of n pixels the interval covers, 0 to 1."""
    edges = torch.arange(n, dtype=torch.float64)
    return (torch.clamp(edges + 1, max=start + length) - torch.clamp(edges, min=start)).clamp(0, 1)
