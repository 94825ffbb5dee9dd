"""From a dataset's own list files to one split of it: what all datasets on disk share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wcx.datasets.base import ImageDataset
from wcx.errors import DataError
from wcx.images import Transform
from wcx.paths import native

# What counts as an image in a folder (torchvision's list).
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


class Entry(NamedTuple):
    """One image as the lists name it."""

    id: str  # path relative to the dataset's folder
    label: int
    split: str
    box: Sequence[float] | None = None  # x, y, w, h in pixels of the stored image


def assemble(
    name: str,
    root: Path,
    split: str,
    entries: Sequence[Entry],
    class_names: Sequence[str],
    *,
    allow_partial: bool = False,
    renumber: bool = True,
    official: Mapping[str, int] | None = None,
    official_split: bool = True,
    split_note: str = "not the official split",
    transform: Transform | None = None,
    kind: Callable[..., ImageDataset] = ImageDataset,
) -> ImageDataset:
    """Build one split from the entries of both, so that train and test always share one list of classes.

    Args:
        entries: the images of both splits.
        class_names: of all the labels.
        allow_partial: leave out entries whose file is absent, instead of counting them in an error.
        renumber: drop the classes of which neither split has an image.
        kind: what is built, called as an `ImageDataset`.

    Raises:
        DataError: files are absent, or the split has no image.
    """
    is_there = [(root / native(entry.id)).is_file() for entry in entries]
    absent = [entry for entry, present in zip(entries, is_there, strict=True) if not present]
    if absent and not allow_partial:
        of_split = sum(entry.split == split for entry in absent)
        raise DataError(
            f"dataset {name}: {len(absent)} of {len(entries)} images named in its lists ({of_split} of the {split} "
            f"split) are absent from {root}, the first is {absent[0].id}. Complete the folder, or use those present "
            f"with dataset.allow_partial=true."
        )
    entries = [entry for entry, present in zip(entries, is_there, strict=True) if present]
    kept = sorted({entry.label for entry in entries}) if renumber else range(len(class_names))
    label_of = {label: i for i, label in enumerate(kept)}
    if any(not 0 <= label < len(class_names) for label in kept):
        raise DataError(f"dataset {name}: a label in the lists of {root} lies outside its {len(class_names)} classes.")
    mine = [entry for entry in entries if entry.split == split]
    if not mine:
        raise DataError(f"dataset {name}: no {split} images in {root}.")
    ids, labels, _, boxes = map(list, zip(*mine, strict=True))
    return kind(
        name,
        split,
        root,
        ids=ids,
        labels=[label_of[label] for label in labels],
        class_names=list(map(class_names.__getitem__, kept)),
        boxes=None if boxes[0] is None else np.array(boxes, dtype=np.float64),
        official=official,
        official_split=official_split,
        split_note=split_note,
        transform=transform,
    )


def corners(x1: int, y1: int, x2: int, y2: int) -> tuple[int, int, int, int]:
    """Turn MATLAB's corner pixels (counted from 1, both inside the box) into x, y, w, h."""
    return x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1


def require(name: str, path: Path, remedy: str) -> Path:
    """Return `path` if it exists; else raise a DataError that names it and the remedy."""
    if not path.exists():
        raise DataError(f"dataset {name}: {path} not found. {remedy}")
    return path


def downloads(name: str, folder: Path) -> str:
    """Return the sentence that tells how to download the dataset that lives in `folder`."""
    first = "The folder is incomplete: move it away, then download" if folder.exists() else "Download"
    return f"{first} it with: wcx dataset={name} dataset.download=true"


def read_table(path: Path, *columns: Callable[[str], Any]) -> list[tuple[Any, ...]]:
    """Read a text table (UTF-8) with blanks between its columns; the last column may hold blanks.

    Args:
        columns: the type of each column.

    Raises:
        DataError: a line that does not fit, named by its number; no such file.
    """
    rows = []
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")  # names may be any bytes
    except OSError as error:
        raise DataError(f"cannot read the list {path}: {error}.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            fields = line.strip().split(maxsplit=len(columns) - 1)
            rows.append(tuple(kind(field) for kind, field in zip(columns, fields, strict=True)))
        except ValueError as error:
            raise DataError(
                f"line {number} of {path} does not fit: expected {len(columns)} columns, found {line!r}."
            ) from error
    return rows


def read_mat(path: Path) -> dict[str, np.ndarray]:
    """Read the variables of a MATLAB file (version 7 or older), unit dimensions squeezed down to one at least.

    Raises:
        DataError: absent or damaged.
    """
    from scipy.io import loadmat

    try:
        variables = loadmat(path, squeeze_me=True)
    except Exception as error:  # scipy raises whatever a damaged byte leads to
        raise DataError(f"cannot read {path}: {' '.join(str(error).split())}.") from error
    return {key: np.atleast_1d(value) for key, value in variables.items() if not key.startswith("__")}
