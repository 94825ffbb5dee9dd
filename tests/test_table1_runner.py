"""scripts/table1.py: networks that are missing, several protocols and seeds, and which records a table takes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.report.shards import make
from wcx import records
from wcx.cli import main as command_line
from wcx.experiments import masking
from wcx.experiments.masking import Settings
from wcx.report import sections

SMALL = [
    "datasets=[parts]", "models=[small_cnn]", "methods=[gradcam]", "dataset.size=32", "dataset.transform.size=32",
    "dataset.train_per_class=2", "dataset.test_per_class=1", "recipe.epochs=1", "threshold=0", "figure=0", "num_workers=0",
]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, cli: Callable[..., Any]) -> Callable[..., str]:
    """Call the runner with arguments; returns what it printed."""

    def call(*arguments: str, code: int = 0) -> str:
        folders = [f"paths.results_dir={tmp_path / 'results'}", f"paths.checkpoints_dir={tmp_path / 'checkpoints'}"]
        done = cli("table1", *SMALL, *folders, *arguments)
        assert done.returncode == code, done.stderr
        return done.stdout

    return call


def test_whatever_is_missing_is_made(tmp_path: Path, run: Callable[..., str]) -> None:
    """Two networks that were not there, two protocols of each, one table of all; then another limit beside them."""
    plan = run("plan=true", "limit=4")
    assert "fine-tuning comes first, recipe demo" in plan
    assert "masked_passes: at most about 96" in plan, "4 images, 2 cells, 2 targets, 2 signs, 3 baselines"
    assert not (tmp_path / "results").exists()
    run("finetune=false", "limit=4", code=1)
    out = run("masks=[sign,equal]", "seeds=[0,3]", "limit=4")
    assert out.count("fine-tuning comes first") == 2
    assert len(list((tmp_path / "checkpoints" / "parts").glob("*.safetensors"))) == 2
    table = pd.read_csv(tmp_path / "results" / "table1.csv")
    assert table.groupby("mask").size().to_dict() == {"sign": 48, "equal": 48}
    assert set(table["weights"].str.extract(r"(seed \d)$")[0]) == {"seed 0", "seed 3"}
    assert set(pd.read_csv(tmp_path / "results" / "table1_seeds.csv")["seeds"]) == {"0 3"}

    again = run("limit=6")
    assert "passes (images) {'forward': 6" in again
    assert "6 other sets of records in" in again, "all but the two of which these are the same lines"
    assert set(pd.read_csv(tmp_path / "results" / "table1.csv")["n"]) == {6}
    whole = run("limit=6", "collect=true")
    assert "none, all records were there" in whole
    assert whole.count("left out") == 2
    both = pd.read_csv(tmp_path / "results" / "table1.csv")
    assert both.groupby(["mask", "n"]).size().to_dict() == {("equal", 4): 48, ("sign", 4): 24, ("sign", 6): 24}
    run("collect=only")
    assert pd.read_csv(tmp_path / "results" / "table1.csv").equals(both), "of the records alone"
    run("collect=only", "threshold=0.2")
    assert set(pd.read_csv(tmp_path / "results" / "table1.csv")["threshold"]) == {0.2}


def test_the_authors_network_and_protocol_end_to_end(tmp_path: Path, run: Callable[..., str]) -> None:
    """vgg16_bn with random weights, hooked before BatchNorm and ReLU; both contrasts hide the same number of pixels."""
    arguments = ["models=[vgg16_bn]", "model.weights=random", "+model.init_weights=false", "profile=authors_code"]
    out = run(*arguments, "contrasts=[original,probability]", "baselines=[zeros]", "threshold=0", "limit=2")
    assert "vgg16_bn, p_t2 > 0, mask=equal" in out
    assert "Parts: n = 2 images; random" in out
    shards = records.find(tmp_path / "results", "masking")
    assert [shard.parts["layer"] for shard in shards] == ["features.40"] * 2
    settings = shards[0].parts["settings"]
    assert (settings["equal_pair"], settings["equal_n_minus_one"]) == (["original", "probability"], True)
    hidden = [shard.read().filter(like="masked_fraction") * 32 * 32 for shard in shards]
    assert hidden[0].equals(hidden[1])


def test_without_baselines_the_maps_are_measured_and_nothing_is_hidden(run: Callable[..., str]) -> None:
    out = run("model.weights=random", "baselines=[]", "contrasts=[original,weighted]")
    assert "'masked'" not in out
    assert "Localisation" in out
    assert "no records" not in out
    assert "inside the box in" in out


def test_what_stands_in_one_table(tmp_path: Path) -> None:
    own = make(tmp_path, "original", seed=0)
    equal = make(tmp_path, "original", seed=0, settings=Settings(mask="equal"))
    weighted = make(tmp_path, "weighted", seed=0)
    other_seed = make(tmp_path, "original", seed=1)
    few = make(tmp_path, "max", n=6, seed=0, settings=Settings(baselines=("blur",)))
    more = make(tmp_path, "max", n=9, seed=0, settings=Settings(baselines=("blur",), seed=1))
    old = make(tmp_path, "mean", version=0, seed=0)
    random = make(tmp_path, "mean", weights="random")
    stale = make(tmp_path, "finer", weights="cub checkpoint, trained before", seed=0)
    incomplete = make(tmp_path, "probability", seed=0)
    (incomplete.path / "complete.json").unlink()

    found, left_out = sections.collect("masking", tmp_path, [own])
    assert {one.path for one in found} == {one.path for one in (own, equal, weighted, other_seed, more)}
    assert [one.key[3] for one in found] == ["original"] * 3 + ["max", "weighted"]
    reasons = {line.split(": ")[1]: line.split(": ", 2)[2] for line in left_out}
    assert reasons == {
        str(few.path): f"{more.path} is the same line of the table",
        str(old.path): f"made by version 0 of the experiment, not {masking.Masking.version}",
        str(random.path): "random weights",
        str(stale.path): "another network of the same name than the newest records'",
        str(incomplete.path): "incomplete",
    }


def test_nothing_to_collect_is_one_clear_line(tmp_path: Path, cli: Callable[..., Any]) -> None:
    done = cli("table1", "collect=only", f"paths.results_dir={tmp_path}")
    assert done.returncode == 2
    assert "error: no complete records in" in done.stderr
    done = cli("table1", "collect=onyl")
    assert done.returncode == 2
    assert "Did you mean 'only'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["targets=1"], "targets = 1: the experiment compares classes"),
        (["mask=sing"], "unknown mask 'sing'"),
        (["threshold=high"], "threshold = 'high': give a number"),
        (["methods=[occlusion]", "method.window=0"], "occlusion: window = 0"),
        (["foils=confused"], "foils = 'confused': give null"),
    ],
)
def test_what_cannot_be_is_said_before_a_network_is_trained(
    arguments: list[str], message: str, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    folders = [f"paths.results_dir={tmp_path / 'results'}", f"paths.checkpoints_dir={tmp_path / 'checkpoints'}"]
    done = cli("table1", *SMALL, *folders, "limit=2", *arguments)
    assert (done.returncode, message in done.stderr) == (1, True)
    assert "fine-tuning" not in done.stdout
    assert not (tmp_path / "checkpoints").exists()


def test_a_dataset_that_an_experiment_cannot_take_is_named_before_a_network_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`wcx twins datasets=[cub]` trained VGG-16 first, for hours."""
    folders = [f"paths.results_dir={tmp_path / 'results'}", f"paths.checkpoints_dir={tmp_path / 'checkpoints'}"]
    shared = [argument for argument in SMALL if not argument.startswith(("methods", "threshold"))]
    monkeypatch.setattr(sys, "argv", ["wcx", "part_attributes", *shared, *folders, "limit=2"])
    with pytest.raises(SystemExit):
        command_line()
    assert "which dataset parts as it was opened lacks; give dataset=cub" in capsys.readouterr().err
    assert not (tmp_path / "checkpoints").exists()
