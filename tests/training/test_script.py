"""scripts/finetune.py."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.training.tiny import Drawn
from wcx import models
from wcx.cli import application
from wcx.cli.commands import finetune as script


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
    written = path.stat().st_mtime_ns
    assert call().startswith("finished: ")
    assert path.stat().st_mtime_ns == written
    call("force=true")
    assert path.stat().st_mtime_ns > written
    assert models.load("squeezenet1_1", checkpoint=path).class_names == ["checks", "columns", "rows"]
    assert len(pd.read_csv(folder / "checkpoints" / "accuracies.csv")) == 1
