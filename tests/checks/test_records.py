"""The checks' records: planned, killed and resumed, named where damaged; a bench's rounds likewise."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.checks.asked import small
from wcx import checks, pipeline
from wcx.checks import bench
from wcx.checks.bench import Bench, BenchRequest
from wcx.checks.mean import MeanAgainstOriginal
from wcx.checks.stability import Stability
from wcx.cli import grid
from wcx.cli.commands.bench import open_job
from wcx.cli.grid import Grid
from wcx.errors import WcxError
from wcx.pipeline import Job

pytestmark = pytest.mark.usefixtures("one_thread")

KILLED = """
import os, signal, sys, torch
from pathlib import Path
from tests.checks import test_records
torch.set_num_threads(1)
job = test_records.stability(Path(sys.argv[1]))
measured, calls = job.experiment.measured, []
def killed(self, *arguments):
    calls.append(1)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return measured(self, *arguments)
job.experiment.measured = killed
test_records.pipeline.run(job, quiet=True)
"""


def stability(folder: Path) -> Job:
    """Five images in chunks of two."""
    (job,) = Stability.jobs(small(folder))
    return dataclasses.replace(job, chunk_size=2, batch_size=2)


def rounds(folder: Path, repeats: int = 3) -> Job:
    lists = {"methods": ["gradcam"], "contrasts": ["weighted"]}
    typed = ["experiment=masking", "batch_size=2", "evaluation=eager", "model.weights=random", "threshold=0"]
    typed += ["dataset.size=32", "dataset.transform.size=32"]
    typed.append(f"paths.results_dir={folder}")
    opener = partial(open_job, Grid("bench", lists, typed), ("parts", "small_cnn"))
    (job,) = Bench.jobs(BenchRequest(opener, ["time"], images=2, repeats=repeats))
    return job


def chunks(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("chunk-*.csv")}


def test_parts_are_checks() -> None:
    parts = set(grid.settings("verify")["parts"]) - {"figure"} | {"peers"}  # those of verify, and one of bench
    run = {check.name() for part in parts for check in checks.of_part(part)}
    assert run == set(checks.names())


@pytest.mark.posix
def test_a_killed_check_goes_on_to_the_same_bytes(tmp_path: Path, root: Path) -> None:
    pipeline.run(stability(tmp_path / "whole"), quiet=True)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed")]
    done = subprocess.run(command, cwd=root, env=None, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    assert len(chunks(tmp_path / "killed")) == 2, "one chunk of two cells"
    pipeline.run(stability(tmp_path / "killed"), quiet=True)
    assert chunks(tmp_path / "killed") == chunks(tmp_path / "whole")
    assert len(chunks(tmp_path / "whole")) == 6


def test_what_is_there_is_not_measured_again(tmp_path: Path) -> None:
    assert pipeline.run(stability(tmp_path), quiet=True)[1].total() > 0
    assert pipeline.run(stability(tmp_path), quiet=True)[1].total() == 0


def test_a_plan_counts_what_is_missing(tmp_path: Path) -> None:
    before = pipeline.plan(stability(tmp_path))
    assert (before["cells"], before["complete"], before["images_left"]) == (2, 0, 5)
    assert before["forward_passes"] == "at most 10"
    pipeline.run(stability(tmp_path), quiet=True)
    assert pipeline.plan(stability(tmp_path))["images_left"] == 0


def test_a_damaged_record_is_named_and_mended(tmp_path: Path) -> None:
    shards, _ = pipeline.run(stability(tmp_path), quiet=True)
    intact = chunks(tmp_path)
    file = shards[0].chunk_path(1)
    file.write_bytes(file.read_bytes().replace(b"5", b"6", 1))
    with pytest.raises(WcxError, match=r"chunk-00001\.csv is not what was written"):
        Stability.summaries(shards)
    pipeline.run(stability(tmp_path), quiet=True)
    assert chunks(tmp_path) == intact


def test_a_reason_in_words_survives_a_second_look(tmp_path: Path) -> None:
    """Text among the numbers, in the first chunk of a folder, too."""
    oracle = checks.get("oracle")
    for _ in range(2):
        shards = [shard for job in oracle.jobs(small(tmp_path, methods=["xgradcam"])) for shard in pipeline.run(job)[0]]
        assert shards[0].read()["reason/captum/float64"].tolist() == ["captum has no such method"]
        assert not shards[0].check().faults


def test_missing_rounds_alone_are_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[str] = []

    def clock(call: object) -> float:
        timed.append(call.__name__)  # type: ignore[attr-defined]
        if len(timed) == 4:
            raise KeyboardInterrupt
        return float(len(timed))

    monkeypatch.setattr(bench, "seconds", clock)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(rounds(tmp_path), quiet=True)
    shards, _ = pipeline.run(rounds(tmp_path), quiet=True)
    assert timed == ["ours", "bare", "naive", "ours", *["ours", "bare", "naive"] * 2]
    assert [shard.read().seconds.tolist() for shard in shards] == [[1.0, 5.0, 8.0], [2.0, 6.0, 9.0], [3.0, 7.0, 10.0]]
    assert pipeline.plan(rounds(tmp_path))["images_left"] == 0
    (line,) = Bench.summaries(shards)[0].frame.to_dict("records")
    assert (line["ours / bare"], line["naive / ours"]) == pytest.approx((5 / 6, 7 / 5))
    pipeline.run(rounds(tmp_path, repeats=1), quiet=True)
    assert len(timed) == 13, "another number of rounds is another measurement"


def test_rows_of_an_image_that_cannot_be_read_are_empty(tmp_path: Path) -> None:
    job = next(iter(MeanAgainstOriginal.jobs(small(tmp_path))))
    items = job.read([0, 1, 2])
    items[1].pixels = None
    rows = job.opened(job.cells).rows(items)[job.cells[0]]
    assert [row["skipped"] for row in rows] == [False, True, False]
    assert [row["index"] for row in rows] == [0, 1, 2]
    assert "distance/t_1" not in rows[1]
    alone = job.opened(job.cells).rows(items[2:])[job.cells[0]]
    assert rows[2]["distance/t_1"] == pytest.approx(alone[0]["distance/t_1"], rel=1e-4)
