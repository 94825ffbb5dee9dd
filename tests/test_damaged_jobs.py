"""Damaged records under a job: computed again in the same company, to the same bytes; nothing else is touched."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.report.shards import make
from tests.test_damaged_records import aside, kept
from wcx import methods, pipeline
from wcx.cli import application, opening
from wcx.report import sections

SMALL = [
    "dataset=parts", "model=small_cnn", "experiment=masking", "method=gradcam", "dataset.size=32",
    "dataset.transform.size=32", "num_workers=0", "dataset.test_per_class=2", "model.weights=random", "chunk_size=2",
    "batch_size=2", "baselines=[zeros]",
]  # fmt: skip


def job(root: Path, *arguments: str, contrasts: Sequence[str] = ("original", "weighted")) -> pipeline.Job:
    overrides = [*SMALL, f"paths.results_dir={root}", *arguments]
    return opening.job([application.compose([*overrides, f"contrast={name}"], "table1") for name in contrasts])


def records_of(root: Path) -> dict[str, bytes]:
    return {name: content for name, content in kept(root / "records").items() if "manifest" not in name}


@pytest.fixture(scope="module")
def early(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], int]:
    """Records that stop at the fourth image above the threshold; the arguments; the number of chunks."""
    root = tmp_path_factory.mktemp("early")
    shards, _ = pipeline.run(job(root / "all", "limit=20", "threshold=0"), quiet=True)
    threshold = np.quantile(shards[0].read()["p_t2"], 0.7)
    arguments = [f"threshold={threshold:.7f}", "limit_selected=4"]
    shards, _ = pipeline.run(job(root / "early", *arguments), quiet=True)
    chunks = [pd.read_csv(shards[0].chunk_path(i)) for i in range(shards[0].chunks())]
    above = [int(chunk["above_threshold"].sum()) for chunk in chunks]
    assert sum(above) == 4
    assert 0 in above[:-1], "a chunk without any"
    return root / "early", arguments, len(above)


@pytest.mark.parametrize("which", [[0], [1], [2], [-1], [0, -1], [1, 2], range(9)], ids=str)
def test_a_run_that_stops_early_is_mended_byte_by_byte(
    early: tuple[Path, list[str], int], tmp_path: Path, which: Sequence[int]
) -> None:
    whole, arguments, count = early
    root = shutil.copytree(whole, tmp_path / "results")
    again = job(root, *arguments)
    shards = again.shards()
    damaged = sorted({range(count)[i] for i in which if i < count})
    for chunk in damaged:
        shards[1].chunk_path(chunk).write_bytes(shards[1].chunk_path(chunk).read_bytes()[:-9])
    plan = pipeline.plan(again, probe=1)
    assert (plan["complete"], plan["images_left"]) == (1, 2 * len(damaged))
    images: list[int] = []
    pipeline.run(again, progress=images.append)
    assert images == [2] * len(damaged)
    assert {name: content for name, content in records_of(root).items() if "damaged" not in name} == records_of(whole)
    assert aside(root) == [f"chunk-{chunk:05d}.csv.damaged-1" for chunk in damaged]
    assert pipeline.run(again, quiet=True)[1] == {}


def test_cells_of_other_commands_are_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What the command had finished is mended together; a new cell is computed after that, and for itself."""
    arguments = ["limit=6", "threshold=0"]
    first = job(tmp_path, *arguments, contrasts=["original", "weighted", "max"])
    pipeline.run(first, quiet=True)
    before = records_of(tmp_path)
    chunk = first.shards()[1].chunk_path(1)
    content = chunk.read_bytes()
    chunk.write_bytes(content.replace(b"True", b"Fals"))
    manifests = {shard.key[3]: (shard.path / "manifest.json").stat().st_ino for shard in first.shards()}
    more = job(tmp_path, *arguments, contrasts=["original", "weighted", "max", "mean"])
    shards, passes = pipeline.run(more, quiet=True)
    assert passes["forward"] == 2 + 6
    assert all(shard.check().complete for shard in shards)
    after = {name: value for name, value in records_of(tmp_path).items() if "/mean/" not in name}
    assert {name: value for name, value in after.items() if "damaged" not in name} == before
    anew = [
        shard.key[3] for shard in shards[:3] if (shard.path / "manifest.json").stat().st_ino != manifests[shard.key[3]]
    ]
    assert anew == ["weighted"], "only it says what it was made with now"
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


