"""The command line: every configuration composes, mistakes are one line, a cell and a sweep run end to end."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from PIL import Image

from wcx import contrasts, datasets, methods
from wcx.cli import application, grid, opening, user_errors
from wcx.cli import main as command_line
from wcx.errors import WcxError
from wcx.report.masking import main as table1

CONF = application.CONF
GROUPS = {g.name: sorted(f.stem for f in g.glob("*.yaml")) for g in CONF.iterdir() if g.is_dir()}
SMALL = ["model.weights=random", "threshold=0", "limit=6", "batch_size=4", "chunk_size=4", "figure=2"]
DRAWN = ["dataset.size=32", "dataset.transform.size=32"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any]) -> Callable[..., Any]:
    """Run run.py (or another command) without the environment of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("WCX_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(CONF.parent)
    return lambda *arguments, command="run": cli(command, *arguments)


@pytest.mark.parametrize(("group", "name"), [(g, n) for g, names in GROUPS.items() for n in names])
def test_every_choice_composes(group: str, name: str) -> None:
    named = {"torchvision": "resnet50", "timm": "resnet50", "hf": "google/vit-base-patch16-224"}
    extra = [f"model.name={named[name]}"] if group == "model" and name in named else []
    OmegaConf.to_yaml(application.compose([f"{group}={name}", *extra]), resolve=True)


def test_every_dataset_method_and_contrast_has_its_yaml() -> None:
    assert GROUPS["dataset"] == sorted(datasets.names())
    assert GROUPS["method"] == sorted(methods.names())
    assert GROUPS["contrast"] == sorted(contrasts.names())


def test_foils_by_confusion_are_looked_up_once_and_are_part_of_the_fingerprint(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    """The confusion stands beside the checkpoints; another one is another set of records."""
    folders = [f"paths.results_dir={tmp_path}/out", f"paths.checkpoints_dir={tmp_path}/checkpoints"]
    small = [*SMALL[:-1], *DRAWN, "dataset.train_per_class=1", "figure=0"]
    command = [*small, "contrast=mean", "foils=confused:2", *folders]
    first = run(*command)
    assert first.returncode == 0, first.stderr
    [kept] = tmp_path.glob("checkpoints/parts/small_cnn-*.confusion.npy")
    before = kept.stat().st_mtime_ns
    again = run(*command)
    assert "none, all records were there" in again.stdout
    planned = run(*command, "plan=true").stdout
    assert "complete: 1" in planned
    assert "confusion" not in planned
    assert kept.stat().st_mtime_ns == before
    hidden = kept.rename(kept.with_suffix(".elsewhere"))
    planned = run(*command, "plan=true").stdout
    assert "complete: 0" in planned
    assert (
        "confusion: is not kept beside the checkpoints: it comes first, and finished records are known by it" in planned
    )
    hidden.rename(kept)
    np.save(kept, np.load(kept)[:, ::-1])  # another confusion, other foils
    assert "none, all" not in run(*command).stdout
    wrong = run(*SMALL, "foils=confused:x", *folders)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "give null, an int k, class ids, or confused:k" in wrong.stderr


def test_a_methods_option_that_is_younger_than_records_leaves_their_fingerprints(tmp_path: Path) -> None:
    """Records made before `lrp` had seed and relu are those of its defaults; another value is another fingerprint."""
    command = ["method=lrp", "model.weights=random", f"paths.results_dir={tmp_path}"]
    [usual], [other] = (
        opening.job([application.compose([*command, *more])]).shards() for more in ([], ["method.relu=true"])
    )
    before = {"composite": "epsilon_plus", "epsilon": 1e-06, "gamma": 0.25, "low": None, "high": None}
    assert usual.parts["method"] == before
    assert other.parts["method"] == before | {"relu": True}


def test_a_dataset_names_its_default_model_and_the_command_line_wins() -> None:
    assert application.compose([]).model.name == "small_cnn"
    cfg = application.compose(["dataset=cub", "method=gradcam", "contrast=weighted"])
    assert (cfg.model.name, cfg.experiment) == ("vgg16", "masking")
    assert application.compose(["model=alexnet", "dataset=cub"]).model.name == "alexnet"
    assert application.compose(["dataset=imagenet"]).experiment == "sign_perturbation"


def test_profiles_reach_experiment_and_method() -> None:
    paper, authors = (
        application.compose([f"profile={p}", "method=linear_approximation"]) for p in ("paper", "authors_code")
    )
    keys = ("threshold", "mask", "align_corners", "blur_sigma")
    assert [paper[k] for k in keys] == [0.1, "sign", False, 15.0]
    assert [authors[k] for k in keys] == [0.4, "equal", True, [10.0, 20.0]]
    assert (paper.method.reduction, authors.method.reduction) == ("sum", "mean")
    assert application.compose(["profile=authors_code", "threshold=0.1"]).threshold == 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dataset=cubb"], "unknown dataset 'cubb'. Did you mean 'cub'"),
        (["contrat=mean"], "unknown setting 'contrat'. Did you mean 'contrast'"),
        (
            ["layer=blocks.11.norm1"],
            "unknown setting 'layer': that of a group has its name before it; give model.layer=....",
        ),
        (["gamma=0.3"], "give contrast.gamma=... or method.gamma=...."),
        (["contrast=wieghted"], "Did you mean 'weighted'"),
        (["model=vgg61"], "Did you mean 'vgg16'"),
        (["experiment=maskign"], "Did you mean 'masking'"),
        (["-m", "method=gradcam,gradcm"], "unknown method 'gradcm'"),
    ],
)
def test_a_wrong_name_is_found_before_anything_starts(arguments: list[str], message: str) -> None:
    with pytest.raises(WcxError, match=message.replace("(", r"\(")):
        application.check_overrides(arguments)


