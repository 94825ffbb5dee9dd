"""The drawn birds: the same on every run, and siblings that differ in one part and nowhere else."""

import itertools

import numpy as np
import pytest
from PIL import Image

from wcx import datasets
from wcx.datasets._parts_bird import BEAKS, CRESTS, LEGS, PARTS, TAILS, WING_MARKS, hull
from wcx.datasets._parts_scene import Scene
from wcx.datasets.parts import FAMILIES, SPECIES, discriminating_parts, sample_sheet
from wcx.errors import WcxError


@pytest.fixture(scope="module")
def test_split():
    return datasets.load("parts", "nowhere", "test", test_per_class=3)


def pixels(image):
    return np.asarray(image).astype(int)


def grown(mask):
    """The mask and its eight neighbours: a pixel at its rim belongs to the part that has most of it."""
    padded = np.pad(mask, 1)
    return np.any([padded[y : y + len(mask), x : x + len(mask)] for y in range(3) for x in range(3)], axis=0)


def family(name):
    return name.split(" ", 1)[1]


def test_at_least_sixteen_classes_in_families():
    assert len(SPECIES) >= 16
    assert len(SPECIES) == sum(len(looks) for _, _, looks in FAMILIES.values())
    assert all(len(looks) >= 4 for _, _, looks in FAMILIES.values())
    assert {part for _, part, _ in FAMILIES.values()} == {"beak", "crest", "tail", "wing", "feet"}
    assert "hooked-beak river finch" in SPECIES
    assert "red-foot shore plover" in SPECIES


def test_species_have_every_part_in_a_style_that_can_be_drawn():
    styles = {"beak": BEAKS, "crest": CRESTS, "tail": TAILS, "wing": WING_MARKS, "feet": LEGS}
    for species in SPECIES.values():
        assert set(PARTS) - {"crest"} <= set(species) <= set(PARTS)
        assert all(look.style in styles[part] for part, look in species.items() if part in styles)
    assert len({tuple(sorted(species.items())) for species in SPECIES.values()}) == len(SPECIES)


def test_discriminating_parts():
    for a, b in itertools.combinations(SPECIES, 2):
        differing = discriminating_parts(a, b)
        assert differing == discriminating_parts(b, a)
        if family(a) == family(b):
            assert differing == {FAMILIES[family(a)][1]}
        else:
            assert len(differing) > 1
    assert discriminating_parts(a, a) == set()
    with pytest.raises(WcxError, match=r"unknown class of parts 'hookd-beak river finch'\. Did you mean 'hooked-beak"):
        discriminating_parts("hookd-beak river finch", b)


def test_counts_and_labels():
    train = datasets.load("parts", "nowhere", "train", train_per_class=2)
    assert len(train) == 2 * len(SPECIES)
    assert train.class_names == list(SPECIES)
    assert np.bincount(train.labels).tolist() == [2] * len(SPECIES)
    assert (train.subset, train.root) == ("", None)
    assert len(datasets.load("parts", "nowhere", "test")) == 25 * len(SPECIES)


def test_bitwise_the_same_whatever_else_is_asked_for(test_split):
    again = datasets.load("parts", "elsewhere", "test", test_per_class=1)
    for i in (7, 0, 19):  # another order, another count, another instance
        assert again.image(i).tobytes() == test_split.image(i).tobytes()
        assert test_split.image(i).tobytes() == test_split.image(i).tobytes()
    assert again.ids == test_split.ids[: len(again)]
    assert np.array_equal(again.boxes, test_split.boxes[: len(again)])


def test_every_image_is_another(test_split):
    train = datasets.load("parts", "nowhere", "train", train_per_class=1)
    other = datasets.load("parts", "nowhere", "test", test_per_class=1, seed=1)
    images = [dataset.image(i).tobytes() for dataset in (train, test_split, other) for i in range(20)]
    assert len(set(images)) == len(images)
    hashes = [dataset.listing_hash() for dataset in (train, test_split, other)]
    assert len(set(hashes)) == 3
    assert hashes[1] == datasets.load("parts", "nowhere", "test", test_per_class=3).listing_hash()


def test_pixels_and_transform(test_split):
    image = test_split.image(0)
    assert isinstance(image, Image.Image)
    assert (image.mode, image.size) == ("RGB", (96, 96))
    tensor, label = test_split[0]
    assert label == 0
    assert np.array_equal(tensor.numpy(), np.asarray(image).transpose(2, 0, 1).astype(np.float32) / 255)
    large = datasets.load("parts", "nowhere", "test", test_per_class=1, size=224)
    assert large.image(3).size == (224, 224)
    shrunk = np.asarray(large.image(3).convert("L").resize((96, 96), Image.Resampling.BOX)).astype(float)
    same = np.asarray(test_split.image(3).convert("L")).astype(float)
    assert np.corrcoef(shrunk.ravel(), same.ravel())[0, 1] > 0.9, "the same picture at any size"


