"""The embedded default dataset: birds drawn by our own code from a seed, no files.

Twenty species in five families. The four species of a family differ in exactly one part: beak, crest, tail, wing or feet
(two share its colour and differ in shape, or all differ in shape or in colour). Pose, size, light, scenery and clutter vary
from picture to picture, and since every part has its mask, what truly tells two classes apart is known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wcx.datasets._parts_bird import PARTS, Look
from wcx.datasets._parts_scene import Scene, bounding_box, draw_pose
from wcx.datasets.base import SPLITS, ImageDataset
from wcx.errors import WcxError, choose
from wcx.images import Transform

Species = Mapping[str, Look]  # part -> its look

TRANSFORM = Transform("squash", 96)
VERSION = 1  # raise it with every change of what is drawn: results keep the versions apart
BLACK, SLATE, PINK, HORN = (48, 46, 50), (92, 92, 104), (150, 112, 100), (232, 196, 120)
NAVY, RUSSET, BLUE, GOLD, CREAM = (44, 48, 76), (168, 92, 62), (44, 66, 130), (236, 190, 84), (238, 232, 204)
OLIVE, WHITE = (110, 118, 66), (240, 236, 228)
EYE = Look("round", BLACK)

# Family -> what its species share, the part in which they differ, and their looks of that part.
FAMILIES: dict[str, tuple[Species, str, Species]] = {
    "river finch": (
        {
            "body": Look("plain", (150, 122, 78), (214, 192, 150)),
            "head": Look("plain", (164, 80, 54), (190, 120, 84)),
            "wing": Look("plain", (104, 84, 60)),
            "tail": Look("square", (92, 74, 54)),
            "feet": Look("short", PINK),
            "eye": EYE,
        },
        "beak",
        {
            "cone": Look("cone", HORN),
            "hooked": Look("hooked", SLATE),
            "needle": Look("needle", HORN),
            "sickle": Look("sickle", SLATE),
        },
    ),
    "blue jay": (
        {
            "body": Look("plain", (84, 124, 184), (208, 214, 226)),
            "head": Look("plain", (66, 102, 168), (226, 228, 232)),
            "wing": Look("plain", (56, 86, 150)),
            "tail": Look("fan", (50, 76, 140)),
            "beak": Look("short", BLACK),
            "feet": Look("short", SLATE),
            "eye": EYE,
        },
        "crest",
        {
            "fan": Look("fan", BLUE),
            "plume": Look("plume", BLUE),
            "spike": Look("spike", GOLD),
            "swept": Look("swept", GOLD),
        },
    ),
    "dusk swallow": (
        {
            "body": Look("plain", (62, 68, 100), (226, 204, 178)),
            "head": Look("plain", (54, 58, 92), (186, 98, 66)),
            "wing": Look("plain", (46, 50, 80)),
            "beak": Look("fine", BLACK),
            "feet": Look("short", SLATE),
            "eye": EYE,
        },
        "tail",
        {
            "fan": Look("fan", RUSSET),
            "forked": Look("forked", NAVY),
            "pin": Look("pin", NAVY),
            "square": Look("square", RUSSET),
        },
    ),
    "meadow warbler": (
        {
            "body": Look("plain", (214, 184, 66), (238, 222, 138)),
            "head": Look("plain", (196, 172, 62), (232, 208, 96)),
            "tail": Look("square", (104, 106, 62)),
            "beak": Look("fine", SLATE),
            "feet": Look("short", PINK),
            "eye": EYE,
        },
        "wing",
        {style: Look(style, OLIVE, CREAM) for style in ("barred", "plain", "spotted", "tipped")},
    ),
    "shore plover": (
        {
            "body": Look("banded", (156, 138, 120), WHITE),
            "head": Look("plain", (140, 122, 106), WHITE),
            "wing": Look("plain", (124, 108, 94)),
            "tail": Look("pin", (98, 86, 78)),
            "beak": Look("short", BLACK),
            "eye": EYE,
        },
        "feet",
        {
            "black": Look("long", (56, 54, 60)),
            "orange": Look("long", (212, 106, 46)),
            "red": Look("long", (196, 54, 48)),
            "yellow": Look("long", (224, 158, 56)),
        },
    ),
}


def _names_and_species() -> dict[str, Species]:
    return {
        f"{variant}-{'foot' if part == 'feet' else part} {family}": {**common, part: look}
        for family, (common, part, looks) in FAMILIES.items()
        for variant, look in looks.items()
    }


SPECIES = _names_and_species()  # class name -> species


def discriminating_parts(class_a: str, class_b: str) -> set[str]:
    """Return the parts in which two classes differ: one within a family, none for a class and itself.

    Raises:
        WcxError: an unknown class name.
    """
    a, b = (SPECIES[choose("class of parts", name, SPECIES)] for name in (class_a, class_b))
    return {part for part in PARTS if a.get(part) != b.get(part)}


class Parts(ImageDataset):
    """Drawn birds. Image i depends on (seed, split, i) and the size alone, bitwise with one numpy and Pillow.

    The classes take turns: image i is of class i modulo their number, and fewer images are the first of more.
    """

    def __init__(self, split: str, per_class: int, seed: int, size: int) -> None:
        for option, value, least in (("seed", seed, 0), ("size", size, 16), (f"{split}_per_class", per_class, 1)):
            if not isinstance(value, int) or value < least:
                raise WcxError(f"dataset parts: {option}={value!r} must be a whole number of at least {least}.")
        self.seed, self.size, self.split = seed, size, split
        names, count = list(SPECIES), per_class * len(SPECIES)
        labels = [i % len(names) for i in range(count)]
        boxes = [bounding_box(SPECIES[names[label]], draw_pose(self._generator(i))) for i, label in enumerate(labels)]
        ids = [f"{split}/{i:05d}" for i in range(count)]
        options = {"class_names": names, "boxes": np.array(boxes) * size, "transform": Transform("squash", size)}
        super().__init__("parts", split, None, ids, labels, **options)

    def image(self, i: int) -> Image.Image:
        """Return image i: RGB, size x size."""
        return self.counterfactual(i, self.labels[i])

    def counterfactual(self, i: int, label: int) -> Image.Image:
        """Return image i as it would be with a bird of class `label` in the same pose, place and light."""
        return self._scene(i).paint(SPECIES[self.class_names[label]])

    def part_masks(self, i: int, label: int | None = None) -> dict[str, np.ndarray]:
        """Return the visible pixels of every part of image i (or of its counterfactual of class `label`).

        Returns:
            part -> bool (size, size), for all PARTS; disjoint; empty where the bird has no such part or it is hidden.
            A pixel that several parts share belongs to the one that has most of it.
        """
        label = self.labels[i] if label is None else label
        labels = self._scene(i).labels(SPECIES[self.class_names[label]])
        return {part: labels == 1 + k for k, part in enumerate(PARTS)}

    def box(self, i: int) -> np.ndarray:
        """Return x, y, w, h of the bird in pixels of the transformed image, float64 (4,)."""
        return self.transform.box(self.boxes[i], self.size, self.size)

    def listing_hash(self) -> str:
        """Return a SHA-256 (hex) that changes with the seed, the size, the count and the version of the drawing."""
        return hashlib.sha256(repr((super().listing_hash(), VERSION, self.seed, self.size)).encode()).hexdigest()

    def _scene(self, i: int) -> Scene:
        return Scene(self._generator(range(len(self))[i]), self.size)

    def _generator(self, i: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence([self.seed, SPLITS.index(self.split), i]))


def load(
    root: Path,  # noqa: ARG001
    split: str,
    *,
    seed: int = 0,
    size: int = TRANSFORM.size,
    train_per_class: int = 120,
    test_per_class: int = 25,
) -> ImageDataset:
    """Open one split of the drawn birds.

    Args:
        root: ignored, there are no files.
        split: "train" or "test"; they share no picture.
        seed: another seed is another dataset of the same species.
        size: side of the pictures in pixels.
        train_per_class: number of training images a class.
        test_per_class: number of test images a class.

    Raises:
        WcxError: a number out of range.
    """
    return Parts(split, train_per_class if split == "train" else test_per_class, seed, size)


def sample_sheet(dataset: Parts, path: Path, per_class: int = 3) -> None:
    """Save a contact sheet as PNG: a family a row, the first images of each species over its name."""
    side, gap, text = dataset.size, 3, 16
    columns = max(len(looks) for _, _, looks in FAMILIES.values())
    width, height = per_class * (side + gap) + 3 * gap, side + text + 2 * gap
    sheet = Image.new("RGB", (columns * width, len(FAMILIES) * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for label, name in enumerate(dataset.class_names):
        x, y = label % columns * width, label // columns * height
        for k in range(per_class):
            sheet.paste(dataset.image(label + k * len(dataset.class_names)), (x + k * (side + gap), y))
        draw.text((x + (width - 4 * gap) / 2, y + side + 2), name, fill="black", font=font, anchor="mt")
    sheet.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
