"""FunnyBirds: rendered birds whose classes are combinations of parts' looks (Hesse et al., ICCV 2023, arXiv:2308.06248).

Layout: `<root>/FunnyBirds/{train/, test/, test_part_map/, test_interventions/, dataset_train.json, dataset_test.json,
classes.json, parts.json}`; image k of a dataset_<split>.json is <split>/<class>/<k, six digits>.png (its alpha is dropped), and
a part map has a colour a part. `wcx/datasets/funnybirds16.py` is a set in the same layout but for its suffixes and names.
Page: https://github.com/visinf/funnybirds
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from wcx.datasets.base import ImageDataset, decode
from wcx.datasets.listing import Entry, assemble, require
from wcx.datasets.twins import Twins
from wcx.errors import DataError, WcxError
from wcx.images import Transform

FOLDER = "FunnyBirds"
OFFICIAL = {"classes": 50, "train": 50000, "test": 500}
TRANSFORM = Transform("squash", 224)
COLOURS = {  # of a part map; eyes, feet and wings come in pairs
    "beak": [(255, 255, 0)],
    "eye": [(255, 255, 253), (255, 255, 254)],
    "foot": [(255, 0, 1), (255, 0, 2)],
    "tail": [(0, 0, 255)],
    "wing": [(0, 255, 1), (0, 255, 2)],
}
PALETTE = ("beak", "eye", "foot", "tail", "wing", "body")  # indices 1, 2 ... of a part map with a palette


class FunnyBirds(Twins):
    """One split. Images of which there are pictures with one part swapped have twins; the others have none.

    Args:
        arguments, options: those of `ImageDataset`.
        parts: names of a class's parts.
        swapped: for the ids of images with swaps, part -> class of the picture in which it has its other look.
    """

    tolerance = 16
    visible_share = 15 / 224**2

    def __init__(
        self, *arguments: Any, parts: Sequence[str], swapped: Mapping[str, Mapping[str, int]], **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self.parts = tuple(parts)
        self._swapped = {image: dict(swaps) for image, swaps in swapped.items()}

    def image(self, i: int) -> Image.Image:
        """Return image i in RGB, as the authors' loader has it: without its alpha channel."""
        return decode(self.path(i), opaque=True)

    def varying(self, i: int) -> tuple[str, ...]:
        return tuple(self._swapped.get(self.ids[i], ()))

    def swaps(self, i: int) -> tuple[frozenset[str], ...]:
        """See `Twins.swaps`: single parts."""
        return tuple(frozenset({part}) for part in self.varying(i))

    def twin(self, i: int, swapped: frozenset[str]) -> tuple[Image.Image, int]:
        """See `Twins.twin`.

        Raises:
            DataError: the picture is not there.
        """
        [part] = swapped
        path = self._beside(i, "swaps", f"_{part}{self.path(i).suffix}")
        return decode(path, opaque=True), self._swapped[self.ids[i]][part]

    def without(self, i: int, removed: Sequence[str]) -> Image.Image:
        """Return image i without some parts.

        Raises:
            WcxError: there is no such picture.
        """
        kept = "_".join(sorted(set(self.parts) - set(removed)))
        names = [f"/body_{kept}{self.path(i).suffix}".replace("body_.", "body."), f"_{removed[0]}{self.path(i).suffix}"]
        paths = [self._beside(i, "interventions", name) for name in names[: 1 + (len(removed) == 1)]]
        for path in paths:
            if path.is_file():
                return decode(path, opaque=True)
        raise WcxError(f"dataset {self.name}: no picture of {self.ids[i]} without {', '.join(removed)} at {paths[-1]}.")

    def part_masks(self, i: int, label: int | None = None) -> dict[str, np.ndarray]:
        """See `Twins.part_masks`: of image i alone, and {} for an image (of the training part) without a part map.

        Returns:
            part -> bool (h, w); with colours, pixels of no part's exact colour (the body, blended edges) are background.
        """
        path = self._beside(i, "part_map", ".png")
        if (label is not None and label != self.labels[i]) or not path.is_file():
            return {}
        with Image.open(path) as image:
            if image.mode == "P":
                indices = np.asarray(image)
                return {part: indices == 1 + place for place, part in enumerate(PALETTE)}
            pixels = np.asarray(image.convert("RGB"))
        return {part: (pixels[..., None, :] == rgbs).all(-1).any(-1) for part, rgbs in COLOURS.items()}

    def listing_hash(self) -> str:
        """Return a SHA-256 (hex) that changes with the listing and the swaps."""
        facts = (super().listing_hash(), sorted((image, *swaps.items()) for image, swaps in self._swapped.items()))
        return hashlib.sha256(repr(facts).encode()).hexdigest() if self._swapped else facts[0]

    def _beside(self, i: int, kind: str, ending: str) -> Path:
        """Return a file that belongs to image i: <split>_<kind>/<class>/<number><ending>."""
        path = self.path(i)
        return path.parents[2] / f"{self.split}_{kind}" / path.parent.name / f"{path.stem}{ending}"