def test_masks_are_disjoint_and_inside_the_box(test_split):
    seen = dict.fromkeys(PARTS, 0)
    for i in range(len(test_split)):
        masks = test_split.part_masks(i)
        assert tuple(masks) == PARTS
        assert all(mask.shape == (96, 96) and mask.dtype == bool for mask in masks.values())
        assert np.sum(list(masks.values()), axis=0).max() == 1
        assert not masks["crest"].any() or family(test_split.class_names[test_split.labels[i]]) == "blue jay"
        x, y, w, h = test_split.boxes[i]
        rows, columns = np.nonzero(np.any(list(masks.values()), axis=0))
        assert x - 2 <= columns.min()  # strokes and outlines are a little wider than their points
        assert columns.max() <= x + w + 2
        assert y - 2 <= rows.min()
        assert rows.max() <= y + h + 2
        assert 0.02 < masks["body"].mean() < 0.4
        for part in PARTS:
            seen[part] += masks[part].any()
    crested = len(test_split) * len(FAMILIES["blue jay"][2]) / len(SPECIES)
    assert seen["crest"] == crested
    assert all(seen[part] >= 0.9 * len(test_split) for part in set(PARTS) - {"crest"}), "hardly ever hidden altogether"


def test_boxes_follow_the_transform(test_split):
    assert np.allclose(test_split.box(5), test_split.boxes[5])
    doubled = datasets.load("parts", "x", test_per_class=1, transform={"kind": "squash", "size": 192})
    assert np.allclose(doubled.box(5), 2 * doubled.boxes[5])
    x, y, w, h = test_split.boxes.T
    assert (x >= 0).all()
    assert (y >= 0).all()
    assert (x + w <= 96).all()
    assert (y + h <= 96).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_siblings_in_one_scene_differ_only_in_their_discriminating_part(test_split, name):
    siblings = [label for label, one in enumerate(test_split.class_names) if family(one) == name]
    part = FAMILIES[name][1]
    scenes = range(0, len(test_split), 5)
    changed = total = outside = 0
    for i in scenes:
        assert test_split.counterfactual(i, test_split.labels[i]).tobytes() == test_split.image(i).tobytes()
        images = [pixels(test_split.counterfactual(i, label)) for label in siblings]
        masks = [test_split.part_masks(i, label)[part] for label in siblings]
        shares = [Scene(test_split._generator(i), 96).shares(SPECIES[test_split.class_names[k]]) for k in siblings]
        for a, b in itertools.combinations(range(len(siblings)), 2):
            differs = (images[a] != images[b]).any(2)
            touched = (shares[a] + shares[b])[PARTS.index(part)] > 0
            assert not (differs & ~touched).any()
            assert not ((shares[a] != shares[b]).any(0) & ~touched).any(), "no other part moves"
            changed += differs.any()
            total += differs.sum()
            outside += (differs & ~grown(masks[a] | masks[b])).sum()
    assert changed > 0.9 * len(scenes) * 6, "hardly ever hidden"
    assert outside < 1e-3 * total, "the masks themselves lose at most some slivers"


def test_masks_give_a_pixel_to_the_part_with_most_of_it(test_split):
    shares = Scene(test_split._generator(2), 96).shares(SPECIES[test_split.class_names[2]])
    masks = np.stack(list(test_split.part_masks(2).values()))
    assert shares.sum(0).max() == 9
    assert np.array_equal(masks.any(0), shares.any(0))
    assert (shares.max(0) == (shares * masks).sum(0)).all()


def test_wrong_numbers_are_one_line():
    for option, value in (("seed", -1), ("size", 8), ("test_per_class", 0), ("size", 96.5)):
        with pytest.raises(WcxError, match=f"dataset parts: {option}=.* must be a whole number of at least"):
            datasets.load("parts", "nowhere", "test", **{option: value})
    with pytest.raises(WcxError, match="unknown option of dataset parts 'per_class'"):
        datasets.load("parts", "nowhere", "test", per_class=3)
    with pytest.raises(IndexError):
        datasets.load("parts", "nowhere", "test", test_per_class=1).image(20)


def test_hull_is_the_smallest_convex_polygon():
    square = [0j, 1 + 0j, 1 + 1j, 1j]
    assert set(hull(np.array([*square, 0.5 + 0.5j, 0.2 + 0.7j])).tolist()) == set(square)


def test_sample_sheet(test_split, tmp_path):
    sample_sheet(test_split, tmp_path / "sheet.png", per_class=1)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 4 * 96
        assert sheet.height > len(FAMILIES) * 96
