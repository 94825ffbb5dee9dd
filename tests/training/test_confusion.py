"""The soft confusion of a network on training images, against a loop over them; kept, and found again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from wcx import datasets, models, training
from wcx.models import LoadedModel

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def train() -> datasets.ImageDataset:
    return datasets.load("parts", "", "train", train_per_class=2)


@pytest.fixture
def loaded(train: datasets.ImageDataset) -> LoadedModel:
    return models.load("small_cnn", num_classes=len(train.class_names), weights="random")


def test_it_is_the_mean_of_p_over_the_images_of_a_class(train: datasets.ImageDataset, loaded: LoadedModel) -> None:
    classes = len(train.class_names)
    rows: list[list[torch.Tensor]] = [[] for _ in range(classes)]
    with torch.no_grad():
        for i in range(len(train)):
            pixels, label = train[i]
            rows[label].append(loaded.model(pixels[None]).double().softmax(1)[0])
    expected = torch.stack([torch.stack(row).mean(0) for row in rows])
    # 1e-6: float32 logits of a batch round otherwise than those of one image.
    torch.testing.assert_close(training.soft_confusion(loaded, train, batch_size=5), expected, rtol=1e-5, atol=1e-6)


def test_rows_go_by_the_checkpoints_class_names_and_are_nan_without_images(
    train: datasets.ImageDataset, loaded: LoadedModel
) -> None:
    usual = training.soft_confusion(loaded, train)
    loaded.class_names = [*train.class_names[1:], "a class without images"]
    train.class_names, train.labels = train.class_names[1:], [max(0, label - 1) for label in train.labels]
    moved = training.soft_confusion(loaded, train)
    torch.testing.assert_close(moved[1:-1], usual[2:], rtol=0, atol=0)
    assert bool(moved[-1].isnan().all())


def test_it_is_computed_once_and_again_when_damaged(
    train: datasets.ImageDataset, loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert training.kept_confusion(loaded, train, tmp_path, computes=False) is None
    assert not list(tmp_path.glob("*")), "a plan computes nothing"
    first = training.kept_confusion(loaded, train, tmp_path)
    assert first is not None
    assert torch.equal(training.kept_confusion(loaded, train, tmp_path, computes=False), first)
    [file] = tmp_path.glob("parts/small_cnn-*.confusion.npy")
    computed = torch.zeros_like(first)
    monkeypatch.setattr("wcx.training.confusion.soft_confusion", lambda *_: computed)
    assert torch.equal(training.kept_confusion(loaded, train, tmp_path), first)
    file.write_bytes(file.read_bytes()[:200])
    assert torch.equal(training.kept_confusion(loaded, train, tmp_path), computed)
    assert file.with_name(f"{file.name}.damaged-1").exists()
    loaded.weights_hash = "another"
    training.kept_confusion(loaded, train, tmp_path)
    assert len([*tmp_path.glob("parts/*.npy")]) == 2
