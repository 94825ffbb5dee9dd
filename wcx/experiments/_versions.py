"""Versions of images whose pixels are hidden: what is hidden in each, which are the same, and which passes they need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from wcx.errors import WcxError
from wcx.explainer import upsample

NUMBERS = 2**22  # of up-sampled maps, or of masks, that are made at a time: what bounds the memory beside the passes'


@dataclass(frozen=True)
class Versions:
    """What is hidden of a batch of images, M versions each: version m of image n hides where sign * field < bound.

    Attributes:
        fields: (N F, 1, H, W), whole numbers: signs, or ranks, of maps.
        which: of the fields, (N M,).
        signs: 1 or -1, (N M, 1, 1, 1).
        bounds: (N M, 1, 1, 1).
    """

    fields: Tensor
    which: Tensor
    signs: Tensor
    bounds: Tensor

    @classmethod
    def of(cls, fields: Tensor, bounds: Tensor, versions: Sequence[tuple[int, int]]) -> Versions:
        """Return those of N images.

        Args:
            fields: (N, F, H, W).
            bounds: (N, M).
            versions: field and sign of each of the M.
        """
        which, signs = np.array(versions).T
        first = np.arange(len(fields))[:, None] * fields.shape[1]
        table = np.stack([first + which, np.broadcast_to(signs, bounds.shape)]).reshape(2, -1)
        index, sign = torch.from_numpy(table).to(fields.device)
        column = (len(index), 1, 1, 1)
        return cls(fields.flatten(0, 1)[:, None], index, *(t.to(fields.dtype).view(column) for t in (sign, bounds)))

    def chosen(self, rows: Tensor) -> Versions:
        """Return those of some rows of N M."""
        return Versions(self.fields, self.which[rows], self.signs[rows], self.bounds[rows])

    def split(self, sizes: Sequence[int]) -> Iterator[Versions]:
        """Yield consecutive ones."""
        parts = (rows.split(sizes) for rows in (self.which, self.signs, self.bounds))
        return (Versions(self.fields, *rows) for rows in zip(*parts, strict=True))

    def pieces(self, size: int) -> list[Versions]:
        """Return consecutive ones, at most `size` each."""
        lengths = [min(size, len(self.which) - start) for start in range(0, len(self.which), size)]
        return [*self.split(lengths)] if lengths[1:] else [self]

    def masks(self, dtype: torch.dtype) -> Tensor:
        """Return 1 where a pixel is hidden and 0 elsewhere, (..., 1, H, W)."""
        masks = torch.empty(len(self.which), *self.fields.shape[1:], dtype=dtype, device=self.fields.device)
        return torch.lt(self.fields.index_select(0, self.which).mul_(self.signs), self.bounds, out=masks)

    def codes(self) -> tuple[Tensor, Tensor]:
        """Return 64 random bits that tell masks apart, and the numbers of hidden pixels, int64 (N M,) each.

        A mask's code is the sum of its pixels' eight random bytes each, as whole numbers below 2^24, which float32 holds exactly
        in any order: two masks that differ have the same code with a probability of 2^-64.
        """
        pixels = self.fields[0].numel()
        weights, mixing = (table.to(self.fields.device) for table in _weights(pixels))
        size = max(1, 2 * NUMBERS // pixels)
        sums = torch.cat([part.masks(torch.float32).flatten(1) @ weights for part in self.pieces(size)]).long()
        return (sums[:, 1:] * mixing).sum(1), sums[:, 0]


@lru_cache(maxsize=4)
def _weights(pixels: int) -> tuple[Tensor, Tensor]:
    """Return ones beside n columns of random bytes, float32 (pixels, 1 + n), and by what n sums are mixed, int64 (n,)."""
    bits = min(8, 24 - pixels.bit_length())
    if bits < 1:
        raise WcxError(f"images of {pixels} pixels: masks are told apart up to {2**23 - 1}; give smaller images.")
    generator, columns = torch.Generator().manual_seed(0), -(-64 // bits)
    weights = torch.randint(2**bits, (pixels, columns), generator=generator).float()
    mixing = torch.randint(-(2**62), 2**62, (columns,), generator=generator) * 2 + 1
    return torch.cat([torch.ones(pixels, 1), weights], dim=1), mixing


def places(maps: Tensor, descending: bool = False) -> Tensor:
    """Return the rank of each pixel of maps (..., H, W) in its map, from 0, int32; ties by index."""
    order = maps.flatten(-2).sort(dim=-1, descending=descending, stable=True).indices
    ranks = torch.arange(order.shape[-1], dtype=torch.int32, device=maps.device).expand(order.shape)
    return torch.empty_like(ranks, memory_format=torch.contiguous_format).scatter_(-1, order, ranks).view(maps.shape)


def enlarged(maps: Sequence[Tensor], side: tuple[int, int], align_corners: bool, size: int) -> Iterator[Tensor]:
    """Yield maps at the images' size, (len(maps), k, n, H, W), of n <= `size` images at a time.

    Args:
        maps: (k, N, h, w), or (k, N, channels, H, W), which are summed over channels.
        side: H, W.
        align_corners: of the bilinear up-sampling.
        size: of what is up-sampled at once.
    """
    flat = [phi.sum(2) if phi.ndim == 5 else phi for phi in maps]
    shapes = [*dict.fromkeys(phi.shape for phi in flat)]
    groups = [[index for index, phi in enumerate(flat) if phi.shape == shape] for shape in shapes]
    order = np.argsort([index for group in groups for index in group]).tolist()
    stacks = [torch.stack([flat[index] for index in group]) for group in groups]
    for start in range(0, flat[0].shape[1], size):
        large = [upsample(stack[:, :, start : start + size], side, align_corners) for stack in stacks]
        yield torch.cat(large)[order] if large[1:] else large[0]


class Plan:
    """Which passes a batch of N images needs, M versions and B baselines each.

    Args:
        first: for each version the first that hides the same, (N, M).
        counts: hidden pixels, (N, M).
        baselines: B.
        size: an image's masks are made at most so many at a time, and each piece is passed under all baselines.

    Attributes:
        distinct: versions that are passed through the network, bool (N, M).
    """

    def __init__(self, first: np.ndarray, counts: np.ndarray, baselines: int, size: int) -> None:
        self._first, self._counts, self._baselines, self._size = first, counts, baselines, size
        self.distinct = (first == np.arange(first.shape[1])) & (counts > 0)

    def tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the distinct among the N M versions; the image of each pass; and `SeenImages.where`.

        An image's passes follow one another, piece by piece and a baseline of it after the other.
        """
        images, sizes = len(self.distinct), self.distinct.sum(1)
        passes = sizes * self._baselines
        starts = images + np.cumsum(passes) - passes
        order = np.take_along_axis(np.cumsum(self.distinct, axis=1) - 1, self._first, axis=1)  # among the distinct
        before = order // self._size * self._size  # those in earlier pieces
        lengths = np.minimum(self._size, sizes[:, None] - before)
        firsts = starts[:, None] + before * self._baselines + order - before
        places = firsts[:, :, None] + lengths[:, :, None] * np.arange(self._baselines)
        clean = np.arange(images)[:, None, None]
        places = np.where(self._counts[:, :, None] > 0, places, clean)
        return np.flatnonzero(self.distinct), np.repeat(np.arange(images), passes), places
