"""scripts/finetune.py."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from omegaconf import DictConfig

from tests.training.tiny import Drawn
from wcx import files, models
from wcx.cli import application, opening
from wcx.cli.commands import finetune as script
from wcx.errors import WcxError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        data = Drawn(split, 12)
        for i in range(12):
            path = tmp_path / "data" / "mine" / split / data.class_names[data.labels[i]] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            data.image(i).save(path)
    return tmp_path


@pytest.mark.parametrize("recipe", ["quick", "tail"])
def test_the_script_plans_trains_and_skips(recipe: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*overrides: str) -> str:
        common = [
            f"dataset.root={folder / 'data' / 'mine'}",
            f"paths.checkpoints_dir={folder / 'checkpoints'}",
            "dataset.transform.size=64",
            "recipe.epochs=1",
            "model.weights=random",
            "device=cpu",
            "num_workers=0",
        ]
        script.run(
            application.compose(
                ["dataset=folder", "model=squeezenet1_1", f"recipe={recipe}", *common, *overrides], "finetune"
            )
        )
        return capsys.readouterr().out

    assert "12 to train on" in call("plan=true")
    assert not (folder / "checkpoints").exists(), "a plan writes nothing"
    assert "test accuracy" in call()
    path = models.checkpoint_path(
        folder / "checkpoints", "folder", "squeezenet1_1", sorted(["rows", "columns", "checks"])
    )
    assert path.stem.endswith(f"-{recipe}") == (recipe != "quick"), "the network's usual recipe needs no name"
    written = path.stat().st_mtime_ns
    assert call().startswith("finished: ")
    assert path.stat().st_mtime_ns == written
    call("force=true")
    assert path.stat().st_mtime_ns > written
    assert models.load("squeezenet1_1", checkpoint=path).class_names == ["checks", "columns", "rows"]
    assert len(pd.read_csv(folder / "checkpoints" / "accuracies.csv")) == 1


def test_the_usual_recipe_takes_the_name_without_one_unless_another_has_it(tmp_path: Path) -> None:
    place = tmp_path, "pets", "alexnet", ["a", "b"], 0
    unnamed = models.checkpoint_path(*place)
    assert models.checkpoint_path(*place, "head", "head") == unnamed
    tail = models.checkpoint_path(*place, "tail", "head")
    assert tail.stem == f"{unnamed.stem}-tail"
    models.save_checkpoint(unnamed, {"w": torch.ones(1)}, {"class_names": ["a", "b"], "recipe": {"name": "tail"}})
    assert models.checkpoint_path(*place, "tail", "head") == unnamed
    assert models.checkpoint_path(*place, "head", "head").stem == f"{unnamed.stem}-head"


def composed(folder: Path, *overrides: str, config: str = "finetune") -> DictConfig:
    settings = [
        f"dataset.root={folder / 'data' / 'mine'}",
        f"paths.checkpoints_dir={folder / 'checkpoints'}",
        "dataset.transform.size=64",
        "device=cpu",
        "num_workers=0",
    ]
    return application.compose(["dataset=folder", "model=squeezenet1_1", *settings, *overrides], config)


def opened(folder: Path, *overrides: str) -> models.LoadedModel:
    cfg = composed(folder, *overrides, config="config")
    return opening.open_model(cfg, opening.open_dataset(cfg, "test"))


def test_two_recipes_stand_side_by_side_and_none_is_taken_for_the_other(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Head and tail of one network, dataset and seed in one folder: training the second once said `finished` of the first."""

    def train(*overrides: str) -> str:
        script.run(composed(folder, "model.weights=random", *overrides))
        return capsys.readouterr().out

    assert "test accuracy" in train("recipe=head", "recipe.epochs=1")
    [head] = (folder / "checkpoints").glob("folder/*.safetensors")
    assert opened(folder).meta["recipe"]["name"] == "head", "the only one"
    with pytest.raises(
        WcxError,
        match=r"no checkpoint of squeezenet1_1 at .*-tail.*one by recipe head: checkpoint_recipe=head\).*recipe=tail",
    ):
        opened(folder, "recipe=tail")

    head = head.rename(head.with_name(head.name.replace("-head", "")))  # as files were called before
    assert "test accuracy" in train("recipe=tail", "recipe.epochs=1")
    assert len(list((folder / "checkpoints").glob("folder/*.safetensors"))) == 2
    for recipe in ("head", "tail"):
        assert opened(folder, f"recipe={recipe}").meta["recipe"]["name"] == recipe
        assert f"recipe {recipe}, accuracy" in opened(folder, f"checkpoint_recipe={recipe}").weights
        assert train(f"recipe={recipe}", "recipe.epochs=1").startswith("finished")
    with pytest.raises(
        WcxError, match=r"2 checkpoints of squeezenet1_1 .* by recipes head, tail; say which: checkpoint_recipe=head"
    ):
        opened(folder)
    with pytest.raises(WcxError, match=r"made by recipe tail with other values \(epochs=1\).* force=true replaces it"):
        train("recipe=tail", "recipe.epochs=2")
    assert "test accuracy" in train("recipe=tail", "recipe.epochs=2", "recipe.name=long")
    assert opened(folder, "checkpoint_recipe=long").meta["recipe"]["epochs"] == 2
    assert head.is_file()
    assert len(pd.read_csv(folder / "checkpoints" / "accuracies.csv")) == 3


def test_another_seed_is_another_checkpoint_of_the_same_recipe(tmp_path: Path) -> None:
    first, second = (models.checkpoint_path(tmp_path, "pets", "alexnet", ["a", "b"], seed, "head") for seed in (0, 1))
    assert (first.stem[-5:], second.stem[-11:]) == ("-head", "-head-seed1")
    first.parent.mkdir()
    second.touch()
    assert models.checkpoint_path(tmp_path, "pets", "alexnet", ["a", "b"]) != second
    assert models.checkpoint_path(tmp_path, "pets", "alexnet", ["a", "b"], 1) == second


def test_of_two_at_once_one_trains_and_the_other_waits(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both trained once, into the same files; the second now finds the first one's checkpoint."""
    settings = ["recipe=head", "recipe.epochs=1", "model.weights=random"]
    other = threading.Thread(target=lambda: script.run(composed(folder, *settings)))
    path = models.checkpoint_path(
        folder / "checkpoints", "folder", "squeezenet1_1", ["checks", "columns", "rows"], recipe="head"
    )
    path.parent.mkdir(parents=True)
    out = ""
    with files.locked(path.with_name(f".{path.stem}.lock")):
        other.start()
        while "is being trained by another process; waiting for it" not in out:
            assert other.is_alive(), out
            time.sleep(0.01)
            out += capsys.readouterr().out
        assert not path.exists()
    other.join()
    capsys.readouterr()
    assert path.exists()
    script.run(composed(folder, *settings))
    assert capsys.readouterr().out.startswith("finished")
