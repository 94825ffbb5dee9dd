"""FGVC-Aircraft by variant ("737-200"), family ("Boeing 737") or manufacturer ("Boeing") (Maji et al., arXiv:1306.5151, 2013).

Layout: `<root>/fgvc-aircraft-2013b/data/{images/, variants.txt, families.txt, manufacturers.txt,
images_<level>_trainval.txt, images_<level>_test.txt, images_box.txt}`; train is the official trainval. Page: https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from wcx.datasets.base import ImageDataset
from wcx.datasets.download import install
from wcx.datasets.listing import Entry, assemble, corners, downloads, read_table, require
from wcx.errors import DataError, choose

FOLDER = "fgvc-aircraft-2013b"
URL = "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz"
MD5 = "d4acdd33327262359767eeaa97a4f732"
SIZE = 2_753_340_328  # bytes
LEVELS = {  # list of the classes, and how many there are
    "variant": ("variants.txt", 100),
    "family": ("families.txt", 70),
    "manufacturer": ("manufacturers.txt", 30),
}
OFFICIAL = {"classes": 100, "train": 6667, "test": 3333}


def download(root: Path) -> None:
    """Download (2.8 GB) and unpack the dataset, unless its folder is there."""
    install(URL, root, FOLDER, md5=MD5, size=SIZE)


def load(
    root: Path,
    split: str,
    *,
    official: Mapping[str, int] | None = OFFICIAL,
    allow_partial: bool = False,
    level: str = "variant",
) -> ImageDataset:
    """Open one split, with its bounding boxes where `images_box.txt` is there.

    Args:
        root: the folder that holds the layout.
        split: "train" or "test".
        official: the official counts; its number of classes is that of variants, and of another level what `LEVELS` says.
        allow_partial: leave out images that the lists name and that are absent.
        level: of the classes, one of `LEVELS`.

    Raises:
        WcxError: an unknown level.
        DataError: files missing, or lists that contradict each other.
    """
    file, count = LEVELS[choose("level of fgvc", level, LEVELS)]
    data = require("fgvc", root / FOLDER / "data", downloads("fgvc", root / FOLDER))
    classes = [name for (name,) in read_table(data / file, str)]
    number = {name: label for label, name in enumerate(classes)}
    if official == OFFICIAL:
        official = {**OFFICIAL, "classes": count}
    boxes = {}
    if (data / "images_box.txt").exists():
        rows = read_table(data / "images_box.txt", str, int, int, int, int)
        boxes = {image: corners(*edges) for image, *edges in rows}
    entries = []
    for of, part in (("train", "trainval"), ("test", "test")):
        images = data / f"images_{level}_{part}.txt"
        for image, name in read_table(images, str, str):
            if name not in number or (boxes and image not in boxes):
                raise DataError(f"dataset fgvc: {images} names {image} {name!r}, which the other lists lack.")
            entries.append(Entry(f"{FOLDER}/data/images/{image}.jpg", number[name], of, boxes.get(image)))
    return assemble("fgvc", root, split, entries, classes, official=official, allow_partial=allow_partial)
