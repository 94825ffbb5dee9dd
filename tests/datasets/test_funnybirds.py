"""FunnyBirds in the authors' layout, and FunnyBirds16 in ours: one loader, masks of parts, twins."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.datasets import trees
from wcx.cli import application, opening
from wcx.datasets import load
from wcx.datasets.funnybirds import FunnyBirds
from wcx.errors import DataError, WcxError

LAYOUTS = [("funnybirds", "FunnyBirds", "png"), ("funnybirds16", "FunnyBirds16", "jpg")]
REMOVED = [("funnybirds", "0/000001/body_beak_eye_foot_tail.png"), ("funnybirds16", "0/000001_wing.jpg")]


def opened(name: str, root: Path, split: str = "test") -> FunnyBirds:
    dataset = load(name, root, split)
    assert isinstance(dataset, FunnyBirds)
    return dataset


@pytest.mark.parametrize(("name", "folder", "suffix"), LAYOUTS)
def test_both_layouts_have_the_same_lists(tmp_path: Path, name: str, folder: str, suffix: str) -> None:
    getattr(trees, name)(tmp_path)
    train, test = opened(name, tmp_path, "train"), opened(name, tmp_path)
    assert test.ids == [f"{folder}/test/3/000000.{suffix}", f"{folder}/test/0/000001.{suffix}"]
    assert (train.labels, test.labels) == ([0, 1, 2, 3, 3], [3, 0])
    assert train.class_names[2] == test.class_names[2] == "2: beak02 yellow, wing01 red", "what varies"
    assert train.part_masks(0) == {}, "the training part has no part maps"
    assert train.swaps(0) == test.swaps(1) == ()


def test_alpha_is_dropped_as_by_the_authors_loader(tmp_path: Path) -> None:
    trees.funnybirds(tmp_path)
    dataset = opened("funnybirds", tmp_path)
    stored = np.asarray(Image.open(dataset.path(0)))
    assert stored.shape[-1] == 4
    np.testing.assert_array_equal(np.asarray(dataset.image(0)), stored[..., :3])


def test_parts_by_colour_pair_left_and_right_and_leave_out_blends(tmp_path: Path) -> None:
    trees.funnybirds(tmp_path)
    masks = opened("funnybirds", tmp_path).part_masks(0)
    rows = {part: set(np.argwhere(mask.any(1)).ravel().tolist()) for part, mask in masks.items()}
    assert rows == {"eye": {0, 1}, "beak": {2}, "foot": {3, 4}, "wing": {5, 6}, "tail": {7}}


def test_parts_by_palette(tmp_path: Path) -> None:
    trees.funnybirds16(tmp_path)
    masks = opened("funnybirds16", tmp_path).part_masks(0)
    rows = {part: set(np.argwhere(mask.any(1)).ravel().tolist()) for part, mask in masks.items()}
    expected = {"beak": {1, 9}, "eye": {2, 10}, "foot": {3, 11}, "tail": {4, 12}, "wing": {5, 13}, "body": {6}}
    assert rows == expected, "7 is an object of the background"


@pytest.mark.parametrize(("name", "file"), REMOVED)
def test_a_part_is_removed_in_either_naming(tmp_path: Path, name: str, file: str) -> None:
    getattr(trees, name)(tmp_path)
    dataset = opened(name, tmp_path)
    path = dataset.path(1).parents[2] / "test_interventions" / file
    np.testing.assert_array_equal(np.asarray(dataset.without(1, ["wing"])), np.asarray(Image.open(path).convert("RGB")))
    with pytest.raises(WcxError, match=r"no picture of .*/test/0/000001\.\w+ without beak, wing at ") as error:
        dataset.without(1, ["beak", "wing"])
    assert "\n" not in str(error.value)


def test_without_all_parts_there_is_the_body(tmp_path: Path) -> None:
    trees.funnybirds(tmp_path)
    dataset = opened("funnybirds", tmp_path)
    body = Image.open(dataset.path(0).parents[2] / "test_interventions/3/000000/body.png").convert("RGB")
    np.testing.assert_array_equal(np.asarray(dataset.without(0, dataset.parts)), np.asarray(body))


def test_wrong_lists_are_one_line(tmp_path: Path) -> None:
    trees.funnybirds16(tmp_path)
    base = tmp_path / "FunnyBirds16"
    (base / "train/0/000000.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 7 images .*allow_partial"):
        load("funnybirds16", tmp_path)
    assert len(load("funnybirds16", tmp_path, "train", allow_partial=True)) == 4
    (base / "parts.json").write_text("{")
    with pytest.raises(DataError, match=r"cannot read .*parts.json"):
        load("funnybirds16", tmp_path)
    (base / "parts.json").write_text('{"beak": []}')
    with pytest.raises(DataError, match="contradict each other"):
        load("funnybirds16", tmp_path)


@pytest.fixture(scope="module")
def birds(shared: Path) -> FunnyBirds:
    dataset = load("funnybirds16", shared / "data/funnybirds16")
    assert isinstance(dataset, FunnyBirds)
    return dataset


def test_the_shared_set_is_complete(shared: Path, birds: FunnyBirds) -> None:
    """SOURCE.txt: 3072 and 192 images, 16 classes, 96 images with 384 swaps; class 8 beak + 4 foot + 2 tail + wing."""
    train = load("funnybirds16", shared / "data/funnybirds16", "train")
    assert (len(train), len(birds), len(birds.class_names), birds.subset) == (3072, 192, 16, "")
    twins = [i for i in range(192) if birds.swaps(i)]
    assert (len(twins), sum(len(birds.swaps(i)) for i in twins)) == (96, 384)
    bits = {"beak": 8, "foot": 4, "tail": 2, "wing": 1}
    for i in twins:
        assert {part: birds.twin(i, frozenset({part}))[1] ^ birds.labels[i] for part in birds.varying(i)} == bits
    rows = csv.DictReader((shared / "data/funnybirds16/FunnyBirds16/test_swaps.csv").open())
    assert {f"FunnyBirds16/test/{row['image']}.jpg" for row in rows} == {birds.ids[i] for i in twins}
    scenes = json.loads((shared / "data/funnybirds16/FunnyBirds16/dataset_train.json").read_text())
    assert train.labels == [scene["class_idx"] for scene in scenes]


def test_352_swapped_parts_are_visible(birds: FunnyBirds) -> None:
    """The issue's count: 15 pixels or more of the stored 256 x 256. (After the transform to 224 it is 347.)"""
    with_swaps = [i for i in range(len(birds)) if birds.swaps(i)]
    sizes = [birds.part_masks(i)[part].sum() for i in with_swaps for part in birds.varying(i)]
    assert (len(sizes), sum(size >= 15 for size in sizes)) == (384, 352)