def test_damaged_maps_are_computed_again(tmp_path: Path) -> None:
    arguments = ["limit=6", "threshold=0", "save_maps=true"]
    shards, _ = pipeline.run(job(tmp_path, *arguments), quiet=True)
    before = records_of(tmp_path)
    first, second = (shards[0].chunk_path(chunk).with_suffix(".npz") for chunk in (0, 2))
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 1
    first.write_bytes(content)
    second.unlink()
    assert pipeline.run(job(tmp_path, *arguments[:2]), quiet=True)[1] == {}, "whose maps are not asked for"
    assert pipeline.run(job(tmp_path, *arguments), quiet=True)[1]["forward"] == 4
    assert {name: value for name, value in records_of(tmp_path).items() if "damaged" not in name} == before
    assert aside(tmp_path) == ["chunk-00000.npz.damaged-1"]


def test_a_journal_that_is_left_over_is_named_or_carried_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shards, _ = pipeline.run(job(tmp_path, "limit=2", "threshold=0"), quiet=True)
    (shards[1].path / "journal.json").write_text("{garbage")
    assert pipeline.run(job(tmp_path, "limit=2", "threshold=0"), quiet=True)[1] == {}
    assert aside(tmp_path) == ["journal.json.damaged-1"]
    assert "journal.json is not what was written" in caplog.text


def test_a_cell_that_is_named_twice_is_computed_once(tmp_path: Path) -> None:
    shards, passes = pipeline.run(job(tmp_path, "limit=2", contrasts=["max", "max"]), quiet=True)
    assert passes["forward"] == 2
    assert shards[0] == shards[1]
    assert shards[0].check().complete


def test_a_methods_version_is_fingerprinted_from_the_second_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = job(tmp_path, "limit=2")
    kind = methods.get("gradcam")
    monkeypatch.setattr(kind, "version", 1, raising=False)
    before = made.shards()
    assert "method_version" not in before[0].parts
    monkeypatch.setattr(kind, "version", 2, raising=False)
    after = made.shards()
    assert [shard.parts["method_version"] for shard in after] == [2, 2]
    assert not {shard.path for shard in after} & {shard.path for shard in before}


def test_a_methods_options_may_decide_its_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As those of gradient do: noisy copies were mixed in a batch, plain images never were."""
    monkeypatch.setattr(methods.get("gradcam"), "version", property(lambda method: 3), raising=False)
    assert {shard.parts["method_version"] for shard in job(tmp_path, "limit=2").shards()} == {3}


def test_a_newer_version_of_the_method_stands_in_the_table(tmp_path: Path) -> None:
    """Old records stay readable; one line of the table is of the command's own, else of the newer method, else of more images."""
    many = make(tmp_path, "original", n=9)
    newer = make(tmp_path, "original", n=6, parts={"method_version": 2})
    alone = make(tmp_path, "max")
    assert {shard.path for shard in sections.collect("masking", tmp_path)[0]} == {newer.path, alone.path}
    [line] = sections.collect("masking", tmp_path)[1]
    assert (
        line == f"left out: {many.path}: {newer.path} is the same line of the table, by version 2 of the method, not 1"
    )
    found, [line] = sections.collect("masking", tmp_path, [many])
    assert {shard.path for shard in found} == {many.path, alone.path}
    assert line == f"left out: {newer.path}: {many.path} is the same line of the table"


def test_labels_that_are_gone_are_named(tmp_path: Path) -> None:
    shard = make(tmp_path, "original")
    about = json.loads((shard.path / "shard.json").read_bytes())
    (shard.path / "shard.json").write_text(json.dumps(about | {"labels": {"weights": "x"}}))
    found, [line] = sections.collect("masking", tmp_path)
    assert found == []
    assert line == f"left out: {shard.path}: shard.json tells no dataset, subset"
