"""RISE (Petsiuk et al. 2018) of a contrast."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from wcx.errors import WcxError
from wcx.methods._masked import MaskedMethod, checked


class Rise(MaskedMethod):
    """phi_ij = 1 / (M p) sum_m m_ij g(x_m), shared evenly among the channels, over random masks m.

    A mask is a grid of cells that are kept with probability p, enlarged bilinearly and moved by a random part of a cell. The masks
    are the same for every image, so that an explanation does not depend on the batch, and drawn on the CPU.

    Args:
        samples: M; the paper has 4000 to 8000.
        grid: cells along a side.
        keep: p.
        seed: of the masks.
        value, baseline, space, sigma, batch_size: see `MaskedMethod`.
    """

    def __init__(
        self,
        samples: int = 1000,
        grid: int = 7,
        keep: float = 0.5,
        seed: int = 0,
        value: str = "contrast",
        baseline: str | Tensor = "zeros",
        space: str = "normalized",
        sigma: float = 15.0,
        batch_size: int = 32,
    ) -> None:
        super().__init__(value, baseline, space, sigma, batch_size)
        self.samples, self.grid = checked("rise: samples", samples), checked("rise: grid", grid)
        self.keep, self.seed = keep, seed
        if not 0 < keep < 1:
            raise WcxError(f"rise: keep = {keep} is no probability; give a number between 0 and 1.")

    def count(self, height: int, width: int) -> int:
        return self.samples

    def masks(self, numbers: range, height: int, width: int) -> Tensor:
        cells = tuple(math.ceil(n / self.grid) for n in (height, width))
        size = [(self.grid + 1) * cell for cell in cells]
        masks = []
        for number in numbers:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
            kept = torch.rand(1, 1, self.grid, self.grid, generator=generator, dtype=torch.float64) < self.keep
            top, left = (int(torch.randint(cell, (1,), generator=generator)) for cell in cells)
            large = nn.functional.interpolate(kept.double(), size, mode="bilinear", align_corners=False)[0, 0]
            masks.append(large[top : top + height, left : left + width])
        return torch.stack(masks)

    def gains(self, clean: Tensor, values: Tensor) -> Tensor:
        return values

    def shares(self, masks: Tensor) -> Tensor:
        return masks / (self.samples * self.keep)
