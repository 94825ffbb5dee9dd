"""CUB-200-2011: 200 species of birds (Wah et al., Caltech-UCSD technical report CNS-TR-2011-001, 2011).

Layout: `<root>/CUB_200_2011/{images/, images.txt, image_class_labels.txt, train_test_split.txt, classes.txt,
bounding_boxes.txt}`, and where they are asked for parts/part_locs.txt and attributes/class_attribute_labels_continuous.txt.
Page: https://data.caltech.edu/records/65de6-vp158
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from wcx.datasets import anatomy
from wcx.datasets.anatomy import Anatomy
from wcx.datasets.base import ImageDataset
from wcx.datasets.download import install
from wcx.datasets.listing import Entry, assemble, downloads, read_table, require
from wcx.errors import DataError

FOLDER = "CUB_200_2011"
URL = "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz"
MD5 = "97eceeb196236b17998738112f37df78"
SIZE = 1_150_585_339  # bytes
POINTS, ATTRIBUTES = "parts/part_locs.txt", "attributes/class_attribute_labels_continuous.txt"
OFFICIAL = {"classes": 200, "train": 5994, "test": 5794}

# The region of each part, in the order of parts.txt (15 parts, left and right by themselves).
PARTS = (
    *("back", "beak", "belly", "breast", "crown", "forehead", "eye", "leg"),
    *("wing", "nape", "eye", "leg", "wing", "tail", "throat"),
)


class Cub(ImageDataset):
    """One split, with its parts' points and its classes' attributes.

    Args:
        arguments, options: those of `ImageDataset`.
        base: the folder CUB_200_2011.
        numbers: of the images, by their files.
        places: of the classes in the official list of 200, from 0, by their names.
    """

    def __init__(
        self, *arguments: Any, base: Path, numbers: Mapping[str, int], places: Mapping[str, int], **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self._base = base
        self._numbers = [numbers[name] for name in self._files]
        self._places = dict(places)

    @property
    def has_anatomy(self) -> bool:
        """Whether the files of parts and attributes are there."""
        return all((self._base / name).is_file() for name in (POINTS, ATTRIBUTES))

    def place(self, name: str) -> int | None:
        """Return the place of a class among the 200, by its name here or as in classes.txt (001.Black_footed_Albatross)."""
        number = name.partition(".")[0]
        place = int(number) - 1 if number.isdigit() else self._places.get(name, -1)
        return place if 0 <= place < OFFICIAL["classes"] else None

    def anatomy(self, i: int) -> Anatomy:
        """Return the visible parts of image i after the transform; those that it cuts off are not visible.

        Its classes are all 200, whichever have images here.

        Raises:
            DataError: the files of parts or attributes are missing or damaged.
        """
        rows = self._points.get(self._numbers[i], [])
        stored = np.array([row[1:] for row in rows], dtype=np.float64).reshape(-1, 2)
        points = self.on_pixels(i, stored)
        inside = ((points >= 0) & (points < self.transform.size)).all(1)
        regions = np.array([anatomy.REGIONS.index(PARTS[part - 1]) for part, *_ in rows], dtype=np.int64)
        return Anatomy(points[inside], regions[inside], self._differences)

    @cached_property
    def _points(self) -> dict[int, list[tuple[int, float, float]]]:
        """The visible points (part, x, y) of each image by its number, in stored pixels."""
        points: dict[int, list[tuple[int, float, float]]] = {}
        for number, part, x, y, visible in read_table(self._base / POINTS, int, int, float, float, int):
            if not 1 <= part <= len(PARTS):
                raise DataError(f"dataset cub: {self._base / POINTS} names part {part}; there are 1 to {len(PARTS)}.")
            if visible:
                points.setdefault(number, []).append((part, x, y))
        return points

    @cached_property
    def _differences(self) -> dict[str, np.ndarray]:
        """The tables of both rules."""
        rows = read_table(self._base / ATTRIBUTES, *[float] * anatomy.ATTRIBUTES)
        if len(rows) != OFFICIAL["classes"]:
            raise DataError(f"dataset cub: {self._base / ATTRIBUTES} has {len(rows)} classes, expected 200.")
        return {rule: getattr(anatomy, rule)(np.array(rows)) for rule in anatomy.RULES}


def download(root: Path) -> None:
    """Download (1.2 GB) and unpack the dataset, unless its folder is there."""
    install(URL, root, FOLDER, md5=MD5, size=SIZE)


def load(
    root: Path, split: str, *, official: Mapping[str, int] | None = OFFICIAL, allow_partial: bool = False
) -> ImageDataset:
    """Open one split, with its bounding boxes where `bounding_boxes.txt` is there.

    Raises:
        DataError: files missing, or lists that contradict each other.
    """
    remedy = downloads("cub", root / FOLDER)
    base = require("cub", root / FOLDER, remedy)
    lists = {
        name: dict(read_table(require("cub", base / f"{name}.txt", remedy), int, kind))
        for name, kind in {"images": str, "image_class_labels": int, "train_test_split": int, "classes": str}.items()
    }
    boxes = {}
    if (base / "bounding_boxes.txt").exists():
        boxes = {i: box for i, *box in read_table(base / "bounding_boxes.txt", int, float, float, float, float)}
    images, labels, in_train = lists["images"], lists["image_class_labels"], lists["train_test_split"]
    if not (images.keys() == labels.keys() == in_train.keys() and images.keys() == (boxes or images).keys()):
        raise DataError(f"dataset cub: the lists in {base} do not name the same images.")
    number = {class_id: label for label, class_id in enumerate(sorted(lists["classes"]))}
    if not set(labels.values()) <= number.keys():
        raise DataError(f"dataset cub: {base}/image_class_labels.txt names classes that classes.txt lacks.")
    entries = [
        Entry(f"{FOLDER}/images/{file}", number[labels[i]], "train" if in_train[i] else "test", boxes.get(i))
        for i, file in images.items()
    ]
    names = [_readable(lists["classes"][class_id]) for class_id in number]
    numbers = {entry.id: i for entry, i in zip(entries, images, strict=True)}
    places = {_readable(name): class_id - 1 for class_id, name in lists["classes"].items()}
    kind = partial(Cub, base=base, numbers=numbers, places=places)
    return assemble("cub", root, split, entries, names, official=official, allow_partial=allow_partial, kind=kind)


def _readable(name: str) -> str:
    """From "001.Black_footed_Albatross" to "Black footed Albatross"."""
    return name.split(".", 1)[-1].replace("_", " ")
