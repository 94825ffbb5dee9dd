"""What a measure is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor


class Measure(ABC):
    """A number, or a few, of an image's maps, one map a target; of a batch of images at once, on their device.

    Attributes:
        needs_box: it is of datasets that know where the object is, and its columns stand in no others' records.
    """

    needs_box: ClassVar[bool] = False

    @staticmethod
    @abstractmethod
    def columns(ranks: Sequence[str]) -> list[str]:
        """Return its columns in the records, for targets called `ranks` (t_1, t_2, ...)."""

    @abstractmethod
    def __call__(self, maps: Tensor, boxes: Tensor) -> Tensor:
        """Return the values of `columns` for N images, float64 (N, columns), NaN where they are not defined.

        Args:
            maps: (N, T, H, W), signed, at the images' size.
            boxes: x, y, w, h of the object in pixels, float64 (N, 4); NaN where it is not known.
        """
