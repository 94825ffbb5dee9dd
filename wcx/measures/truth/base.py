"""What a score against a known answer is, and what all of them read off the maps.

The pixels of an image fall into A cells: the finest pieces by which the regions of its parts, in any of its questions, and the
pixels that change in any twin can be put together. What a map has in each cell is summed once, and serves every question.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

TIE = 1e-9  # of the largest absolute value: numbers nearer than that are equal, for sums are rounded


@dataclass(frozen=True)
class Truth:
    """One question of one image, and its answer.

    Attributes:
        effects: what each part does to the answer, float64 (R,); 0 of a part that does not vary.
        candidates: the parts that are visible and scored, bool (R,).
        swapped: the parts in which the target and the foils differ, bool (R,).
        right: the part that is asked for; None where there is no single one.
        members: which cells make up a part's region, float64 (A, R).
        changed: which cells change, bool (A,).
        mask: which cells show a swapped part in the image, bool (A,).
        sizes: pixels of each cell, float64 (A,).
        pixels: those that change, int64 (n,), indices into the flat image.
        mask_pixels: those of `mask`, likewise.
    """

    effects: Tensor
    candidates: Tensor
    swapped: Tensor
    right: int | None
    members: Tensor
    changed: Tensor
    mask: Tensor
    sizes: Tensor
    pixels: Tensor
    mask_pixels: Tensor

    @cached_property
    def areas(self) -> Tensor:
        """Pixels of each part's region, float64 (R,)."""
        return self.sizes @ self.members

    def painted(self, kind: str) -> Tensor:
        """Return the answer as a map, a value a cell, float64 (A,).

        Args:
            kind: ``mean``, a part's effect on its region; ``sum``, over its pixels; ``changed``, 1 where pixels change; ``mask``, 1
                where a swapped part is seen.
        """
        if kind in ("changed", "mask"):
            return (self.changed if kind == "changed" else self.mask).double()
        values = self.effects if kind == "mean" else self.effects / self.areas.clamp(min=1)
        return self.members @ values


@dataclass
class Readings:
    """What is read off K maps of one image.

    Attributes:
        sums: over each cell, float64 (K, A).
        positive: of the positive values alone, (K, A).
        maps: the maps themselves, flat, (K, H W).
    """

    sums: Tensor
    positive: Tensor
    maps: Tensor
    _ranks: Tensor | None = field(default=None, repr=False)
    _sorted: Tensor | None = field(default=None, repr=False)
    _counted: list[tuple[Tensor, tuple[Tensor, Tensor]]] = field(default_factory=list, repr=False)

    @classmethod
    def of(cls, maps: Tensor, cells: Tensor) -> Readings:
        """Return those of maps (K, H W), float32 on the CPU, given the cell of each pixel, int64 (H W,).

        Sums are in float64.
        """
        onehot = torch.nn.functional.one_hot(cells).double()
        values = maps.double()
        return cls(values @ onehot, values.clamp(min=0) @ onehot, maps)

    def recut(self, cells: Tensor) -> Readings:
        """Return the same maps read by other cells, summed in their own precision; what is known of their ranks stays."""
        onehot = torch.nn.functional.one_hot(cells).to(self.maps.dtype)
        positive = self.maps.clamp(min=0)
        return Readings((self.maps @ onehot).double(), (positive @ onehot).double(), self.maps, self._ranks)

    def rank(self) -> Readings:
        """Keep the rank of every pixel in its map, from 0, for maps that have no ties and are asked again and again."""
        order = self.maps.argsort(dim=1)
        places = torch.arange(order.shape[1], dtype=torch.int32).expand(order.shape)
        self._ranks = torch.empty_like(order, dtype=torch.int32).scatter_(1, order, places)
        return self

    def sort(self) -> Tensor:
        """Return the values of each map in their order, (K, H W), and keep them.

        NumPy's sort is twenty times as fast as torch's on a CPU.
        """
        if self._sorted is None:
            self._sorted = torch.from_numpy(np.sort(self.maps.numpy(), axis=1))
        return self._sorted

    def take(self, rows: Tensor) -> Readings:
        """Return those of some of the maps."""
        ranks, ordered = (None if table is None else table[rows] for table in (self._ranks, self._sorted))
        return Readings(self.sums[rows], self.positive[rows], self.maps[rows], ranks, ordered)

    def counts(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return how many pixels of the map are smaller, and how many are at most as large, as each of some; (K, n) each.

        The last two answers are kept: several scores ask about the same pixels.
        """
        for asked, counts in self._counted:
            if asked is pixels:
                return counts
        self._counted = [*self._counted[-1:], (pixels, self._count(pixels))]
        return self._counted[-1][1]

    def _count(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        if self._ranks is not None:
            less = self._ranks[:, pixels].double()
            return less, less + 1
        table = self.sort()
        values = self.maps[:, pixels].contiguous()
        return torch.searchsorted(table, values).double(), torch.searchsorted(table, values, right=True).double()

    def parts(self, truth: Truth, kind: str) -> Tensor:
        """Return a number a part: the ``sum`` of the map over its region, or the ``mean``; (K, R)."""
        sums = self.sums @ truth.members
        return sums if kind == "sum" else sums / truth.areas.clamp(min=1)


class TruthScore(ABC):
    """A number, or a few, of each of K maps of one image against the answer to one question.

    Attributes:
        columns: names of its numbers.
        painted: for each the kind of map that the answer paints, see `Truth.painted`: its ceiling.
        needs_right: it is of questions that ask for one part.
        needs_pixels: it is of questions in which all that changes is known.
    """

    columns: ClassVar[Sequence[str]]
    painted: ClassVar[Sequence[str]]
    needs_right: ClassVar[bool] = False
    needs_pixels: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, readings: Readings, truth: Truth) -> Tensor:
        """Return the numbers, float64 (K, columns), NaN where they are not defined."""


def equal(a: Tensor, b: Tensor) -> Tensor:
    """Return where numbers are equal up to the rounding of sums, see `TIE`."""
    return (a - b).abs() <= TIE * torch.maximum(a.abs(), b.abs())
