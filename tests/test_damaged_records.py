"""Records that were damaged are not believed: named, set aside, computed again, and in no table meanwhile."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.test_records import COLUMNS, compute, contents, shards
from wcx import records
from wcx.errors import WcxError
from wcx.records import Shard

CHUNKS = 4


def _flip(content: bytes) -> bytes:
    """Change the last digit."""
    place = max(content.rfind(str(d).encode()) for d in range(10))
    return content[:place] + (b"1" if content[place:][:1] != b"1" else b"2") + content[place + 1 :]


# what happens to a chunk: its content -> another; None: see `damage`
DAMAGES: dict[str, Callable[[bytes], bytes] | None] = {
    "rows cut off": lambda content: b"".join(content.splitlines(keepends=True)[:2]),
    "its first row cut off": lambda content: b"".join(
        content.splitlines(keepends=True)[:1] + content.splitlines(True)[2:]
    ),
    "digits changed": _flip,
    "truncated to nothing": lambda _: b"",
    "only its header left": lambda content: content.splitlines(keepends=True)[0],
    "half a last line": lambda content: content[:-4],
    "no last line end": lambda content: content[:-1],
    "zeros from a power cut": lambda content: content[:20] + bytes(len(content) - 20),
    "nothing but zeros": lambda content: bytes(len(content)),
    "another header": lambda content: content.replace(b"value", b"valeu"),
    "no header": lambda content: content.split(b"\n", 1)[1],
    "a row twice": lambda content: content + content.splitlines(keepends=True)[-1],
    "columns exchanged": lambda content: content.replace(b"index,id", b"id,index"),
    "line ends of Windows": lambda content: content.replace(b"\n", b"\r\n"),
    "not text": lambda content: b"\xff\xfe" + content[2:],
    "another chunk of the same records": None,
    "the chunk of another contrast": None,
    "missing": None,
    "a folder in its place": None,
}


def damage(shard: Shard, other: Shard, kind: str, chunk: int = 1) -> None:
    path, change = shard.chunk_path(chunk), DAMAGES[kind]
    if change is not None:
        path.write_bytes(change(path.read_bytes()))
    elif kind == "another chunk of the same records":
        shutil.copy(shard.chunk_path(0 if chunk else 1), path)
    elif kind == "the chunk of another contrast":
        shutil.copy(other.chunk_path(chunk), path)
    else:
        path.unlink()
        if kind == "a folder in its place":
            path.mkdir()


def again(both: list[Shard], count: int = CHUNKS, asked: list[int] | None = None, **options: object) -> list[int]:
    """Collect; return the chunks that were computed (added to `asked`)."""
    asked = [] if asked is None else asked
    records.collect(both, count, lambda chunk: asked.append(chunk) or compute(chunk), COLUMNS, **options)
    return asked


def kept(root: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents(root).items() if not name.endswith((".lock", ".part"))}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test cuts the power: what a file system has not written yet is there."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def aside(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*.damaged-*"))


@pytest.fixture
def interrupted(tmp_path: Path) -> list[Shard]:
    """Three of four chunks."""

    def stops(chunk: int) -> list[list[dict]]:
        if chunk == 3:
            raise KeyboardInterrupt
        return compute(chunk)

    both = shards(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        records.collect(both, CHUNKS, stops, COLUMNS)
    return both


@pytest.mark.parametrize("chunk", [0, 3])
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_chunk_is_named_set_aside_and_computed_again(
    tmp_path: Path, kind: str, chunk: int, caplog: pytest.LogCaptureFixture
) -> None:
    both = shards(tmp_path)
    assert again(both) == [0, 1, 2, 3]
    before = kept(tmp_path)
    damage(*both, kind, chunk)
    damaged = both[0].chunk_path(chunk)
    content = damaged.read_bytes() if damaged.is_file() else None
    with pytest.raises(WcxError, match=rf"original/.*/{damaged.name} .*; to mend it, run "):
        both[0].read()
    assert len(both[1].read()) == 12, "the other contrast is whole"
    assert kept(tmp_path).get(str(damaged.relative_to(tmp_path))) == content, "reading changes nothing"
    assert again(both) == [chunk]
    [line] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert line.startswith(str(damaged))
    after = kept(tmp_path)
    assert {name: value for name, value in after.items() if "damaged" not in name} == before
    if damaged.exists() and kind != "missing":
        assert aside(tmp_path) == [f"{damaged.name}.damaged-1"]
        assert f"set aside as {damaged.name}.damaged-1" in line
        assert content in (None, *(value for name, value in after.items() if "damaged" in name)), "not deleted"
    assert again(both) == []


@pytest.mark.parametrize("kind", DAMAGES)
def test_also_while_records_are_incomplete(interrupted: list[Shard], tmp_path: Path, kind: str) -> None:
    damage(*interrupted, kind)
    with pytest.raises(WcxError, match="chunk-00001"):
        interrupted[0].read()
    assert again(interrupted) == [1, 3]
    records.collect(shards(tmp_path / "whole"), CHUNKS, compute, COLUMNS)
    after = {name: value for name, value in kept(tmp_path / "records").items() if "damaged" not in name}
    assert after == kept(tmp_path / "whole" / "records")


def test_a_chunk_that_was_never_committed_is_not_believed(interrupted: list[Shard], tmp_path: Path) -> None:
    """It was copied in from elsewhere: where the next chunk belongs, and beyond."""
    for chunk in (3, 7):
        shutil.copy(interrupted[0].chunk_path(0), interrupted[0].chunk_path(chunk))
    assert len(interrupted[0].read()) == 9
    assert again(interrupted) == [3]
    assert aside(tmp_path) == ["chunk-00003.csv.damaged-1", "chunk-00007.csv.damaged-1"]
    shutil.copy(interrupted[0].chunk_path(0), interrupted[0].path / "chunk-00001 (copy).csv")
    with pytest.raises(WcxError, match=r"chunk-00001 \(copy\).csv was not committed here"):
        interrupted[0].read()
    assert again(interrupted) == []
    assert len(interrupted[0].read()) == 12


def test_damaged_twice_is_set_aside_twice(tmp_path: Path) -> None:
    both = shards(tmp_path)
    again(both)
    for _ in range(2):
        damage(*both, "digits changed")
        damage(*both, "rows cut off", 2)
        assert again(both) == [1, 2]
    assert aside(tmp_path) == [f"chunk-0000{c}.csv.damaged-{n}" for c in (1, 2) for n in (1, 2)]


GARBAGE = {
    "empty": b"",
    "cut off": b'{"chunks": 4, "rows": 1',
    "no object": b"[4, 12]",
    "null": b"null",
    "a number": b"7",
    "not text": b"\xff\xfe\x00",
    "zeros": bytes(100),
    "of something else": b'{"a": 1}',
    "counts that are none": b'{"chunks": "many", "rows": null, "files": {}}',
    "entries that are none": b'{"chunks": 1, "rows": 3, "files": {"chunk-00000.csv": 3}}',
    "files that are none": b'{"chunks": 1, "rows": 3, "files": [1]}',
}


@pytest.mark.parametrize("name", GARBAGE)
def test_a_damaged_complete_json(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    both = shards(tmp_path)
    again(both)
    (both[0].path / "complete.json").write_bytes(GARBAGE[name])
    with pytest.raises(WcxError, match=r"complete.json is not what was written"):
        both[0].read()
    assert again(both) == [], "the chunks are there"
    assert aside(tmp_path) == ["complete.json.damaged-1"]
    assert "complete.json is not what was written; set aside as" in caplog.text
    assert both[0].complete
    assert len(both[0].read()) == 12
    assert [shard.unchecked for shard in both] == [True, False], "its sums are lost"


@pytest.mark.parametrize("change", [(b'"chunks": 4', b'"chunks": 9'), (b'"rows": 12', b'"rows": 72')])
def test_a_complete_json_that_does_not_agree_with_itself(tmp_path: Path, change: tuple[bytes, bytes]) -> None:
    both = shards(tmp_path)
    again(both)
    file = both[1].path / "complete.json"
    file.write_bytes(file.read_bytes().replace(*change))
    with pytest.raises(WcxError, match=r"complete\.json"):
        both[1].read()
    assert again(both) == []
    assert len(both[1].read()) == 12


@pytest.mark.parametrize("name", GARBAGE)
def test_a_damaged_list_of_chunks_while_incomplete(interrupted: list[Shard], tmp_path: Path, name: str) -> None:
    for file in interrupted[0].path.glob("chunks.json"):
        file.write_bytes(GARBAGE[name])
    with pytest.raises(WcxError, match=r"chunks\.json"):
        interrupted[0].read()
    assert again(interrupted) == [3]
    assert len(interrupted[0].read()) == 12
    assert interrupted[0].unchecked


@pytest.mark.parametrize("name", [*GARBAGE, "a digit", "a name"])
def test_a_damaged_journal(
    interrupted: list[Shard], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is left by a kill; damaged, it is set aside, and its chunk computed again."""
    replace, moved = Path.replace, []

    def dies(self: Path, target: Path) -> Path:
        if moved:
            raise KeyboardInterrupt
        moved.append(replace(self, target))
        return target

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            again(interrupted)
    [journal] = tmp_path.rglob("journal.json")
    content = journal.read_bytes()
    changed = {"a digit": content.replace(b"03/1", b"03/7"), "a name": content.replace(b"-00003", b"-00004")}
    journal.write_bytes((GARBAGE | changed)[name])
    assert again(interrupted) == [3]
    assert aside(tmp_path) == ["journal.json.damaged-1"]
    records.collect(shards(tmp_path / "whole"), CHUNKS, compute, COLUMNS)
    after = {name: value for name, value in kept(tmp_path / "records").items() if "damaged" not in name}
    assert after == kept(tmp_path / "whole" / "records")


def test_a_damaged_shard_json_is_named_and_written_anew(tmp_path: Path) -> None:
    both = shards(tmp_path)
    for shard in both:
        shard.describe({"command": ["/home/me/wcx/scripts/table1.py", "datasets=[cub]"]})
    again(both)
    original = both[0].path / "shard.json"
    foreign = (both[1].path / "shard.json").read_bytes()
    deep = json.dumps(json.loads(original.read_bytes()) | {"key": {"dataset": ["d"]}}).encode()
    of_other_parts = original.read_bytes().replace(b'"seed": 0', b'"seed": 1')
    for content in (*GARBAGE.values(), foreign, deep, of_other_parts):
        right = original.read_bytes()
        original.write_bytes(content)
        refused: list[str] = []
        assert records.find(tmp_path, "masking", refused) == both[:0] + both[1:]
        [line] = refused
        assert str(original) in line
        assert line.endswith("to mend it, run python scripts/table1.py 'datasets=[cub]'")
        assert records.find(tmp_path, "gallery", refused) == []
        assert len(refused) == 1, "not of the experiment that is asked for"
        both[0].relabel()
        assert original.read_bytes() == right
    assert len(aside(tmp_path)) == len(GARBAGE) + 3
