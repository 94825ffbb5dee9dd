"""The inventory of records: kills at every step, records made before there was one, and files beside the chunks."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from tests.test_damaged_records import CHUNKS, DAMAGES, again, aside, damage, kept
from tests.test_records import COLUMNS, compute, shards
from wcx import inventory, records
from wcx.errors import WcxError
from wcx.records import Shard

PLAN = [[3 * chunk + i for i in range(3)] for chunk in range(CHUNKS)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test cuts the power: what a file system has not written yet is there."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


class Killed(BaseException):
    """Stands in for SIGKILL: nothing catches it."""


@contextmanager
def killed_at(step: int) -> Iterator[None]:
    """Die before the `step`-th file that appears, moves or goes."""
    steps = count()

    def dying(real: Callable) -> Callable:
        def call(*arguments: object, **options: object) -> object:
            if next(steps) == step:
                raise Killed
            return real(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("replace", "rename", "unlink"):
            patch.setattr(Path, name, dying(getattr(Path, name)))
        yield


def without_aside(root: Path) -> dict[str, bytes]:
    return {name: content for name, content in kept(root).items() if "damaged" not in name}


def test_a_kill_at_any_step_loses_at_most_a_chunk(tmp_path: Path) -> None:
    """Whatever lies there is whole, what was committed is not computed again, and the end is the same."""
    records.collect(shards(tmp_path / "whole"), 3, compute, COLUMNS)
    for step in range(100):
        root, asked = tmp_path / str(step), []
        both = shards(root)
        try:
            with killed_at(step):
                again(both, 3, asked)
        except Killed:
            for shard in both:
                assert not shard.chunks() or len(shard.read()) % 3 == 0
        else:
            break
        later = again(both, 3)
        assert len(set(asked) & set(later)) <= 1, f"step {step}: computed {asked}, then {later}"
        assert without_aside(root) == kept(root) == kept(tmp_path / "whole"), f"step {step}"
    assert step == 3 * 6 + 4, (
        "journal, two chunks, two inventories, the journal gone; then each inventory written and renamed"
    )


def test_a_kill_while_damaged_records_are_mended(tmp_path: Path) -> None:
    whole = shards(tmp_path / "whole")
    again(whole)
    for step in range(100):
        root = shutil.copytree(tmp_path / "whole", tmp_path / str(step))
        both = shards(root)
        damage(*both, "digits changed", 1)
        damage(*both, "rows cut off", 3)
        try:
            with killed_at(step):
                again(both)
        except Killed:
            if step < 2 + 6 + 2:  # before the second chunk is there
                with pytest.raises(WcxError, match="to mend it"):
                    both[0].read()
        else:
            break
        again(both)
        assert without_aside(root) == kept(tmp_path / "whole"), f"step {step}"
        assert len(aside(root)) == 2
    assert step == 2 + 2 * 6


def test_a_kill_leaves_a_journal_and_the_next_command_has_fewer_cells(tmp_path: Path) -> None:
    """Each folder of the journal is brought up to date, except one that is gone; one that is in use is waited for."""
    both = shards(tmp_path)
    with pytest.raises(Killed), killed_at(2):
        again(both, 1)
    first = min(both, key=lambda shard: shard.path)
    other = next(shard for shard in both if shard != first)
    with records.locked([other]), pytest.raises(WcxError, match="another process is writing"):
        again([first], 1)
    assert again([first], 1) == []
    assert [len(shard.read()) for shard in both] == [3, 3]
    assert again([other], 1) == []
    with pytest.raises(Killed), killed_at(2):
        again(both, 2)
    shutil.rmtree(other.path)
    assert again([first], 2) == []
    assert not other.path.exists()


@pytest.fixture
def old(tmp_path: Path) -> list[Shard]:
    """Complete records as they were made before sums were kept."""
    both = shards(tmp_path)
    again(both)
    for shard in both:
        (shard.path / "complete.json").write_text('{"chunks": 4, "rows": 12}')
    return both


def test_records_made_before_are_read_and_called_unchecked(old: list[Shard], tmp_path: Path) -> None:
    before = kept(tmp_path)
    assert [len(shard.read()) for shard in old] == [12, 12]
    assert all(shard.unchecked and shard.rows == 12 for shard in old)
    assert again(old, plan=PLAN) == []
    assert kept(tmp_path) == before


def test_truth_values_of_records_made_before_are_read() -> None:
    """Also beside gaps; a column of words is none."""
    for column, length in (("True\nFalse\n", 2), ('True\n""\nFalse\n', 3)):
        rows = "".join(f"{i},{value}\n" for i, value in enumerate(column.splitlines()))
        frame, fault = inventory._parse(f"index,selected\n{rows}".encode())
        assert fault == ""
        assert frame is not None
        assert len(frame) == length
    assert inventory._parse(b"index,selected\n0,True\n1,yes\n") == (None, "is no table of records")


# what cannot be told without sums
UNSEEN = {"digits changed", "the chunk of another contrast", "line ends of Windows", "columns exchanged"}


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("kind", sorted(set(DAMAGES) - UNSEEN))
def test_damage_that_can_be_told_without_sums(old: list[Shard], tmp_path: Path, kind: str, chunk: int) -> None:
    content = old[0].chunk_path(chunk).read_bytes()
    damage(*old, kind, chunk)
    with pytest.raises(WcxError, match=r"(chunk-0000\d\.csv|complete\.json|masking-\w+) .*; to mend it"):
        old[0].read()
    assert again(old, plan=PLAN) == [chunk]
    assert old[0].chunk_path(chunk).read_bytes() == content
    assert len(old[0].read()) == 12
    assert old[0].unchecked, "the other chunks"
    assert "complete.json.damaged-1" in aside(tmp_path), "it counted what is not there"


@pytest.mark.parametrize("text", [b"0.1x", b"Fals", b"1,2", b"-"])
def test_text_among_the_numbers_of_old_records(old: list[Shard], text: bytes) -> None:
    path = old[0].chunk_path(1)
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:2], lines[2].rpartition(b",")[0] + b"," + text, lines[3], b""]))
    with pytest.raises(WcxError, match="is no table of records"):
        old[0].read()
    assert again(old, plan=PLAN) == [1]


def test_other_columns_of_old_records(old: list[Shard]) -> None:
    damage(*old, "columns exchanged", 2)
    assert again(old, plan=PLAN) == [2]


def test_old_records_that_go_on_keep_their_chunks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    both = shards(tmp_path)
    again(both, 2)
    for shard in both:
        (shard.path / "complete.json").unlink()
    damage(*both, "rows cut off", 0)
    assert again(both, plan=PLAN) == [0, 2, 3]
    assert [line for line in caplog.text.splitlines() if "set aside" in line]
    for shard in both:
        about = json.loads((shard.path / "complete.json").read_bytes())
        flags = [bool(known.get("unchecked")) for known in about["files"].values()]
        assert flags == [False, True, False, False], "what was there is not said to have been checked"
        assert (about["chunks"], about["rows"]) == (4, 12)
        assert shard.unchecked
    damage(*both, "digits changed", 1)
    with pytest.raises(WcxError, match=r"chunk-00001\.csv is not what was written"):
        both[0].read()
    assert again(both) == [1]
    assert not any(shard.unchecked for shard in both)


def test_old_records_that_stopped_early_end_within_a_chunk(tmp_path: Path) -> None:
    def early(chunk: int) -> list[list[dict]]:
        return [rows[: 3 - chunk] for rows in compute(chunk)]

    both = shards(tmp_path)
    records.collect(both, 2, early, COLUMNS)
    for shard in both:
        (shard.path / "complete.json").write_text('{"chunks": 2, "rows": 5}')
    assert all(shard.check(plan=PLAN).complete for shard in both)
    assert again(both, 2, plan=PLAN, stop=lambda: True) == []
    both[0].chunk_path(1).write_bytes(both[0].chunk_path(1).read_bytes().rsplit(b"\n", 2)[0] + b"\n")
    assert again(both, 2, plan=PLAN, stop=lambda: False) == [1]


def test_a_chunk_in_the_middle_is_mended_although_enough_is_there(tmp_path: Path) -> None:
    both = shards(tmp_path)
    again(both)
    both[1].chunk_path(1).unlink()
    assert again(both, 9, stop=lambda: True) == [1]
    both[1].chunk_path(3).unlink()
    assert again(both, 9, stop=lambda: both[1].chunk_path(3).exists()) == [3]


def maps(both: list[Shard], text: str = "maps") -> Callable[[int], list[list[dict]]]:
    def computed(chunk: int) -> list[list[dict]]:
        for shard in both:
            shard.chunk_path(chunk).with_suffix(".npz").write_text(f"{text} {chunk}")
        return compute(chunk)

    return computed


@pytest.mark.parametrize("content", [b"", b"maps 7", b"maps", None])
def test_files_beside_the_chunks(tmp_path: Path, content: bytes | None, caplog: pytest.LogCaptureFixture) -> None:
    both = shards(tmp_path)
    records.collect(both, 3, maps(both), COLUMNS, suffix=".npz")
    before = kept(tmp_path)
    file = both[1].chunk_path(1).with_suffix(".npz")
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    assert len(both[1].read()) == 9, "the numbers are whole"
    assert both[1].check().complete, "nobody asks for maps"
    check = both[1].check(".npz")
    assert (check.complete, set(check.faults), check.sound) == (False, {file.name}, {0, 2})
    records.collect(both, 3, maps(both), COLUMNS, suffix=".npz")
    assert f"{file}" in caplog.text
    assert without_aside(tmp_path) == before
    assert aside(tmp_path) == ([] if content is None else [f"{file.name}.damaged-1"])


def test_files_beside_the_chunks_of_records_without_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are added later; an uncommitted one is not believed; one of old records is, unchecked."""
    both = shards(tmp_path)
    again(both, 2)
    both[0].chunk_path(0).with_suffix(".npz").write_text("of a run that was killed")
    assert not both[0].check(".npz").sound
    records.collect(both, 2, maps(both), COLUMNS, suffix=".npz")
    assert both[0].check(".npz").complete
    assert both[0].chunk_path(0).with_suffix(".npz").read_text() == "maps 0"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    for shard in both:
        (shard.path / "complete.json").write_text('{"chunks": 2, "rows": 6}')
    assert both[0].check(".npz", COLUMNS, PLAN).complete
    both[0].chunk_path(0).with_suffix(".npz").unlink()
    assert both[0].check(".npz", COLUMNS, PLAN).sound == {1}


def test_a_file_that_must_not_be_read_is_one_line_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = shards(tmp_path)
    again(both)
    before, real = kept(tmp_path), Path.read_bytes

    def forbidden(path: Path) -> bytes:
        if path == both[1].chunk_path(2):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", forbidden)
        for act in (lambda: again(both), both[1].read):
            with pytest.raises(WcxError, match=r"cannot read .*chunk-00002.csv: Permission denied; give yourself"):
                act()
    assert kept(tmp_path) == before


def test_files_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both, opened, real = shards(tmp_path), [], Path.read_bytes
    again(both)
    monkeypatch.setattr(Path, "read_bytes", lambda path: opened.append(path.name) or real(path))
    both[0].read()
    assert sorted(opened) == [*(f"chunk-0000{i}.csv" for i in range(4)), inventory.COMPLETE]
