"""CUB-200-2011: 200 species of birds (Wah et al., Caltech-UCSD technical report CNS-TR-2011-001, 2011).

Layout: `<root>/CUB_200_2011/{images/, images.txt, image_class_labels.txt, train_test_split.txt, classes.txt,
bounding_boxes.txt}`. Page: https://data.caltech.edu/records/65de6-vp158
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from wcx.datasets.base import ImageDataset
from wcx.datasets.download import install
from wcx.datasets.listing import Entry, assemble, downloads, read_table, require
from wcx.errors import DataError

FOLDER = "CUB_200_2011"
URL = "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz"
MD5 = "97eceeb196236b17998738112f37df78"
SIZE = 1_150_585_339  # bytes
OFFICIAL = {"classes": 200, "train": 5994, "test": 5794}


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
    return assemble("cub", root, split, entries, names, official=official, allow_partial=allow_partial)


def _readable(name: str) -> str:
    """From "001.Black_footed_Albatross" to "Black footed Albatross"."""
    return name.split(".", 1)[-1].replace("_", " ")