def test_lists_of_a_runner() -> None:
    """They stand in conf/, and are read by Hydra's own parser; the first of each is the group's choice."""
    completed = grid.complete(
        ["datasets=[cub, cars]", "models=alexnet", "dataset.allow_partial=true", "limit=5"], "table1"
    )
    assert completed[:4] == ["dataset=cub", "model=alexnet", "method=linear_approximation", "contrast=original"]
    assert {"datasets=[cub,cars]", "models=[alexnet]", "dataset.allow_partial=true", "limit=5"} <= set(completed)
    assert "datasets=[cub]" in grid.complete(["dataset=cub"], "table1"), "one is a list of one to a runner of several"
    assert "dataset=cub" in grid.complete(["dataset=cub"], "fig3"), "which has no list of datasets"
    with pytest.raises(WcxError, match="datasets is empty"):
        grid.complete(["datasets=[]"], "table1")
    with pytest.raises(
        WcxError, match=r"datasets=cub,cars is a sweep to Hydra; a list has brackets: datasets=\[cub,cars\]"
    ):
        grid.complete(["datasets=cub,cars"], "table1")


@pytest.mark.parametrize("argument", ["limit=-3", "limit=0", "limit=abc", "limit_selected=0", "seed=x", "chunk_size=0"])
def test_a_number_that_is_none_is_one_clear_line(argument: str) -> None:
    key, value = argument.split("=")
    with pytest.raises(WcxError, match=rf"{key} = '?{value}'?: give a whole number of at least"):
        application.compose([argument])


@pytest.mark.usefixtures("undrawn")
def test_a_picture_that_cannot_be_read_is_skipped_and_counted(tmp_path: Path, run: Callable[..., Any]) -> None:
    for i in range(6):
        path = tmp_path / "own" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (40 * i, 90, 200 - 30 * i)).save(path)
    (tmp_path / "own" / "a" / "broken.png").write_text("no picture")
    command = ["dataset=folder", f"dataset.root={tmp_path / 'own'}", "model=small_cnn", "model.weights=random"]
    command += ["threshold=0", f"paths.results_dir={tmp_path}", "method=gradcam"]
    done = run(*command)
    assert done.returncode == 2
    assert "broken.png" in done.stderr
    assert "on_error=skip" in done.stderr
    done = run(*command, "on_error=skip", "figure=6")
    assert done.returncode == 0, done.stderr
    assert "n = 6 images; random; 1 unreadable image skipped" in done.stdout.replace(
        "; a flat folder: every image counts as a test image", ""
    )
    assert "figure: " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["dataset=cub"],
            "error: dataset cub: data/cub/CUB_200_2011 not found. "
            "Download it with: wcx dataset=cub dataset.download=true",
        ),
        (
            ["paths.checkpoints_dir=nowhere"],
            "make it with: wcx finetune dataset=parts model=small_cnn recipe=",
        ),
        (["model.weights=random", "device=cuda:7"], "error: device 'cuda:7' is not there"),
        (["model.weights=random", "device=meta"], "error: device 'meta' cannot be used here; give auto, cpu"),
        (["model.weights=random", "model.layer=nonsense"], "error: the model has no layer 'nonsense'; try one of"),
        (
            ["model.weights=random", "experiment=sign_perturbation", "method=gradcam"],
            "error: experiment sign_perturbation needs an input method of gradients, not gradcam",
        ),
        (["model.weights=random", "targets=99"], "error: targets = 99, but the model has"),
        (["batch_size=0"], "error: batch_size = 0: give a whole number of at least 1."),
        (["on_error=ignore"], "error: unknown on_error 'ignore'. Choose one of: skip, stop."),
        (
            ["method.steps=3"],
            "error: no setting 'steps' in the method chosen here. Choose one of: name, relu. wcx run method=...",
        ),
        (
            ["method.relo=true"],
            "error: no setting 'relo' in the method chosen here. Did you mean 'relu'? Choose one of: name, relu.",
        ),
        (
            ["dataset=fgvc", "dataset.level=brand"],
            "error: unknown level of fgvc 'brand'. Choose one of: family, manufacturer, variant.",
        ),
        (["model=torchvision"], "error: model.name is needed; give model.name=..."),
        pytest.param(
            ["model.weights=random", "paths.results_dir=/dev/null/in"],
            "error: cannot use /dev/null/in",
            marks=pytest.mark.posix,
        ),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    tmp_path: Path, run: Callable[..., Any], arguments: list[str], message: str
) -> None:
    done = run("limit=2", "figure=0", f"paths.results_dir={tmp_path}", *arguments)
    lines = [line for line in done.stderr.splitlines() if line.strip() and "image/s" not in line]  # no progress bar
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1
    assert message in lines[0]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device; check path, rights and room"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "cannot use /x: Permission denied; check path"),
        (WcxError("a\nb"), "a b"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), None),
        (OSError("libcudart not found"), None),
        (KeyError("t_1"), None),
    ],
)
def test_what_is_no_mistake_keeps_its_traceback(error: Exception, line: str | None) -> None:
    said = user_errors.one_line(error)
    assert said is None if line is None else said.startswith(line)


