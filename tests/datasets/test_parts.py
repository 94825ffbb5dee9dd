"""The drawn birds: the same on every run, and siblings that differ in one part and nowhere else."""

import hashlib
import itertools

import numpy as np
import pytest
from PIL import Image

from wcx import datasets
from wcx.datasets import _parts_families
from wcx.datasets._parts_bird import BEAKS, CRESTS, LEGS, PARTS, TAILS, WING_MARKS, hull
from wcx.datasets._parts_scene import Scene
from wcx.datasets.parts import discriminating_parts
from wcx.errors import WcxError

SPECIES, FACTORIAL = _parts_families.SPECIES["single"], _parts_families.SPECIES["factorial"]
FAMILIES = {name: (common, *next(iter(looks.items()))) for name, (common, looks) in _parts_families.SINGLE.items()}


@pytest.fixture(scope="module")
def test_split():
    return datasets.load("parts", "nowhere", "test", test_per_class=3)


@pytest.fixture(scope="module")
def factorial():
    return datasets.load("parts", "nowhere", "test", test_per_class=1, families="factorial")


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


def test_the_species_of_single_families_are_those_of_before_there_was_a_choice():
    listing = repr([(name, sorted(species.items())) for name, species in SPECIES.items()])
    assert hashlib.sha256(listing.encode()).hexdigest()[:16] == "60e531e2c4155a98"
    default, single = (datasets.load("parts", "x", test_per_class=1, **o) for o in ({}, {"families": "single"}))
    assert default.listing_hash() == single.listing_hash()
    assert default.image(7).tobytes() == single.image(7).tobytes()


def test_species_have_every_part_in_a_style_that_can_be_drawn():
    styles = {"beak": BEAKS, "crest": CRESTS, "tail": TAILS, "wing": WING_MARKS, "feet": LEGS}
    for species in (SPECIES | FACTORIAL).values():
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


def test_factorial_families_hold_all_combinations_of_two_looks_of_three_parts(factorial):
    assert len(_parts_families.FACTORIAL) >= 4
    assert factorial.class_names == list(FACTORIAL)
    assert len({tuple(sorted(species.items())) for species in FACTORIAL.values()}) == len(FACTORIAL)
    assert not set(FACTORIAL) & set(SPECIES), "a class is found by its name alone"
    varied = set()
    for name, (common, looks) in _parts_families.FACTORIAL.items():
        siblings = [species for label, species in FACTORIAL.items() if label.endswith(f" {name}")]
        assert len(siblings) == 8
        assert [len(variants) for variants in looks.values()] == [2, 2, 2]
        assert len({tuple(species[part] for part in looks) for species in siblings}) == 8
        assert all(species[part] == look for species in siblings for part, look in common.items())
        assert len({species["feet"].style for species in siblings}) == 1, "longer legs would lift the bird"
        varied |= {*looks}
    assert len(varied) >= 6, "the parts differ from family to family"


def test_a_twin_is_a_species_that_differs_in_the_swapped_parts_and_nowhere_else(factorial):
    reached = set()
    for i in range(len(factorial)):
        swaps = factorial.swaps(i)
        assert len(set(swaps)) == 7
        assert set().union(*swaps) == set(factorial.varying(i))
        scene = Scene(factorial._generator(i), 96)
        own = scene.shares(FACTORIAL[factorial.class_names[factorial.labels[i]]])
        for swapped in swaps:
            image, label = factorial.twin(i, swapped)
            name, other = factorial.class_names[factorial.labels[i]], factorial.class_names[label]
            assert discriminating_parts(name, other) == swapped
            assert name[-6:] == other[-6:], "of one family"
            reached.add((factorial.labels[i], label))
            differs = (pixels(image) != pixels(factorial.image(i))).any(2)
            touched = (own + scene.shares(FACTORIAL[other]))[[PARTS.index(part) for part in swapped]].sum(0) > 0
            assert not (differs & ~touched).any()
    assert len(reached) == 32 * 7


def test_twins_come_as_the_network_sees_them(factorial):
    twins = factorial.twins(9)
    assert twins.parts == PARTS
    assert twins.pixels.shape == (7, 3, 96, 96)
    assert twins.regions.shape == twins.outlines.shape == (8, 96, 96)
    assert (twins.tolerance, twins.visible_from) == (0, 4)
    for swapped, shown, label in zip(twins.swaps, twins.pixels, twins.labels, strict=True):
        assert np.array_equal(
            (shown * 255).numpy().round(), pixels(factorial.counterfactual(9, label)).transpose(2, 0, 1)
        )
        if len(swapped) == 1:
            place = PARTS.index(*swapped)
            assert np.array_equal(twins.outlines[place], factorial.part_masks(9, label)[PARTS[place]])
    for place, part in enumerate(PARTS):
        assert np.array_equal(twins.regions[place], factorial.part_masks(9)[part])
        assert part in twins.varying or not twins.outlines[place].any()
    large = datasets.load("parts", "x", test_per_class=1, families="factorial", transform={"size": 192}).twins(9)
    assert large.regions.shape == (8, 192, 192)
    assert large.visible_from == 16
    share = large.regions.double().mean((1, 2)) - twins.regions.double().mean((1, 2))
    assert share.abs().max() < 0.004, "a mask keeps its size"


def test_single_families_have_no_twins(test_split):
    assert (test_split.varying(3), test_split.swaps(3)) == ((), ())


def test_the_choice_of_families_is_part_of_the_listing(factorial, test_split):
    assert factorial.listing_hash() != test_split.listing_hash()
    with pytest.raises(WcxError, match=r"unknown families 'factoriel'\. Did you mean 'factorial'"):
        datasets.load("parts", "x", families="factoriel")


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
    boxes = [dataset.boxes[i].tobytes() for dataset in (train, test_split, other) for i in range(20)]
    assert len(set(boxes)) == len(boxes), "drawn once a process, each for its own picture"
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
