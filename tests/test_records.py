"""Records: whole or not at all, resumed byte by byte, never shared, never reused under another setting."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wcx import records
from wcx.errors import WcxError
from wcx.records import Shard

COLUMNS = ["index", "id", "value"]


def shards(root: Path, **parts: object) -> list[Shard]:
    return [
        Shard(root, ("d", "m", "gradcam", c), "masking", {"seed": 0} | parts, {"subset": ""})
        for c in ("original", "max")
    ]


def compute(chunk: int) -> list[list[dict]]:
    rows = [{"index": 3 * chunk + i, "id": f"{chunk:02d}/{i}", "value": (chunk + i) / 7} for i in range(3)]
    return [rows, [row | {"value": -row["value"]} for row in rows]]


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_collect_and_read(tmp_path: Path) -> None:
    both = shards(tmp_path)
    for shard in both:
        shard.describe({"device": "cpu"}, "seed: 0\n")
    records.collect(both, 4, compute, COLUMNS)
    table = both[1].read()
    assert table.columns.tolist() == COLUMNS
    assert table["index"].tolist() == list(range(12))
    assert table["id"].tolist()[:2] == ["00/0", "00/1"], "ids stay text"
    assert table["value"].tolist() == pytest.approx([-(i // 3 + i % 3) / 7 for i in range(12)], rel=1e-8)
    assert all(shard.complete for shard in both)
    found = records.find(tmp_path, "masking")
    assert [(s.key, s.parts, s.labels) for s in found] == [
        (s.key, s.parts, s.labels) for s in sorted(both, key=lambda s: s.path)
    ]
    assert records.find(tmp_path, "gallery") == []


def test_what_is_there_is_not_computed_again(tmp_path: Path) -> None:
    asked: list[int] = []

    def counted(chunk: int) -> list[list[dict]]:
        asked.append(chunk)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return compute(chunk)

    with pytest.raises(KeyboardInterrupt):
        records.collect(shards(tmp_path), 4, counted, COLUMNS)
    assert not any(shard.complete for shard in shards(tmp_path))
    records.collect(shards(tmp_path), 4, counted, COLUMNS)
    assert asked == [0, 1, 2, 2, 3]
    records.collect(shards(tmp_path / "whole"), 4, compute, COLUMNS)
    assert contents(tmp_path / "records") == contents(tmp_path / "whole" / "records")


def test_another_setting_is_another_shard(tmp_path: Path) -> None:
    records.collect(shards(tmp_path), 2, compute, COLUMNS)
    before = contents(tmp_path)
    other = shards(tmp_path, threshold=0.2)
    assert not any(shard.complete for shard in other)
    records.collect(other, 2, compute, COLUMNS)
    assert contents(tmp_path).items() >= before.items()


def test_labels_follow_and_the_records_stay(tmp_path: Path) -> None:
    """Labels are no part of the fingerprint: what is said beside the numbers may change."""
    shard = shards(tmp_path)[0]
    shard.relabel()
    assert not shard.path.exists(), "there is nothing yet"
    shard.describe({})
    before = contents(shard.path)
    Shard(tmp_path, shard.key, shard.experiment, shard.parts, {"subset": "", "seed": 3}).relabel()
    [found] = records.find(tmp_path)
    assert found.labels == {"subset": "", "seed": 3}
    assert found.path == shard.path
    assert {name for name, content in contents(shard.path).items() if before[name] != content} == {"shard.json"}


def test_stop_ends_early_and_is_complete(tmp_path: Path) -> None:
    both = shards(tmp_path)
    records.collect(both, 9, compute, COLUMNS, stop=lambda: both[0].chunk_path(1).is_file())
    assert len(both[0].read()) == 6
    assert both[0].complete


def test_nobody_else_writes_meanwhile(tmp_path: Path) -> None:
    with records.locked(shards(tmp_path)), pytest.raises(WcxError, match="another process is writing"):
        records.collect(shards(tmp_path), 1, compute, COLUMNS)


def test_a_kill_between_the_files_of_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Journal and first shard's file are written, then the process dies: the chunk must not be computed again."""
    real, written = records.write, []

    def dies(path: Path, text: str) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        real(path, text)

    monkeypatch.setattr(records, "write", dies)
    both = shards(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        records.collect(both, 2, compute, COLUMNS)
    monkeypatch.setattr(records, "write", real)
    assert sum(shard.chunk_path(0).is_file() for shard in both) == 1
    asked: list[int] = []
    records.collect(both, 2, lambda chunk: asked.append(chunk) or compute(chunk), COLUMNS)
    assert asked == [1]
    assert [len(shard.read()) for shard in both] == [6, 6]


SLOW = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
left = iter(range(19))  # chunks: three such runs do not reach the end, however late the kill comes
from tests.test_records import COLUMNS, compute, shards
import pandas  # before the clock starts: records would import it at the first chunk
from wcx import records
def slowly(chunk):
    time.sleep(600 if next(left, None) is None else 0.02)
    return compute(chunk)
print("ready", flush=True)
records.collect(shards(Path({folder!r})), 60, slowly, COLUMNS)
"""


@pytest.mark.posix
def test_sigkill_at_any_moment_loses_at_most_a_chunk(tmp_path: Path, root: Path) -> None:
    records.collect(shards(tmp_path / "whole"), 60, compute, COLUMNS)
    script = SLOW.format(root=str(root), folder=str(tmp_path / "killed"))
    for delay in (0.15, 0.31, 0.47):
        before = len(list((tmp_path / "killed").rglob("chunk-*.csv")))
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=root)
        assert process.stdout.readline() == b"ready\n"
        while len(list((tmp_path / "killed").rglob("chunk-*.csv"))) < before + 2:
            time.sleep(0.002)  # on a loaded machine the first chunk takes its time
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        for shard in shards(tmp_path / "killed"):
            assert not shard.complete
            assert len(shard.read()) % 3 == 0, "no half chunk"
    records.collect(shards(tmp_path / "killed"), 60, compute, COLUMNS)
    killed = {k: v for k, v in contents(tmp_path / "killed").items() if not k.endswith(".part")}
    assert killed == contents(tmp_path / "whole")


def test_fingerprint_sees_every_part() -> None:
    assert records.fingerprint({"a": 1, "b": [1, 2]}) == records.fingerprint({"b": [1, 2], "a": 1})
    assert records.fingerprint({"a": 1}) != records.fingerprint({"a": 2})
    assert len(records.fingerprint({})) == 12


def test_no_records_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(WcxError, match="no records in"):
        shards(tmp_path)[0].read()
