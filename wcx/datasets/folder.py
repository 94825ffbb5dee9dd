"""One's own images, a folder per class (as torchvision's ImageFolder).

Layout: `<root>/train/<class>/*` and `<root>/test/<class>/*` (`SPLIT_NAMES` lists the names that they go by, in upper or lower
case; validation images serve as test images where there are no unread); or flat, `<root>/<class>/*`, where every image counts
as a test image. A folder that holds images, but no folders of images, is no split, whatever its name.

Links are followed, each folder is read once: a link that leads back is left out, one that leads nowhere is an error.
"""

from __future__ import annotations

import logging
import os
import re
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NoReturn

from wcx.datasets.base import ImageDataset
from wcx.datasets.listing import IMAGE_SUFFIXES, Entry, assemble, require
from wcx.errors import DataError

log = logging.getLogger("wcx")

SPLIT_NAMES = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "val": ("val", "valid", "validation", "dev"),
}
REMEDY = (
    "Point dataset.root at a folder with train/<class>/ and test/<class>/ (or val/<class>/), or with <class>/ alone."
)

Listing = dict[str, list[Path]]  # class -> its image files, sorted


def load(root: Path, split: str, *, official: Mapping[str, int] | None = None) -> ImageDataset:
    """Open one split; the classes are the folders that hold an image, in alphabetical order over both splits.

    Raises:
        DataError: no folder, no image of this split in it, two folders for one split, or a link that leads nowhere.
    """
    if not require("folder", root, REMEDY).is_dir():
        raise DataError(f"dataset folder: {root} is no folder. {REMEDY}")
    splits = _splits(root)
    flat = not splits
    if flat:
        splits = {"test": _flat(root)}
    if not splits.get(split):
        raise DataError(f"dataset folder: no {split} images in {root}. {REMEDY}")
    classes = sorted(set().union(*splits.values()))
    label = {name: i for i, name in enumerate(classes)}
    entries = []
    for of, listing in splits.items():
        for name, paths in listing.items():
            entries += [Entry(path.relative_to(root).as_posix(), label[name], of) for path in paths]
    note = "a flat folder: every image counts as a test image"
    return assemble(
        "folder", root, split, entries, classes, official=official, official_split=not flat, split_note=note
    )


def _splits(root: Path) -> dict[str, Listing]:
    """Return the images of "train" and "test", as far as there are folders for them; {} where all folders are classes.

    Raises:
        DataError: two folders for one split.
    """
    folders = _folders(root)
    listings = {folder: _listing(root, folder) for folder in folders if _kind(folder)}
    kinds = {kind: [f for f, listing in listings.items() if listing and _kind(f) == kind] for kind in SPLIT_NAMES}
    taken: dict[str, Path] = {}
    for split, candidates in (("train", kinds["train"]), ("test", kinds["test"] or kinds["val"])):
        if len(candidates) > 1:
            names = " and ".join(folder.name for folder in candidates)
            raise DataError(f"dataset folder: {names} in {root} are both {split} images by their names; move one away.")
        for folder in candidates:
            taken[split] = folder
    if taken:
        unread = [folder.name for folder in folders if folder not in taken.values()]
        remark = f"; not read: {', '.join(unread[:5])}{', ...' * (len(unread) > 5)}" if unread else ""
        log.info("dataset folder: %s%s", ", ".join(f"{split} = {folder}" for split, folder in taken.items()), remark)
    return {split: listings[folder] for split, folder in taken.items()}


def _flat(root: Path) -> Listing:
    """Return the images of a folder of classes.

    Raises:
        DataError: all classes have the name of a split.
    """
    listing = _listing(root, root)
    if listing and all(_kind(root / name) for name in listing):
        raise DataError(
            f"dataset folder: images in {', '.join(listing)} of {root} are in no folder of a class. {REMEDY}"
        )
    return listing


def _kind(folder: Path) -> str | None:
    """Return which images a folder's name promises: train, test or val; None if it is a class."""
    return next((kind for kind, names in SPLIT_NAMES.items() if folder.name.lower() in names), None)


def _folders(place: Path) -> list[Path]:
    """Return the folders in a place, sorted, without hidden ones.

    Raises:
        DataError: a link that leads nowhere.
    """
    paths = [path for path in sorted(place.iterdir()) if not path.name.startswith(".")]
    _require_targets(path for path in paths if not path.name.lower().endswith(IMAGE_SUFFIXES))
    return [path for path in paths if path.is_dir()]


def _listing(root: Path, part: Path) -> Listing:
    """Return the image files below each folder of `part`, without hidden ones (macOS leaves ._name.jpg).

    Folders are read before links, and each once: a link to a folder above, to another class, or to what was read adds nothing.

    Raises:
        DataError: a link that leads nowhere, or two classes that are one folder.
    """
    home, above = part.resolve(), root.resolve()
    owners: dict[Path, str] = {}  # folders that have been read, and for which class
    images: Listing = {folder.name: [] for folder in _folders(part)}
    waiting = deque(sorted(((part / name, name) for name in images), key=lambda item: item[0].is_symlink()))
    while waiting:
        start, name = waiting.popleft()
        target = start.resolve()
        if target in owners and start.parent == part:
            raise DataError(f"dataset folder: classes {owners[target]} and {name} of {part} are one folder, {target}.")
        if target in owners or home.is_relative_to(target) or above.is_relative_to(target):
            log.warning("dataset folder: left out %s, a link to %s, which is read already", start, target)
            continue
        for place, folders, files in os.walk(start, onerror=_unreadable):
            if Path(place).resolve() in owners:
                folders.clear()
                continue
            owners[Path(place).resolve()] = name
            visible = [Path(place, folder) for folder in folders if not folder.startswith(".")]
            waiting += [(path, name) for path in visible if path.is_symlink()]
            folders[:] = [path.name for path in visible if not path.is_symlink()]
            paths = [Path(place, file) for file in sorted(files) if not file.startswith(".")]
            _require_targets(paths)
            images[name] += [path for path in paths if path.name.lower().endswith(IMAGE_SUFFIXES)]
    return {name: sorted(paths) for name, paths in images.items() if paths}


def _require_targets(paths: Iterable[Path]) -> None:
    """Raise a DataError for a link that leads nowhere, if it may have led to images: notes.txt does not."""
    for path in paths:
        if not path.is_symlink() or path.exists():
            continue
        if path.name.lower().endswith(IMAGE_SUFFIXES) or not re.fullmatch(r"\.\w{1,5}", path.suffix):
            raise DataError(
                f"dataset folder: {path} is a link to {path.readlink()}, which is not there; mend or remove it."
            )


def _unreadable(error: OSError) -> NoReturn:
    raise DataError(f"dataset folder: cannot read {error.filename}: {error.strerror}.") from error
