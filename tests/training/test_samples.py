"""Samples: what an epoch sees."""

from __future__ import annotations

import os
import warnings

import pytest
import torch
from torch.utils.data import DataLoader

from tests.training.tiny import Drawn
from wcx.training import samples
from wcx.training.recipe import Recipe


def test_samples_depend_on_seed_epoch_and_index_alone() -> None:
    def of(seed: int, keys: list[tuple[int, int]], workers: int) -> torch.Tensor:
        pixels = samples.Pixels(Drawn("train"), cache_bytes=0 if workers else 2**20)
        recipe = Recipe("x", augment={"horizontal_flip": 0.5, "color_jitter": [0.5, 0.5, 0.5, 0.1]})
        data = samples.Augmented(pixels, recipe.augmentation(16), seed)
        return next(iter(DataLoader(data, batch_sampler=[keys], num_workers=workers)))[0]

    keys = [(0, 3), (0, 4), (1, 3), (7, 5)]
    images = of(0, keys, 0)
    assert torch.equal(images, of(0, keys, 1))
    assert torch.equal(images.flip(0), of(0, keys[::-1], 0))
    assert not torch.equal(images[0], images[2])
    assert not torch.equal(images, of(1, keys, 0))


def test_there_are_no_more_processes_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch warned of two where this process had one core."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    pixels = samples.Pixels(Drawn("train", 6), cache_bytes=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        counts = [samples.loader(pixels, number).num_workers for number in (0, 1, 2, 5)]
        assert samples.Pixels(Drawn("train", 6), num_workers=5).cache is not None
    assert counts == [0, 1, 1, 1]


def test_pixels_are_exactly_those_of_the_dataset() -> None:
    data = Drawn("train", 6)
    for cache in (0, 2**20):
        pixels = samples.Pixels(data, cache_bytes=cache)
        assert (pixels.cache is None) == (cache == 0)
        for i in range(len(data)):
            assert torch.equal(pixels[i][0].float() / 255, data[i][0])
            assert pixels[i][1] == data[i][1]


def test_batches_are_a_permutation_and_go_on_in_the_middle() -> None:
    batches = samples.Batches(range(10, 33), 5, seed=1)
    first = list(batches)
    assert [len(batch) for batch in first] == [5, 5, 5, 5, 3]
    assert sorted(i for batch in first for _, i in batch) == list(range(10, 33))
    batches.start = 2
    assert list(batches) == first[2:]
    assert len(batches) == 3
    batches.epoch, batches.start = 1, 0
    assert [i for _, i in next(iter(batches))] != [i for _, i in first[0]]
    assert {epoch for batch in batches for epoch, _ in batch} == {1}
    assert [len(batch) for batch in samples.Batches(range(21), 5, seed=0)] == [5] * 4, "no batch of one image"


def test_the_holdout_is_a_seeded_tenth_of_train() -> None:
    recipe = Recipe("x", select="best")
    kept, held = samples.choose_indices(660, recipe, seed=0)
    assert len(held) == 66
    assert sorted(kept + held) == list(range(660))
    assert (kept, held) == samples.choose_indices(660, recipe, seed=0) != samples.choose_indices(660, recipe, seed=1)
    assert samples.choose_indices(5, Recipe("x"), seed=0) == ([0, 1, 2, 3, 4], [])
