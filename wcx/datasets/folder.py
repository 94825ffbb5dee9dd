"""One's own images, a folder per class (as torchvision's ImageFolder).

Layout: `<root>/train/<class>/*` and `<root>/test/<class>/*` (or `val` for `test`); or flat, `<root>/<class>/*`, where
every image counts as a test image.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from wcx.datasets.base import ImageDataset
from wcx.datasets.listing import IMAGE_SUFFIXES, Entry, assemble, require
from wcx.errors import DataError

REMEDY = (
    "Point dataset.root at a folder with train/<class>/ and test/<class>/ (or val/<class>/), or with <class>/ alone."
)


def load(root: Path, split: str, *, official: Mapping[str, int] | None = None) -> ImageDataset:
    """Open one split; the classes are the folders that hold an image, in alphabetical order over both splits.

    Raises:
        DataError: no folder, or no image of this split in it.
    """
    require("folder", root, REMEDY)
    parts = {"train": root / "train", "test": root / "test" if (root / "test").is_dir() else root / "val"}
    flat = not any(part.is_dir() for part in parts.values())
    if flat:
        parts = {"test": root}
    found = [
        (path, folder.name, of)
        for of, part in parts.items()
        if part.is_dir()
        for folder in sorted(part.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
        for path in _images(folder)
    ]
    if not any(of == split for _, _, of in found):
        raise DataError(f"dataset folder: no {split} images in {root}. {REMEDY}")
    classes = sorted({name for _, name, _ in found})
    label = {name: i for i, name in enumerate(classes)}
    entries = [Entry(path.relative_to(root).as_posix(), label[name], of) for path, name, of in found]
    note = "a flat folder: every image counts as a test image"
    return assemble(
        "folder", root, split, entries, classes, official=official, official_split=not flat, split_note=note
    )


def _images(folder: Path) -> list[Path]:
    """Return the image files below a folder, sorted, without hidden ones (macOS leaves ._name.jpg)."""
    return sorted(
        Path(place, file)
        for place, _, files in os.walk(folder, followlinks=True)
        for file in files
        if file.lower().endswith(IMAGE_SUFFIXES) and not file.startswith(".")
    )