def test_a_swap_changes_its_part(birds: FunnyBirds) -> None:
    """Where 100 pixels of it are visible at 224, most of what changed lies within 20 pixels of them."""
    for i in [i for i in range(len(birds)) if birds.swaps(i)][::12]:
        twins, pixels = birds.twins(i), birds[i][0]
        assert not twins.outlines.any(), "there are no part maps of the swapped pictures"
        assert int(twins.regions.sum(0).max()) == 1, "disjoint"
        for place, part in enumerate(twins.varying):
            region = twins.regions[twins.parts.index(part)]
            if region.sum() < 100:
                continue
            changed = ((twins.pixels[place] - pixels).abs() > twins.tolerance).any(0)
            distances = torch.cdist(changed.nonzero().float(), region.nonzero().float()).amin(1)
            assert float((distances <= 20).double().mean()) > 0.5, (birds.ids[i], part)


def test_the_experiment_twins_asks_about_single_parts_and_pairs_of_them(shared: Path, tmp_path: Path) -> None:
    """Q1 about each visible part, Q3 about each pair of those; what needs several parts swapped is not asked."""
    asked = [
        "experiment=twins",
        "dataset=funnybirds16",
        "model=small_cnn",
        "model.weights=random",
        "device=cpu",
        "chance=0",
    ]
    asked += [f"paths.data_dir={shared / 'data'}", f"paths.results_dir={tmp_path}"]
    job = opening.job([application.compose(asked)])
    [item] = job.read([0])
    assert item.twins is not None
    visible = [int(item.twins.regions[item.twins.parts.index(part)].sum()) >= 15 for part in item.twins.varying]
    [row] = job.opened(job.cells).rows([item])[job.cells[0]]
    count = sum(visible)
    assert row["asked/q1"] == count
    assert row["asked/q3"] == count * (count - 1) / 2
    assert not any(row.get(f"asked/{question}") for question in ("q2", "q4_all"))
