"""scripts/fig3.py and run.py's perturbation cells on drawn birds and a small network, in this process."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from wcx.cli import application, opening
from wcx.cli.commands import fig3
from wcx.cli.commands import run as run_py
from wcx.cli.grid import Grid
from wcx.errors import WcxError
from wcx.experiments.sign_perturbation import Settings, SignPerturbation
from wcx.report.sign_perturbation import numbers

SMALL = [
    "dataset=parts", "dataset.size=32", "dataset.transform.size=32", "models=[small_cnn]", "model.weights=random", "limit=5",
    "batch_size=2", "chunk_size=2",
]  # fmt: skip


@pytest.fixture
def runner(cli: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    def call(*arguments: str, folder: str = "a") -> Any:
        return cli("fig3", *SMALL, f"paths.results_dir={tmp_path / folder}", *arguments)

    return call


def files(folder: Path) -> dict[Path, bytes]:
    kept = (".csv", ".json", ".png")
    found = (path for path in folder.rglob("*") if path.suffix in kept and path.name != "manifest.json")
    return {path.relative_to(folder): path.read_bytes() for path in found}


def test_whole_figure_and_the_same_bytes_after_an_interruption(
    runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = runner()
    assert done.returncode == 0
    passes = "passes (images) {'forward': 205, 'backward': 220, 'evaluation': 60}"
    assert passes in done.stdout, "5 images: 53 and 44 each"
    table = pd.read_csv(tmp_path / "a" / "fig3.csv")
    assert tuple(table.columns) == numbers.HEADER
    assert (len(table), set(table["n"]), set(table["weights"])) == (4 * 3, {5}, {"random"})
    rows = pd.read_csv(next((tmp_path / "a").rglob("weighted/*/chunk-00002.csv")))
    assert list(rows.columns) == Settings().columns()

    rows = SignPerturbation.rows
    calls = iter(range(9))

    def interrupted(experiment: SignPerturbation, items: list, *more: object) -> dict:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return rows(experiment, items, *more)

    with monkeypatch.context() as patch:
        patch.setattr(SignPerturbation, "rows", interrupted)
        patch.setattr(SignPerturbation, "seconds", lambda *_: 1.0)
        assert runner(folder="b").returncode == 130
    assert 0 < len(list((tmp_path / "b").rglob("chunk*"))) < 12
    assert runner(folder="b").returncode == 0
    whole = files(tmp_path / "a")
    assert any(path.suffix == ".png" and content for path, content in whole.items()), "drawn here"
    assert whole == files(tmp_path / "b")
    assert "none, all records were there" in runner(folder="b").stdout


@pytest.mark.usefixtures("undrawn")
def test_a_network_that_fails_is_told_at_the_end(runner, tmp_path: Path) -> None:
    done = runner("models=[alexnet,small_cnn]", "model.checkpoint=nowhere", "contrasts=[weighted]")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-2].startswith("failed: parts alexnet: no checkpoint of alexnet")
    done = runner("contrasts=[weighted,probability]", "methods=[gradient,input_x_gradient]", "iterations=[2]")
    assert done.returncode == 0
    assert len(list((tmp_path / "a").rglob("complete.json"))) == 4


@pytest.mark.usefixtures("undrawn")
def test_a_plan_states_the_passes_and_computes_nothing(runner, tmp_path: Path) -> None:
    done = runner("plan=true")
    assert done.returncode == 0
    assert "forward_passes: 265; backward_passes: 220" in done.stdout
    assert re.search(r"expected: \d\d:\d\d for 1 networks", done.stdout)
    assert not list(tmp_path.rglob("chunk*"))


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["methods=[gradcam]"],
            "failed: parts small_cnn: experiment sign_perturbation needs an input method of gradients, not gradcam",
        ),
        (["contrasts=[wieghted]"], "error: unknown contrast 'wieghted'. Did you mean 'weighted'"),
        (["precision=half"], "failed: parts small_cnn: unknown precision 'half'"),
    ],
)
def test_a_users_mistake_is_one_line(runner, arguments: list[str], message: str) -> None:
    done = runner(*arguments)
    assert done.returncode in (1, 2)
    assert message in done.stderr.splitlines()[-1]


@pytest.mark.usefixtures("undrawn")
def test_one_cell_by_run_py(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = [*SMALL[:3], "model.weights=random", "limit=2", f"paths.results_dir={tmp_path}"]
    cfg = application.compose([*small, "experiment=sign_perturbation", "contrast=max", "profile=authors_code"])
    run_py.run(cfg)
    summary = pd.read_csv(next(tmp_path.rglob("gradient/max/sign_perturbation-*/summary.csv")))
    assert list(summary["iterations"]) == [1, 2, 10]
    assert set(summary["epsilon"]) == {0.003}
    assert "'backward': 22" in capsys.readouterr().out
    cfg.save_maps = True
    with pytest.raises(WcxError, match="keeps no maps"):
        run_py.run(cfg)


@pytest.mark.usefixtures("undrawn")
def test_larger_batches_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    lists = {"datasets": ["parts"], "models": ["small_cnn"], "methods": ["gradient"], "contrasts": ["max"]}
    asked = Grid("fig3", lists, ["chunk_size=64"])
    monkeypatch.setattr(opening, "device", lambda _: __import__("torch").device("cuda"))
    monkeypatch.setattr(opening, "job", lambda cfgs: cfgs)
    [cfg], _ = fig3.job(asked, asked.blocks()[0])
    assert (cfg.batch_size, cfg.chunk_size, cfg.dataset.name, cfg.experiment) == (256, 64, "parts", "sign_perturbation")
    assert application.compose([], "fig3").dataset.name == "imagenet"