def test_ctrl_c_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="130"), user_errors.one_line_each():
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "interrupted; the same command goes on from what is finished.\n"


def test_an_unknown_command_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["wcx", "tabel1"])
    with pytest.raises(SystemExit, match="2"):
        command_line()
    assert capsys.readouterr().err.startswith("error: unknown command 'tabel1'. Did you mean 'table1'?")


def test_from_a_shell() -> None:
    """A script as it is called: a mistake is one line, without the libraries' own. run.py: tests/test_encoding.py."""
    command = [sys.executable, "scripts/table1.py", "datset=cub"]
    done = subprocess.run(command, cwd=CONF.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown setting 'datset'. Did you mean 'dataset'?")
    assert done.stderr.count("\n") == 1


def test_one_cell_end_to_end_and_again_byte_by_byte(tmp_path: Path, run: Callable[..., Any]) -> None:
    """Also: another results folder gives the same records; the second time nothing is computed."""
    for folder in ("a", "b"):
        done = run(*SMALL, *DRAWN, f"paths.results_dir={tmp_path / folder}")
        assert done.returncode == 0, done.stderr
        assert "'forward': 6" in done.stdout
    files = {p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()}
    assert {p.name for p in files} >= {
        "chunk-00000.csv",
        "chunk-00001.csv",
        "manifest.json",
        "config.yaml",
        "summary.csv",
        "selected.png",
    }
    for file in files:
        if file.suffix in (".csv", ".png") or file.name == "shard.json":
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    summary = pd.read_csv(next((tmp_path / "a").rglob("summary.csv")))
    assert tuple(summary.columns) == table1.HEADER
    assert set(summary["n"]) == {6}
    assert set(summary["contrast"]) == {"weighted"}
    manifest = json.loads(next((tmp_path / "a").rglob("manifest.json")).read_text())
    assert {"versions", "device", "seed", "weights_hash", "dataset_listing", "git_commit"} <= manifest.keys()
    again = run(*SMALL, *DRAWN, f"paths.results_dir={tmp_path / 'a'}")
    assert "none, all records were there" in again.stdout


def test_a_plan_computes_nothing(tmp_path: Path, run: Callable[..., Any]) -> None:
    done = run(*SMALL, "plan=true", f"paths.results_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "masked_passes: at most about 72" in done.stdout
    assert not list(tmp_path.rglob("chunk*"))


def test_a_sweep_skips_what_does_not_fit_and_says_so(tmp_path: Path, run: Callable[..., Any]) -> None:
    small = [*SMALL[:1], *SMALL[2:5], *DRAWN, "experiment=sign_perturbation", "iterations=[1]"]
    done = run("-m", "method=gradcam,gradient", "contrast=original,max", *small, f"paths.results_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob("summary.csv"))) == 2
    skipped = [line for line in done.stderr.splitlines() if line.startswith("skipped")]
    assert len(skipped) == 2
    assert "gradcam original" in skipped[0]


@pytest.mark.usefixtures("undrawn")
def test_table1_runs_all_blocks_and_reports_those_that_fail(tmp_path: Path, run: Callable[..., Any]) -> None:
    done = run(
        "datasets=[parts,cub]",
        "models=[small_cnn]",
        "methods=[gradcam]",
        *SMALL,
        f"paths.results_dir={tmp_path}",
        command="table1",
    )
    assert done.returncode == 1
    assert "failed: cub small_cnn: dataset cub" in done.stderr
    table = pd.read_csv(tmp_path / "table1.csv")
    assert tuple(table.columns) == table1.HEADER
    assert len(table) == 2 * 2 * 3 * 2
