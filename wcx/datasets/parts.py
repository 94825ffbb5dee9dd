"""The embedded default dataset: birds drawn by our own code from a seed, no files.

Twenty species in five families (families=single). The four species of a family differ in exactly one part: beak, crest, tail,
wing or feet (two share its colour and differ in shape, or all differ in shape or in colour). With families=factorial, 32 species
in four families: three parts have two looks each, and all eight combinations are species. Pose, size, light, scenery and clutter
vary from picture to picture, and since every part has its mask, what truly tells two classes apart is known.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from itertools import chain, combinations
from pathlib import Path

import numpy as np
from PIL import Image

from wcx.datasets._parts_bird import PARTS
from wcx.datasets._parts_families import FAMILIES, SPECIES
from wcx.datasets._parts_scene import Scene, bounding_box, draw_pose
from wcx.datasets.base import SPLITS, ImageDataset
from wcx.datasets.twins import Twins
from wcx.errors import WcxError, choose
from wcx.images import Transform

TRANSFORM = Transform("squash", 96)
VERSION = {"single": 1, "factorial": 1}  # raise it with every change of what is drawn: results keep the versions apart


def discriminating_parts(class_a: str, class_b: str) -> set[str]:
    """Return the parts in which two classes differ: within a family one (or, if it is factorial, up to three); none of itself.

    Raises:
        WcxError: an unknown class name.
    """
    known = SPECIES["single"] | SPECIES["factorial"]
    a, b = (known[choose("class of parts", name, known)] for name in (class_a, class_b))
    return {part for part in PARTS if a.get(part) != b.get(part)}


class Parts(Twins):
    """Drawn birds. Image i depends on (seed, split, i) and the size alone, bitwise with one numpy and Pillow.

    The classes take turns: image i is of class i modulo their number, and fewer images are the first of more.
    """

    visible_share = 4 / 96**2

    def __init__(self, split: str, per_class: int, seed: int, size: int, families: str = "single") -> None:
        self.families, self.species = families, SPECIES[choose("families", families, SPECIES)]
        for option, value, least in (("seed", seed, 0), ("size", size, 16), (f"{split}_per_class", per_class, 1)):
            if not isinstance(value, int) or value < least:
                raise WcxError(f"dataset parts: {option}={value!r} must be a whole number of at least {least}.")
        self.seed, self.size, self.split = seed, size, split
        names, count = list(self.species), per_class * len(self.species)
        labels = [i % len(names) for i in range(count)]
        boxes = [_box(families, seed, split, i) for i in range(count)]
        ids = [f"{split}/{i:05d}" for i in range(count)]
        options = {"class_names": names, "boxes": np.array(boxes) * size, "transform": Transform("squash", size)}
        super().__init__("parts", split, None, ids, labels, **options)

    def image(self, i: int) -> Image.Image:
        """Return image i: RGB, size x size."""
        return self.counterfactual(i, self.labels[i])

    def counterfactual(self, i: int, label: int) -> Image.Image:
        """Return image i as it would be with a bird of class `label` in the same pose, place and light."""
        return self._scene(i).paint(self.species[self.class_names[label]])

    def part_masks(self, i: int, label: int | None = None) -> dict[str, np.ndarray]:
        """Return the visible pixels of every part of image i (or of its counterfactual of class `label`).

        Returns:
            part -> bool (size, size), for all PARTS; disjoint; empty where the bird has no such part or it is hidden.
            A pixel that several parts share belongs to the one that has most of it.
        """
        label = self.labels[i] if label is None else label
        labels = self._scene(i).labels(self.species[self.class_names[label]])
        return {part: labels == 1 + k for k, part in enumerate(PARTS)}

    def varying(self, i: int) -> tuple[str, ...]:
        """See `Twins.varying`: none with families=single, where a part has four looks."""
        family = next(name for name in FAMILIES[self.families] if self.class_names[self.labels[i]].endswith(f" {name}"))
        looks = FAMILIES[self.families][family].looks
        return tuple(part for part in looks if len(looks[part]) == 2)

    def swaps(self, i: int) -> tuple[frozenset[str], ...]:
        """See `Twins.swaps`: all sets of varying parts, from single ones to all of them."""
        parts = self.varying(i)
        return tuple(map(frozenset, chain.from_iterable(combinations(parts, 1 + i) for i in range(len(parts)))))

    def twin(self, i: int, swapped: frozenset[str]) -> tuple[Image.Image, int]:
        name = self.class_names[self.labels[i]]
        label = next(
            label
            for label, other in enumerate(self.class_names)
            if other.rpartition("-")[2] == name.rpartition("-")[2] and discriminating_parts(name, other) == swapped
        )
        return self.counterfactual(i, label), label

    def box(self, i: int) -> np.ndarray:
        """Return x, y, w, h of the bird in pixels of the transformed image, float64 (4,)."""
        return self.transform.box(self.boxes[i], self.size, self.size)

    def listing_hash(self) -> str:
        """Return a SHA-256 (hex) that changes with the seed, the size, the count and the version of the drawing."""
        facts: tuple[object, ...] = (super().listing_hash(), VERSION[self.families], self.seed, self.size)
        facts += () if self.families == "single" else (self.families,)  # records of before there was a choice fit
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def _scene(self, i: int) -> Scene:
        return Scene(self._generator(range(len(self))[i]), self.size)

    def _generator(self, i: int) -> np.random.Generator:
        return _generator(self.seed, self.split, i)


def _generator(seed: int, split: str, i: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, SPLITS.index(split), i]))


@lru_cache(maxsize=2**14)  # a run opens the same pictures for every network and method; their boxes cost 0.4 ms each
def _box(families: str, seed: int, split: str, i: int) -> tuple[float, float, float, float]:
    """Return x, y, w, h of the bird in image i, in the picture's sides."""
    species = list(SPECIES[families].values())
    return bounding_box(species[i % len(species)], draw_pose(_generator(seed, split, i)))


def load(
    root: Path,  # noqa: ARG001
    split: str,
    *,
    seed: int = 0,
    size: int = TRANSFORM.size,
    families: str = "single",
    train_per_class: int = 120,
    test_per_class: int = 25,
) -> ImageDataset:
    """Open one split of the drawn birds.

    Args:
        root: ignored, there are no files.
        split: "train" or "test"; they share no picture.
        seed: another seed is another dataset of the same species.
        size: side of the pictures in pixels.
        families: "single" (20 species; those of a family differ in one part) or "factorial" (32; in one to three parts).
        train_per_class: number of training images a class.
        test_per_class: number of test images a class.

    Raises:
        WcxError: a number out of range, or other families.
    """
    return Parts(split, train_per_class if split == "train" else test_per_class, seed, size, families)
