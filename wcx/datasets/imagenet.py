"""ImageNet: the 50,000 validation images of ILSVRC2012 (Russakovsky et al., IJCV 115, 2015).

Layouts: `<root>/val/<wnid>/*.JPEG`; or as published, `<root>/val/ILSVRC2012_val_*.JPEG` beside
`<root>/ILSVRC2012_devkit_t12/data/{meta.mat, ILSVRC2012_validation_ground_truth.txt}`.
The class index is the rank of the wnid among the 1000 official ones, and never renumbered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from wcx.datasets._imagenet_wnids import WNIDS
from wcx.datasets.base import ImageDataset
from wcx.datasets.listing import IMAGE_SUFFIXES, Entry, assemble, read_mat, read_table, require
from wcx.errors import DataError
from wcx.images import Transform

OFFICIAL = {"classes": 1000, "train": 1_281_167, "test": 50_000}
OFFICIAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
TRANSFORM = Transform("crop")  # the paper's
INDEX = {wnid: index for index, wnid in enumerate(WNIDS)}
REMEDY = (
    "Register at https://image-net.org, fetch ILSVRC2012_img_val.tar and unpack it into that val/ folder; unpack "
    "ILSVRC2012_devkit_t12.tar.gz beside val/, or sort the images into val/<wnid>/."
)


def download(root: Path) -> NoReturn:
    """Say how to get the images: only registered users may download them."""
    raise DataError(f"dataset imagenet: expected in {root / 'val'}. {REMEDY}")


def class_names() -> list[str]:
    """Return torchvision's names of the 1000 classes, in the order of the class index."""
    from torchvision.models import ResNet18_Weights  # slow to import

    return list(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def load(
    root: Path, split: str, *, official: Mapping[str, int] | None = OFFICIAL, allow_partial: bool = False
) -> ImageDataset:
    """Open the validation images (split "test"; there is no other here).

    Images whose names are not the official ones are taken for a sample, and `subset` says so.

    Raises:
        DataError: files missing, an unknown wnid, or no devkit for a flat folder.
    """
    if split != "test":
        raise DataError(f"dataset imagenet: split {split!r} is not supported, only test (the validation images).")
    val = require("imagenet", root / "val", REMEDY)
    sorted_in = any(child.is_dir() and not child.name.startswith(".") for child in val.iterdir())
    entries = _by_folder(val) if sorted_in else _by_devkit(root)
    is_official = all(OFFICIAL_NAME.fullmatch(entry.id.rsplit("/", 1)[-1]) for entry in entries)
    return assemble(
        "imagenet",
        root,
        split,
        entries,
        class_names(),
        allow_partial=allow_partial,
        renumber=False,
        official=official if is_official else None,  # a sample is no part of the 50,000
        official_split=is_official,
        split_note=f"sample: {len(entries)} images, not the official validation set, likely from the training split",
        transform=TRANSFORM,
    )


def _by_folder(val: Path) -> list[Entry]:
    entries = []
    for folder in sorted(child for child in val.iterdir() if child.is_dir() and not child.name.startswith(".")):
        if folder.name not in INDEX:
            raise DataError(f"dataset imagenet: {folder} is none of the 1000 wnids of ILSVRC2012. Move it away.")
        files = sorted(file.name for file in folder.iterdir() if file.name.lower().endswith(IMAGE_SUFFIXES))
        label = INDEX[folder.name]
        entries += [Entry(f"val/{folder.name}/{file}", label, "test") for file in files if not file.startswith(".")]
    return entries


def _by_devkit(root: Path) -> list[Entry]:
    devkit = root / "ILSVRC2012_devkit_t12/data"
    for name in ("meta.mat", "ILSVRC2012_validation_ground_truth.txt"):
        require("imagenet", devkit / name, REMEDY)
    try:
        synsets = read_mat(devkit / "meta.mat")["synsets"]
        wnid = {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
        numbers = read_table(devkit / "ILSVRC2012_validation_ground_truth.txt", int)
        truth = [INDEX[wnid[number]] for (number,) in numbers]
    except (KeyError, TypeError) as error:
        raise DataError(f"dataset imagenet: the files in {devkit} are not the devkit's: {error!r}.") from error
    return [Entry(f"val/ILSVRC2012_val_{i:08d}.JPEG", label, "test") for i, label in enumerate(truth, 1)]
