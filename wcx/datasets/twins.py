"""Datasets that know which part tells two classes apart: twins, the same scene with some parts in their other look."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wcx.datasets.base import ImageDataset


@dataclass(frozen=True)
class TwinImages:
    """An image's twins, the same scene with some parts in their other look, at the size of the network's input.

    Attributes:
        parts: names of its parts, P of them.
        varying: those that have another look.
        swaps: which parts are in their other look in each of the S twins.
        pixels: of the twins, float32 (S, channels, H, W) in [0, 1].
        labels: their classes, (S,).
        regions: the visible pixels of each part in the image, bool (P, H, W), disjoint.
        outlines: where the part is seen once it alone is in its other look, bool (P, H, W); nowhere, where that is not known.
        tolerance: a pixel has changed where a channel differs by more, in [0, 1].
        visible_from: a part is visible in a region of so many pixels.
    """

    parts: tuple[str, ...]
    varying: tuple[str, ...]
    swaps: tuple[frozenset[str], ...]
    pixels: Tensor
    labels: tuple[int, ...]
    regions: Tensor
    outlines: Tensor
    tolerance: float
    visible_from: int


class Twins(ImageDataset):
    """A dataset that can show an image with some of its parts in their other look, and knows where each part is.

    Attributes:
        tolerance: a pixel has changed where a channel differs by more, in 0..255: what compression leaves.
        visible_share: of a transformed image's pixels: a part whose region is smaller does not count as visible.
    """

    tolerance: int = 0
    visible_share: float = 0.0

    @abstractmethod
    def varying(self, i: int) -> tuple[str, ...]:
        """Return the parts of image i that have another look; () if it has no twins."""

    @abstractmethod
    def swaps(self, i: int) -> tuple[frozenset[str], ...]:
        """Return for which sets of parts there is a twin of image i that shows them in their other look."""

    @abstractmethod
    def twin(self, i: int, swapped: frozenset[str]) -> tuple[Image.Image, int]:
        """Return image i with `swapped` parts in their other look, as stored, and the class of that twin."""

    @abstractmethod
    def part_masks(self, i: int, label: int | None = None) -> dict[str, np.ndarray]:
        """Return the visible pixels of every part of image i, bool (h, w), disjoint; of its twin of class `label`.

        {} for a twin whose masks are not known.
        """

    def twins(self, i: int) -> TwinImages:
        """Return all twins of image i after the transform, with its parts' regions.

        A mask is transformed like an image; a pixel that is covered by half or more belongs to it.
        """
        swaps, regions = self.swaps(i), self.part_masks(i)
        shown = [self.twin(i, swapped) for swapped in swaps]
        labels = tuple(label for _, label in shown)
        single = {
            part: label for swapped, label in zip(swaps, labels, strict=True) for part in swapped if len(swapped) == 1
        }
        nowhere = np.zeros_like(next(iter(regions.values())))
        outlines = [
            self.part_masks(i, single[part]).get(part, nowhere) if part in single else nowhere for part in regions
        ]
        covered = torch.stack([self._covered(mask) for mask in regions.values()])
        covered &= covered.cumsum(0) == 1  # two parts may have half of a pixel each
        return TwinImages(
            tuple(regions),
            self.varying(i),
            swaps,
            torch.stack([self.transform(image) for image, _ in shown]),
            labels,
            covered,
            torch.stack([self._covered(mask) for mask in outlines]),
            self.tolerance / 255,
            max(1, round(self.visible_share * self.transform.size**2)),
        )

    def _covered(self, mask: np.ndarray) -> Tensor:
        """Return a mask (h, w) after the transform, bool (H, W)."""
        return self.transform(Image.fromarray(mask.astype(np.uint8) * 255).convert("RGB"))[0] >= 0.5
