"""Occlusion (Zeiler & Fergus 2014) of a contrast."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wcx.errors import WcxError
from wcx.methods._masked import MaskedMethod, checked


class Occlusion(MaskedMethod):
    """phi_ij = mean over the windows that hide pixel ij of g(x) - g(x without the window), shared evenly among the channels.

    Args:
        window: side of the square that is hidden, in pixels of an image of side 224.
        stride: from one window to the next, likewise; those that reach over the edge are cut there.
        value, baseline, space, sigma, batch_size: see `MaskedMethod`.
    """

    def __init__(
        self,
        window: int = 32,
        stride: int = 16,
        value: str = "contrast",
        baseline: str | Tensor = "zeros",
        space: str = "normalized",
        sigma: float = 15.0,
        batch_size: int = 32,
    ) -> None:
        super().__init__(value, baseline, space, sigma, batch_size)
        self.window, self.stride = checked("occlusion: window", window), checked("occlusion: stride", stride)
        if stride > window:
            raise WcxError(
                f"occlusion: stride = {stride} leaves pixels between windows of {window}; give at most that."
            )

    def count(self, height: int, width: int) -> int:
        return len(self._spans(height, height, width)) * len(self._spans(width, height, width))

    def masks(self, numbers: range, height: int, width: int) -> Tensor:
        """See `MaskedMethod.masks`; rows first."""
        down, across = self._spans(height, height, width), self._spans(width, height, width)
        masks = torch.ones(len(numbers), height, width, dtype=torch.float64)
        for mask, number in zip(masks, numbers, strict=True):
            mask[down[number // len(across)], across[number % len(across)]] = 0
        return masks

    def gains(self, clean: Tensor, values: Tensor) -> Tensor:
        return clean - values

    def shares(self, masks: Tensor) -> Tensor:
        height, width = masks.shape[-2:]
        down, across = (self._cover(self._spans(n, height, width), n) for n in (height, width))
        return (1 - masks) / (down[:, None] * across).to(masks)

    def _spans(self, n: int, height: int, width: int) -> list[slice]:
        """Return what the windows hide along an axis of n pixels."""
        side = min(height, width)
        window, stride = (max(1, round(length * side / 224)) for length in (self.window, self.stride))
        steps = max(0, math.ceil((n - window) / stride)) + 1
        return [slice(step * stride, min(step * stride + window, n)) for step in range(steps)]

    @staticmethod
    def _cover(spans: list[slice], n: int) -> Tensor:
        """Return how many windows hide each of n pixels, float64."""
        cover = torch.zeros(n, dtype=torch.float64)
        for span in spans:
            cover[span] += 1
        return cover
