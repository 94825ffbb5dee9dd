"""What fine-tuning leaves behind."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from tests.training.tiny import ALL, HEAD, Drawn, run, start
from wcx import models, training
from wcx.errors import WcxError
from wcx.training.recipe import Recipe


@pytest.mark.parametrize("recipe", [ALL, HEAD], ids=["all", "head"])
def test_the_checkpoint_says_what_it_is_and_its_accuracy_is_true(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "drawn" / "tiny.safetensors"
    loaded = run(path, recipe, seed=4)
    state, meta = models.read_checkpoint(path)
    test = Drawn("test", 9)
    logits = torch.cat([loaded.model(test[i][0][None]) for i in range(9)])
    assert meta["accuracy"] == pytest.approx((logits.argmax(1) == torch.tensor(test.labels)).float().mean().item())
    assert models.weights_hash(state) == models.weights_hash(loaded.net.state_dict())
    expected = {
        "model": "tiny",
        "dataset": "drawn",
        "class_names": ["rows", "columns", "checks"],
        "seed": 4,
        "weights": "stand-in: tiny.pth",
        "stand_in": True,
        "transform": {"kind": "squash", "size": 16, "resize": 256},
        "train_images": 24,
        "test_images": 9,
    }
    assert {key: meta[key] for key in expected} == expected
    assert meta["recipe"]["name"] == recipe.name
    assert len(pd.read_csv(path.with_suffix(".history.csv"))) == recipe.epochs
    assert Image.open(path.with_suffix(".curve.png")).size[0] > 500
    assert "force=true" in training.finished(path, recipe)
    assert "another recipe (t)" in (training.finished(path, Recipe("z")) if recipe is ALL else "another recipe (t)")
    table = training.accuracies(tmp_path)
    assert table[["dataset", "model", "recipe", "seed"]].to_numpy().tolist() == [["drawn", "tiny", recipe.name, 4]]


def test_it_learns(tmp_path: Path) -> None:
    recipe = Recipe("x", optimizer="adamw", lr=5e-3, epochs=12, batch_size=8)
    meta = training.finetune(
        start(), Drawn("train", 60), Drawn("test", 30), recipe, tmp_path / "c.safetensors", num_workers=0
    )
    assert meta["accuracy"] >= 0.8


def test_splits_of_other_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WcxError, match="different classes"):
        training.finetune(start(), Drawn("train"), Drawn("test", classes=2), ALL, tmp_path / "c.safetensors")
