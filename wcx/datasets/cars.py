"""Stanford Cars: 196 makes, models and years (Krause et al., 3D object representations, 3dRR workshop at ICCV 2013).

Layout: `<root>/stanford_cars/{cars_train/, cars_test/, devkit/{cars_meta,cars_train_annos}.mat,
cars_test_annos_withlabels.mat}`, as torchvision has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NoReturn

from wcx.datasets.base import ImageDataset
from wcx.datasets.listing import Entry, assemble, corners, read_mat, require
from wcx.errors import DataError

FOLDER = "stanford_cars"
OFFICIAL = {"classes": 196, "train": 8144, "test": 8041}
HELD_OUT = "heldout_"  # prefix of test images that a copy took from the train part for want of the official test part
REMEDY = (
    "The authors' page is gone, so nothing can be downloaded from there: put cars_train/ and cars_test/ (the unpacked "
    "cars_train.tgz and cars_test.tgz), devkit/ (car_devkit.tgz) and cars_test_annos_withlabels.mat into that "
    "stanford_cars/ folder yourself."
)


def download(root: Path) -> NoReturn:
    """Say where the files go: the authors' page is gone."""
    raise DataError(f"dataset cars: expected in {root / FOLDER}. {REMEDY}")


def load(
    root: Path, split: str, *, official: Mapping[str, int] | None = OFFICIAL, allow_partial: bool = False
) -> ImageDataset:
    """Open one split, with its bounding boxes.

    Raises:
        DataError: files missing, or lists that contradict each other.
    """
    base = root / FOLDER
    lists = {"train": base / "devkit/cars_train_annos.mat", "test": base / "cars_test_annos_withlabels.mat"}
    for path in (base / "devkit/cars_meta.mat", *lists.values()):
        require("cars", path, REMEDY)
    try:
        names = [str(name) for name in read_mat(base / "devkit/cars_meta.mat")["class_names"]]
        entries = []
        for of, path in lists.items():
            for row in read_mat(path)["annotations"]:
                box = corners(*(int(row[f"bbox_{edge}"]) for edge in ("x1", "y1", "x2", "y2")))
                entries.append(Entry(f"{FOLDER}/cars_{of}/{row['fname']}", int(row["class"]) - 1, of, box))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"dataset cars: the .mat files in {base} are not the devkit's: {error}.") from error
    held_out = any(PurePosixPath(entry.id).name.startswith(HELD_OUT) for entry in entries if entry.split == "test")
    return assemble(
        "cars", root, split, entries, names, official=official, official_split=not held_out, allow_partial=allow_partial
    )
