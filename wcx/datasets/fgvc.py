"""FGVC-Aircraft at variant level: "737-200" rather than "Boeing 737" (Maji et al., arXiv:1306.5151, 2013).

Layout: `<root>/fgvc-aircraft-2013b/data/{images/, variants.txt, images_variant_trainval.txt, images_variant_test.txt,
images_box.txt}`; train is the official trainval. Page: https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from wcx.datasets.base import ImageDataset
from wcx.datasets.download import install
from wcx.datasets.listing import Entry, assemble, corners, downloads, read_table, require
from wcx.errors import DataError

FOLDER = "fgvc-aircraft-2013b"
URL = "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz"
MD5 = "d4acdd33327262359767eeaa97a4f732"
SIZE = 2_753_340_328  # bytes
OFFICIAL = {"classes": 100, "train": 6667, "test": 3333}


def download(root: Path) -> None:
    """Download (2.8 GB) and unpack the dataset, unless its folder is there."""
    install(URL, root, FOLDER, md5=MD5, size=SIZE)


def load(
    root: Path, split: str, *, official: Mapping[str, int] | None = OFFICIAL, allow_partial: bool = False
) -> ImageDataset:
    """Open one split, with its bounding boxes where `images_box.txt` is there.

    Raises:
        DataError: files missing, or lists that contradict each other.
    """
    data = require("fgvc", root / FOLDER / "data", downloads("fgvc", root / FOLDER))
    variants = [name for (name,) in read_table(data / "variants.txt", str)]
    number = {name: label for label, name in enumerate(variants)}
    boxes = {}
    if (data / "images_box.txt").exists():
        rows = read_table(data / "images_box.txt", str, int, int, int, int)
        boxes = {image: corners(*edges) for image, *edges in rows}
    entries = []
    for of, file in (("train", "images_variant_trainval.txt"), ("test", "images_variant_test.txt")):
        for image, name in read_table(data / file, str, str):
            if name not in number or (boxes and image not in boxes):
                raise DataError(f"dataset fgvc: {data / file} names {image} {name!r}, which the other lists lack.")
            entries.append(Entry(f"{FOLDER}/data/images/{image}.jpg", number[name], of, boxes.get(image)))
    return assemble("fgvc", root, split, entries, variants, official=official, allow_partial=allow_partial)
