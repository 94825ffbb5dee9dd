"""The picture of several foils in turn: what it says of a map is what the experiment counts, and how its image is chosen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import wcx
from wcx import datasets, experiments, methods, pipeline
from wcx.experiments import Cell, Subject, images
from wcx.experiments.images import Item
from wcx.experiments.twins import Settings
from wcx.models import load
from wcx.pipeline import Job
from wcx.report.pictures import twins

CELL = Cell("gradcam", "weighted")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    birds = datasets.load("parts", "x", test_per_class=1, families="factorial")
    loaded = load("small_cnn", weights="random", num_classes=32)
    cells = [Cell("gradcam", "original"), CELL]
    folder = tmp_path_factory.mktemp("results")
    return Job(experiments.get("twins"), birds, loaded, cells, Settings(chance=0), results_dir=folder, limit=4)


@pytest.fixture(scope="module")
def item(job: Job) -> Item:
    return next(iter(images.read(job.dataset, [9], needs_twins=True)))


def test_a_turn_is_a_twin_that_differs_in_one_visible_part(job: Job, item: Item) -> None:
    found = twins.turns(item)
    assert [turn.part for turn in found] == list(job.dataset.varying(9))
    for turn in found:
        image, label = job.dataset.twin(9, frozenset({turn.part}))
        assert turn.foil == label
        assert np.array_equal((turn.pixels * 255).round().numpy(), np.asarray(image).transpose(2, 0, 1))
        masks = job.dataset.part_masks(9)[turn.part] | job.dataset.part_masks(9, label)[turn.part]
        assert np.array_equal(turn.regions[turn.part].numpy(), masks)
    assert twins.turns(replace(item, twins=None)) == []


def test_each_map_is_that_of_its_foil_and_the_first_of_the_class_alone(job: Job, item: Item) -> None:
    subject = Subject(job.loaded.model, "features.4", {"gradcam": methods.create("gradcam")})
    picture = twins.explain(subject, item, job.class_names(), CELL)
    pixels, label = item.pixels[None], item.label
    alone, *against = picture.raw.values()
    whole = wcx.explain(job.loaded.model, pixels, label, "gradcam", "original", layer="features.4")
    assert torch.allclose(alone, whole, atol=1e-6)
    for turn, raw in zip(twins.turns(item), against, strict=True):
        named = wcx.explain(job.loaded.model, pixels, label, "gradcam", "weighted", [turn.foil], layer="features.4")
        assert torch.allclose(raw, named, atol=1e-6)
        phi = picture.maps[next(v for v in picture.raw if v.foils == turn.part)][0]
        means = {part: phi.numpy()[region.numpy()].mean() for part, region in turn.regions.items()}
        assert twins.top_part(phi, turn) == max(means, key=lambda part: means[part])


def test_the_first_image_whose_answers_are_all_right_is_drawn(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    shards, _ = pipeline.run(job, quiet=True)
    rows = (
        shards[1].read().assign(**{"asked/q3": 3, "verified/q3": [3, 1, 3, 3], "top_mean/q3/verified": [0.5, 1, 1, 1]})
    )
    monkeypatch.setattr(type(shards[1]), "read", lambda _: rows)
    [path] = twins.write(job, shards)
    assert path.parent == job.results_dir / "figures"
    assert path.name == "twins-parts-small_cnn-gradcam-features_4-seed0.png"
    with Image.open(path) as image:
        assert image.width > 900
    drawn: list[int] = []
    monkeypatch.setattr(
        twins, "figure", lambda picture, *_: drawn.append(picture.item.index) or twins.Sheet([1.0], []).figure()
    )
    twins.write(job, shards)
    assert drawn == [rows["index"].iloc[2]], "the second has an unverified question"
    monkeypatch.setattr(type(shards[1]), "read", lambda _: rows.assign(**{"top_mean/q3/verified": 0.0}))
    assert twins.write(job, shards) == []


def test_print_style_hatches_what_speaks_against_the_class(job: Job, item: Item) -> None:
    subject = Subject(job.loaded.model, "features.4", {"gradcam": methods.create("gradcam")})
    picture = twins.explain(subject, item, job.class_names(), CELL)
    for style, is_hatched in (("colour", False), ("print", True)):
        drawn = twins.figure(picture, CELL, {"rule": "r", "model": "m", "weights": "w", "layer": ""}, style)
        hatched = [one for ax in drawn.axes for one in ax.collections if getattr(one, "hatches", [None])[0]]
        assert bool(hatched) == is_hatched
        assert ("blue, hatched, against it" in " ".join(text.get_text() for text in drawn.texts)) == is_hatched


def test_names_are_told_apart_by_the_words_that_differ() -> None:
    assert twins._difference("cone-beak barred-wing marsh finch", "cone-beak plain-wing marsh finch") == "plain-wing"
    assert twins._difference("a b", "b a") == "b a"
