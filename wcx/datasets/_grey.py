"""Images for networks that take one channel."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from wcx.images import Transform


@dataclass(frozen=True)
class Grey(Transform):
    """A `Transform` to one channel, for networks that take one: Pillow's L of the image, before it is resized."""

    channels: int = 1  # a field: caches and records of it are others than those in colour

    def __call__(self, image: Image.Image) -> Tensor:
        """Return float32 (1, size, size) in [0, 1]; see `Transform`."""
        return super().__call__(image.convert("L"))
