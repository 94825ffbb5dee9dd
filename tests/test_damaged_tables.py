"""Tables and report refuse damaged records, and the next command computes them again: through the commands themselves."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.test_damaged_records import DAMAGES, aside, damage
from wcx import records
from wcx.cli import main as command_line
from wcx.experiments.masking import Masking

SMALL = [
    "datasets=[parts]", "models=[small_cnn]", "methods=[gradcam]", "dataset.size=32", "dataset.transform.size=32",
    "dataset.train_per_class=2", "dataset.test_per_class=3", "recipe.epochs=1", "limit=45", "threshold=0", "chunk_size=8",
    "batch_size=8", "baselines=[zeros]", "figure=0", "num_workers=0",
]  # fmt: skip
Result = tuple[int, str]  # exit code, stderr


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of table1.py: 45 images in six chunks, two contrasts."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        folders = [f"paths.results_dir={folder}", f"paths.checkpoints_dir={folder / 'checkpoints'}"]
        patch.setattr(sys, "argv", ["scripts/table1.py", *SMALL, *folders])
        command_line("table1")
    return folder


@pytest.fixture
def results(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "results")


@pytest.fixture
def run(results: Path, cli: Callable[..., Any]) -> Callable[..., Result]:
    def call(*arguments: str, command: str = "table1") -> Result:
        folders = [f"paths.results_dir={results}", f"paths.checkpoints_dir={results / 'checkpoints'}"]
        done = cli(command, *arguments, *folders)
        call.log = done.stdout  # where Hydra's log goes
        return done.returncode, done.stderr

    return call


def numbers(results: Path) -> dict[str, int]:
    return pd.read_csv(results / "table1.csv").groupby("contrast")["n"].first().to_dict()


def weighted(results: Path) -> Path:
    return next(results.rglob("weighted/*/shard.json")).parent


@pytest.mark.parametrize("kind", ["rows cut off", "digits changed", "missing"])
def test_the_next_table_is_of_all_images(whole: Path, results: Path, run: Callable[..., Result], kind: str) -> None:
    """It was one of 37 images instead of 45, with exit code 0."""
    other = next(results.rglob("original/*/shard.json")).parent
    [of_weighted] = [shard for shard in records.find(results) if shard.path == weighted(results)]
    [of_other] = [shard for shard in records.find(results) if shard.path == other]
    damage(of_weighted, of_other, kind, 2)
    code, told = run("collect=only")
    assert code == 1
    [line] = told.splitlines()
    assert line.startswith("left out: parts small_cnn gradcam weighted: ")
    assert "chunk-00002.csv" in line
    assert f"; to mend it, run python scripts/table1.py {' '.join(map(repr, SMALL[:3]))}" in line
    assert numbers(results) == {"original": 45}
    code, told = run(*SMALL)
    assert code == 0, told
    assert "chunk-00002.csv" in run.log
    assert numbers(results) == {"original": 45, "weighted": 45}
    for file in [*whole.rglob("chunk-*.csv"), *whole.rglob("complete.json"), *whole.glob("*.csv")]:
        assert (results / file.relative_to(whole)).read_bytes() == file.read_bytes(), "byte by byte"
    assert run("collect=only") == (0, "")


def test_no_table_at_all_is_one_clear_line(results: Path, run: Callable[..., Result]) -> None:
    for file in results.rglob("complete.json"):
        file.write_text("{")
    code, told = run("collect=only")
    assert code == 2
    assert told.startswith("error: no table: none of the 2 sets of records is what was written. left out: parts")
    for file in results.rglob("shard.json"):
        file.write_text("{")
    code, told = run("collect=only")
    assert code == 2
    assert told.startswith("error: left out: ")
    assert "shard.json is not what was written" in told
    assert (results / "table1.csv").is_file(), "the last one stays"


def test_a_damaged_journal_and_shard_json_do_not_stop_the_table(results: Path, run: Callable[..., Result]) -> None:
    (weighted(results) / "journal.json").write_text("{garbage")
    (weighted(results) / "shard.json").write_bytes(b"\xff")
    code, told = run("collect=only")
    assert code == 1
    assert "shard.json is not what was written" in told
    (weighted(results) / "chunk-00000.csv").unlink()
    assert run(*SMALL)[0] == 0
    assert aside(results) == ["journal.json.damaged-1", "shard.json.damaged-1"]
    assert numbers(results) == {"original": 45, "weighted": 45}


def test_records_made_before_are_read_and_called_unchecked(
    results: Path, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in results.rglob("complete.json"):
        about = json.loads(file.read_bytes())
        file.write_text(json.dumps({"chunks": about["chunks"], "rows": about["rows"]}))
    printed: list[str] = []
    monkeypatch.setattr("builtins.print", lambda *lines, **_: printed.extend("\n".join(map(str, lines)).splitlines()))
    assert run(*SMALL) == (0, "")
    assert run("collect=only") == (0, "")
    assert len([line for line in printed if "none, all records were there" in line]) == 1
    unchecked = [line for line in printed if line.startswith("unchecked: ")]
    line = "unchecked: 2 of 2 sets of records, without sums of what was written (made before, or lost)"
    assert unchecked == [line] * 2
    chunk = weighted(results) / "chunk-00002.csv"
    chunk.write_bytes(DAMAGES["rows cut off"](chunk.read_bytes()))
    assert run("collect=only")[0] == 1
    assert "left out: parts small_cnn gradcam weighted: " in printed[-1]
    assert "complete.json counts 6 chunks of 45 rows, of which 6 of 38 are there; to mend it, run" in printed[-1]
    assert run(*SMALL)[0] == 0
    assert numbers(results) == {"original": 45, "weighted": 45}


def test_the_report_names_what_is_damaged(results: Path, run: Callable[..., Result]) -> None:
    chunk = weighted(results) / "chunk-00004.csv"
    chunk.write_bytes(DAMAGES["digits changed"](chunk.read_bytes()))
    original = next(results.rglob("original/*/complete.json"))
    about = json.loads(original.read_bytes())
    original.write_text(json.dumps({"chunks": about["chunks"], "rows": about["rows"]}))
    (original.parent / "manifest.json").write_bytes(b"\xff")
    code, told = run(command="report")
    page = (results / "report.html").read_text()
    assert code == 1, "something that is there is missing from the page"
    assert "damaged: chunk-00004.csv is not what was written (SHA-256)" in page
    for text in (page, told):
        assert (
            text.count("chunk-00004.csv is not what was written (SHA-256); to mend it, run python scripts/table1.py")
            == 1
        )
        assert "manifest.json is left out" in text
    assert "complete, unchecked" in page
    assert "GC" in page or "gradcam" in page, "what is good is shown"
    original.write_text("{")
    assert run(command="report")[0] == 1
    assert "damaged: complete.json is not what was written" in (results / "report.html").read_text()


def test_the_report_of_older_foreign_and_incomplete_records(results: Path, run: Callable[..., Result]) -> None:
    """They are named with the reason, on the page; nothing that belongs into it is missing, and the exit code is 0."""
    [before] = [file.parent for file in results.rglob("weighted/*/shard.json")]
    facts = json.loads((before / "shard.json").read_bytes())
    older = facts["parts"] | {"version": 0}
    foreign = records.Shard(
        results, tuple(facts["key"].values()), "of_another_version", facts["parts"], facts["labels"]
    )
    for shard in (records.Shard(results, foreign.key, "masking", older, facts["labels"]), foreign):
        shutil.copytree(before, shard.path)
        shard.relabel()
    (before / "complete.json").rename(before / "chunks.json")
    code, told = run(command="report")
    assert (code, told) == (0, "")
    page = (results / "report.html").read_text()
    assert f"made by version 0 of the experiment, not {Masking.version}" in page
    assert "incomplete" in page
    assert "of_another_version" in page
