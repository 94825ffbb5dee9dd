"""Food-101: dishes, 1000 images of each (Bossard et al., Food-101: mining discriminative components, ECCV 2014).

Layout: `<root>/food-101/{images/<class>/<id>.jpg, meta/{classes,train,test}.txt}`.
Page: https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from wcx.datasets.base import ImageDataset
from wcx.datasets.download import install
from wcx.datasets.listing import Entry, assemble, downloads, read_table, require
from wcx.errors import DataError

FOLDER = "food-101"
URL = "https://data.vision.ee.ethz.ch/cvl/food-101.tar.gz"
MD5 = "85eeb15f3717b99a5da872d97d918f87"
SIZE = 4_996_278_331  # bytes
OFFICIAL = {"classes": 101, "train": 75_750, "test": 25_250}


def download(root: Path) -> None:
    """Download (5 GB) and unpack the dataset, unless its folder is there."""
    install(URL, root, FOLDER, md5=MD5, size=SIZE)


def load(
    root: Path, split: str, *, official: Mapping[str, int] | None = OFFICIAL, allow_partial: bool = False
) -> ImageDataset:
    """Open one split.

    Raises:
        DataError: files missing, or lists that contradict each other.
    """
    meta = require("food101", root / FOLDER / "meta", downloads("food101", root / FOLDER))
    classes = [name for (name,) in read_table(meta / "classes.txt", str)]
    number = {name: label for label, name in enumerate(classes)}
    entries = []
    for of in ("train", "test"):
        for (image,) in read_table(meta / f"{of}.txt", str):  # such as apple_pie/1005649
            name = image.split("/")[0]
            if name not in number:
                raise DataError(f"dataset food101: {meta / of}.txt names {image!r}, of no class in classes.txt.")
            entries.append(Entry(f"{FOLDER}/images/{image}.jpg", number[name], of))
    names = [name.replace("_", " ") for name in classes]
    return assemble("food101", root, split, entries, names, official=official, allow_partial=allow_partial)
