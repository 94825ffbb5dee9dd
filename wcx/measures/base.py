"""What a measure is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from torch import Tensor


class Measure(ABC):
    """A number, or a few, of an image's maps, one map a target.

    Attributes:
        needs_box: it is of datasets that know where the object is, and its columns stand in no others' records.
    """

    needs_box: ClassVar[bool] = False

    @staticmethod
    @abstractmethod
    def columns(ranks: Sequence[str]) -> list[str]:
        """Return its columns in the records, for targets called `ranks` (t_1, t_2, ...)."""

    @abstractmethod
    def __call__(self, maps: Tensor, ranks: Sequence[str], box: np.ndarray | None) -> dict[str, float]:
        """Return the values of `columns` for an image, none where they are not defined.

        Args:
            maps: (T, H, W), signed, at the image's size.
            ranks: the targets' names.
            box: x, y, w, h of the object in pixels, or None.
        """
