"""The resumable loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from tests.training.tiny import ALL, BEST, HEAD, TAIL, Drawn, run, start
from wcx import models, training
from wcx.errors import DataError, WcxError
from wcx.training import samples, task
from wcx.training.recipe import Recipe


@pytest.mark.parametrize("recipe", [ALL, BEST, HEAD, TAIL], ids=["all", "best", "head", "tail"])
@pytest.mark.parametrize("when", [1, 4])
def test_resumed_training_is_byte_identical(
    recipe: Recipe, when: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after `when` steps and again after one; states saved at every step (save_every=0), or at the ends of epochs."""
    whole = run(tmp_path / "whole.safetensors", recipe)
    fit = training.fit
    for save_every in (0.0, 1e9):
        path = tmp_path / f"killed{save_every}.safetensors"
        for left in (when, 1):
            optimizer = torch.optim.SGD if recipe.optimizer == "sgd" else torch.optim.AdamW
            step = optimizer.step
            counter = iter(range(left))

            def killed(self: torch.optim.Optimizer, *args: object) -> object:
                if next(counter, None) is None:  # noqa: B023
                    raise KeyboardInterrupt
                return step(self, *args)  # noqa: B023

            with monkeypatch.context() as patch:
                patch.setattr(task, "fit", lambda *a, **k: fit(*a, **k, save_every=save_every))  # noqa: B023
                patch.setattr(optimizer, "step", killed)
                with pytest.raises(KeyboardInterrupt):
                    run(path, recipe)
        resumed = run(path, recipe)
        assert models.weights_hash(resumed.net.state_dict()) == models.weights_hash(whole.net.state_dict())
        one, other = (pd.read_csv(p.with_suffix(".history.csv")) for p in (tmp_path / "whole.safetensors", path))
        pd.testing.assert_frame_equal(one.drop(columns="seconds"), other.drop(columns="seconds"))
        left_over = {p.name for p in path.parent.iterdir() if p.name.startswith("killed")}
        assert left_over == {
            p.with_suffix(s).name for p in [path] for s in (".safetensors", ".history.csv", ".curve.png")
        } | ({f"killed0.0{s}" for s in (".safetensors", ".history.csv", ".curve.png")})


def test_a_kill_at_the_end_leaves_no_checkpoint_without_its_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was taken for finished, and its history and curve were never made."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "c.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(task, "write_curve", killed)
        with pytest.raises(KeyboardInterrupt):
            run(path, HEAD)
    assert not path.exists()
    run(path, HEAD)
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"c.safetensors", "c.history.csv", "c.curve.png", "features"}


def test_a_state_of_another_run_is_not_resumed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = samples.Augmented(samples.Pixels(Drawn("train")), ALL.augmentation(16), 0)
    options = {"indices": range(24), "state_path": tmp_path / "s.state"}
    training.fit(start().model, data, ALL, identity={"a": 1}, **options)
    again, fresh = start(), start()
    training.fit(again.model, data, ALL, identity={"a": 2}, **options)
    assert "starting afresh" in caplog.text
    training.fit(fresh.model, data, ALL, indices=range(24))
    assert models.weights_hash(again.net.state_dict()) == models.weights_hash(fresh.net.state_dict())


def test_a_step_is_the_one_of_a_plain_loop() -> None:
    """One epoch of SGD without augmentation or dropout, against the loop that anybody would write."""
    recipe = Recipe(
        "x", lr=0.1, momentum=0.9, weight_decay=0.01, label_smoothing=0.1, batch_size=8, freeze_batchnorm=True
    )
    ours, theirs = start(), start()
    ours.net.classifier[0].p = theirs.net.classifier[0].p = 0.0
    data = samples.Augmented(samples.Pixels(Drawn("train")), recipe.augmentation(16), 0)
    history = training.fit(ours.model, data, recipe, indices=range(24))
    optimizer = torch.optim.SGD(theirs.net.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    losses = []
    theirs.model.to(memory_format=torch.channels_last)
    for batch in samples.Batches(range(24), 8, seed=0):
        images = torch.stack([Drawn("train")[i][0] for _, i in batch])
        labels = torch.tensor([Drawn("train").labels[i] for _, i in batch])
        loss = nn.functional.cross_entropy(theirs.model(images), labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert history[0]["train_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    for key, value in theirs.net.state_dict().items():
        torch.testing.assert_close(ours.net.state_dict()[key], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("freeze", [True, False])
def test_frozen_batchnorm_keeps_its_statistics(freeze: bool) -> None:
    loaded, before = start(), start().net.features[1]
    data = samples.Augmented(samples.Pixels(Drawn("train")), ALL.augmentation(16), 0)
    training.fit(loaded.model, data, Recipe("x", lr=0.1, freeze_batchnorm=freeze), indices=range(24))
    after = loaded.net.features[1]
    assert torch.equal(after.running_mean, before.running_mean) == freeze
    assert torch.equal(after.running_var, before.running_var) == freeze
    assert not torch.equal(after.weight, before.weight)
    assert not loaded.net.training


def test_best_is_the_epoch_with_the_highest_held_out_accuracy(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    loaded = run(path, BEST)
    history = pd.read_csv(path.with_suffix(".history.csv"))
    meta = models.read_meta(path)
    assert meta["validation_accuracy"] == history["validation_accuracy"].max()
    assert meta["epoch"] == history["validation_accuracy"].idxmax() + 1, "the first of equals"
    _, held = samples.choose_indices(24, BEST, seed=0)
    again = [int(loaded.model(Drawn("train")[i][0][None]).argmax() == Drawn("train").labels[i]) for i in held]
    assert np.mean(again) == pytest.approx(meta["validation_accuracy"])


@pytest.mark.parametrize("recipe", [ALL, BEST, HEAD, TAIL], ids=["all", "best", "head", "tail"])
def test_the_test_images_are_not_looked_at_before_the_training_is_over(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test, fit = Drawn("test", 9), training.fit

    def fit_unseen(*args: object, **options: object) -> object:
        history = fit(*args, **options)
        assert test.count == 0
        return history

    monkeypatch.setattr(task, "fit", fit_unseen)
    training.finetune(start(), Drawn("train"), test, recipe, tmp_path / "c.safetensors", num_workers=0)
    assert test.count >= 9


def test_a_broken_image_is_one_line_with_and_without_workers(tmp_path: Path) -> None:
    train = Drawn("train")
    train.broken = 5
    for workers in (0, 1):
        for recipe, cache in ((ALL, 2), (TAIL, 0)) if workers else ((ALL, 2), (ALL, 0), (TAIL, 0)):
            with pytest.raises(DataError) as error:
                training.finetune(
                    start(),
                    train,
                    Drawn("test", 9),
                    recipe,
                    tmp_path / "c.safetensors",
                    num_workers=workers,
                    cache_gib=cache,
                )
            assert str(error.value) == "cannot read image train-5: it is broken."


@pytest.mark.parametrize("recipe", [ALL, HEAD], ids=["all", "head"])
def test_a_training_that_runs_away_writes_no_checkpoint(recipe: Recipe, tmp_path: Path) -> None:
    """Its weights were kept as finished, at chance, and a table of them was empty without a word."""
    path = tmp_path / "wild.safetensors"
    with pytest.raises(
        WcxError, match=r"the weights are no numbers any more after epoch 1 .*; give a smaller recipe.lr"
    ):
        run(path, replace(recipe, lr=1e30, optimizer="sgd", momentum=0.9))
    assert not path.exists()