def load(
    root: Path, split: str, *, official: Mapping[str, int] | None = OFFICIAL, allow_partial: bool = False
) -> ImageDataset:
    """Open one split in the authors' layout.

    Raises:
        DataError: files missing, or lists that contradict each other.
    """
    remedy = "Download FunnyBirds.zip from https://github.com/visinf/funnybirds and unpack it there."
    return opened("funnybirds", root, split, FOLDER, ".png", remedy, official, allow_partial)


def opened(
    name: str,
    root: Path,
    split: str,
    folder: str,
    suffix: str,
    remedy: str,
    official: Mapping[str, int] | None,
    allow_partial: bool,
) -> ImageDataset:
    """Open one split of a set in this layout.

    Args:
        name: of the dataset.
        root: its folder.
        split: "train" or "test".
        folder: inside `root`.
        suffix: of the images.
        remedy: the sentence that says where the files come from.
        official, allow_partial: as in `load`.

    Raises:
        DataError: files missing, or lists that contradict each other.
    """
    base = require(name, root / folder, remedy)
    classes, looks, *scenes = (
        _read(name, base / f"{file}.json", remedy) for file in ("classes", "parts", "dataset_train", "dataset_test")
    )
    try:
        entries = []
        for of, listed in zip(("train", "test"), scenes, strict=True):
            for number, label in enumerate(int(scene["class_idx"]) for scene in listed):
                entries.append(Entry(f"{folder}/{of}/{label}/{number:06d}{suffix}", label, of))
        names = _names(classes, looks)
        swapped = _swapped(base / f"{split}_swaps.csv", f"{folder}/{split}", suffix)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(f"dataset {name}: the lists in {base} contradict each other: {error!r}.") from error
    kind = partial(FunnyBirds, parts=list(looks), swapped=swapped)
    return assemble(
        name,
        root,
        split,
        entries,
        names,
        kind=kind,
        official=official,
        allow_partial=allow_partial,
        renumber=False,
        transform=TRANSFORM,
    )


def _read(name: str, path: Path, remedy: str) -> Any:
    try:
        return json.loads(require(name, path, remedy).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"dataset {name}: cannot read {path}: {error}.") from error


def _names(classes: Sequence[Mapping[str, Any]], looks: Mapping[str, Sequence[Mapping[str, str]]]) -> list[str]:
    """Return a name for each class, in the order of their numbers: 3: beak02 yellow, foot01, tail03 blue, wing02 red."""
    parts = {row["class_idx"]: row["parts"] for row in classes}
    ordered = [parts[number] for number in range(len(classes))]
    varying = [part for part in looks if len(set(map(itemgetter(part), ordered))) > 1]
    texts = [[" ".join(looks[part][row[part]].values()).replace(".glb", "") for part in varying] for row in ordered]
    return [f"{number}: {', '.join(text)}" for number, text in enumerate(texts)]


def _swapped(path: Path, folder: str, suffix: str) -> dict[str, dict[str, int]]:
    """Return the swaps that a list has (columns image, part, class_after_swap), by the ids of images; {} without one."""
    swapped: dict[str, dict[str, int]] = {}
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                image = str(PurePosixPath(folder, row["image"] + suffix))
                swapped.setdefault(image, {})[row["part"]] = int(row["class_after_swap"])
    return swapped
