"""FunnyBirds16: a rendering with FunnyBirds' renderer, 16 classes = all combinations of two looks of beak, foot, tail and wing.

Layout: `<root>/FunnyBirds16/` as in `wcx/datasets/funnybirds.py`, with .jpg images, part maps with a palette, single parts
removed (test_interventions/<class>/<number>_<part>.jpg) and, of half of the test images, each part in its other look
(test_swaps/<class>/<number>_<part>.jpg, test_swaps.csv). It is nobody's published dataset.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from wcx.datasets import funnybirds
from wcx.datasets.base import ImageDataset

FOLDER = "FunnyBirds16"
OFFICIAL = {"classes": 16, "train": 3072, "test": 192}


def load(
    root: Path, split: str, *, official: Mapping[str, int] | None = OFFICIAL, allow_partial: bool = False
) -> ImageDataset:
    """Open one split.

    Raises:
        DataError: files missing, or lists that contradict each other.
    """
    remedy = "It is not published: take it from where this project's shared images are."
    return funnybirds.opened("funnybirds16", root, split, FOLDER, ".jpg", remedy, official, allow_partial)
