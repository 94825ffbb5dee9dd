"""What was committed to a folder of records, and what of it is there as it was.

The ledger is chunks.json, renamed to complete.json when nothing is missing:

    {"chunks": 2, "rows": 9, "files": {"chunk-00000.csv": {"rows": 6, "size": 410, "sha256": "..."}, ...}}

A chunk that was there before sums were kept is `unchecked`: its sum was taken from the file, not from what was written. A
complete.json of that time has no `files`; the folder then has no ledger, and its chunks are only looked at.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wcx import files
from wcx.errors import WcxError
from wcx.files import write

if TYPE_CHECKING:
    import pandas as pd  # imported where it is needed, for a quick start

COMPLETE, PENDING, JOURNAL = "complete.json", "chunks.json", "journal.json"


@dataclass(frozen=True)
class Ledger:
    """The file, read.

    Attributes:
        path: complete.json, or chunks.json where that is not there.
        entries: file name -> rows (of a chunk), size, sha256; None for a chunk of which no sum was kept.
        kept: whether sums were kept.
        promise: (chunks, rows) that complete.json counts; None while incomplete.
        fault: why the file cannot be used; "" if it can.
    """

    path: Path
    entries: Mapping[str, dict[str, Any] | None]
    kept: bool = False
    promise: tuple[int, int] | None = None
    fault: str = ""

    @classmethod
    def of(cls, folder: Path) -> Ledger:
        """Return the ledger of a folder.

        Raises:
            WcxError: it must not be read.
        """
        path = folder / COMPLETE if (folder / COMPLETE).exists() else folder / PENDING
        if not path.exists():
            return cls(path, dict.fromkeys(_chunks(folder)))
        content, fault = files.load(path)
        try:
            about = json.loads(content)
            promise = (int(about["chunks"]), int(about["rows"]))
            entries = about["files"] if path.name == PENDING else about.get("files") or dict.fromkeys(_chunks(folder))
            kept = "files" in about
            if kept and not (
                _counts(entries) == promise and all({"size", "sha256"} <= set(e) for e in entries.values())
            ):
                raise ValueError("it does not agree with itself")
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls(path, dict.fromkeys(_chunks(folder)), fault=fault or "is not what was written")
        return cls(path, entries, kept, promise if path.name == COMPLETE else None)

    @property
    def chunks(self) -> list[str]:
        """The names of the chunks: those committed, or those that are there where no sums were kept."""
        return sorted(name for name in self.entries if name.endswith(".csv"))

    @property
    def strays(self) -> list[str]:
        """The chunks in the folder that were not committed to it."""
        return sorted(set(_chunks(self.path.parent)) - set(self.entries))

    @property
    def unchecked(self) -> bool:
        """Whether some chunk was never compared with what had been written."""
        return not self.fault and any(map(_unchecked, self.entries.values()))


@dataclass(frozen=True)
class Check:
    """What is in a folder of records, compared with what was committed.

    Attributes:
        sound: the chunks that are there as they were committed, or that nothing speaks against.
        faults: file name -> what is wrong with it.
        chunks: how many there were, the last one's number plus 1.
        complete: whether nothing is missing, nothing wrong, and no journal to be carried out.
    """

    sound: frozenset[int]
    faults: Mapping[str, str]
    chunks: int
    complete: bool


def check(
    folder: Path, beside: str = "", columns: Sequence[str] = (), plan: Sequence[Sequence[int]] | None = None
) -> Check:
    """Compare a folder with its ledger; every file is read once.

    Args:
        folder: of one shard.
        beside: suffix of a file that belongs to each chunk; without it a chunk is not sound.
        columns: of the records, for chunks without sums; () is not compared.
        plan: the images of each chunk as indices into the dataset, for chunks without sums; None is not compared.

    Raises:
        WcxError: a file must not be read.
    """
    ledger = Ledger.of(folder)
    faults = {ledger.path.name: ledger.fault} if ledger.fault else {}
    faults |= dict.fromkeys(ledger.strays, "was not committed here")
    if ledger.kept:
        faults |= {name: fault for name in ledger.chunks if (fault := _compare(folder / name, ledger.entries[name])[1])}
    else:
        faults |= _speaks_against(ledger, columns, plan)
    sound = []
    for name in ledger.chunks:
        file = Path(name).with_suffix(beside).name if beside else name
        if file in ledger.entries and beside and (fault := _compare(folder / file, ledger.entries[file])[1]):
            faults[file] = fault
        known = file in ledger.entries or ((folder / file).is_file() and _unchecked(ledger.entries[name]))
        if known and not {name, file} & set(faults):
            sound.append(name)
    complete = ledger.promise is not None and not faults and len(sound) == len(ledger.chunks)
    complete = complete and not (folder / JOURNAL).exists()
    return Check(frozenset(map(_number, sound)), faults, max(map(_number, ledger.chunks), default=-1) + 1, complete)


def rows(folder: Path, before: int | None = None) -> pd.DataFrame:
    """Return the rows of the chunks that were committed, sorted by the images' index in the dataset.

    Args:
        folder: of one shard.
        before: only the chunks of smaller numbers.

    Raises:
        WcxError: there are none, or a file is not what was written.
    """
    import pandas as pd

    from wcx.manifest import again

    def refuse(name: str, fault: str) -> WcxError:
        return WcxError(f"{folder / name} {fault}; {again(folder)}")

    ledger, frames = Ledger.of(folder), []
    if ledger.fault:
        raise refuse(ledger.path.name, ledger.fault)
    if ledger.promise and ledger.strays:
        raise refuse(ledger.strays[0], "was not committed here")
    for name in ledger.chunks:
        if before is not None and _number(name) >= before:
            continue
        content, fault = _compare(folder / name, ledger.entries[name])
        frame, fault = (None, fault) if fault else _parse(content, _unchecked(ledger.entries[name]))
        if frame is None:
            raise refuse(name, fault)
        frames.append(frame)
    if not frames:
        raise WcxError(f"no records in {folder}; make them with run.py or scripts/.")
    whole = pd.concat(frames, ignore_index=True)
    if ledger.unchecked and (whole["index"].duplicated().any() or len({tuple(frame) for frame in frames}) > 1):
        raise refuse("", "has chunks of the same images, or of different columns")
    if before is None and ledger.promise not in (None, (len(frames), len(whole))):
        raise refuse(ledger.path.name, _broken(ledger.promise, len(frames), len(whole)))
    return whole.sort_values("index", kind="stable", ignore_index=True)


def entry(content: bytes, **facts: Any) -> dict[str, Any]:
    """Return what a ledger says of a file: `facts`, size and SHA-256."""
    return facts | {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def note(folder: Path, entries: Mapping[str, dict[str, Any]]) -> None:
    """Add files to a folder's ledger, or bring what it says of them up to date."""
    ledger = _usable(folder)
    write(ledger.path, _text(_adopted(ledger) | entries))


def finish(folder: Path) -> None:
    """Turn chunks.json into complete.json, and strike out what is not there any more."""
    ledger = _usable(folder)
    left = {name: known for name, known in _adopted(ledger).items() if (folder / name).exists()}
    if ledger.promise is None or (ledger.kept and left != ledger.entries):
        write(ledger.path, _text(left))
        ledger.path.replace(folder / COMPLETE)


def _usable(folder: Path) -> Ledger:
    """Return the ledger of a folder; one that cannot be used is set aside first."""
    while (ledger := Ledger.of(folder)).fault:
        files.set_aside(ledger.path, ledger.fault)
    return ledger


def _adopted(ledger: Ledger) -> dict[str, dict[str, Any]]:
    """Return the entries, with sums of the chunks as they are now where none were kept."""

    def of_now(name: str) -> dict[str, Any]:
        content = (ledger.path.parent / name).read_bytes()
        return entry(content, rows=len(_parse(content)[0]), unchecked=True)

    return {name: of_now(name) if known is None else known for name, known in ledger.entries.items()}


def _text(entries: Mapping[str, dict[str, Any]]) -> str:
    chunks, rows = _counts(entries)
    return json.dumps({"chunks": chunks, "rows": rows, "files": dict(sorted(entries.items()))})


def _counts(entries: Mapping[str, dict[str, Any]]) -> tuple[int, int]:
    """Return how many chunks, and rows in them, the entries speak of."""
    rows = [known["rows"] for name, known in entries.items() if name.endswith(".csv")]
    return len(rows), sum(rows)


def _unchecked(known: dict[str, Any] | None) -> bool:
    return known is None or "unchecked" in known


def _chunks(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("chunk-*.csv"))


def _number(name: str) -> int:
    """Return a chunk's number; -1 for a file that is none of ours ("chunk-00003 (copy).csv")."""
    match = re.fullmatch(r"chunk-(\d{5,})\.csv", name)
    return int(match[1]) if match else -1


def _compare(path: Path, known: Mapping[str, Any] | None) -> tuple[bytes, str]:
    """Return what is in a file, and what is wrong with it by its entry; without one it is only read."""
    content, fault = files.load(path)
    if known is None or fault:
        return content, fault
    if len(content) != known["size"]:
        return content, f"has {len(content)} bytes, {known['size']} were written"
    same = hashlib.sha256(content).hexdigest() == known["sha256"]
    return content, "" if same else "is not what was written (SHA-256)"


def _parse(content: bytes, unchecked: bool = True) -> tuple[pd.DataFrame | None, str]:
    """Return the rows of a chunk, or why they cannot be had; an unchecked one is of numbers and truth values alone."""
    import pandas as pd

    if b"\0" in content or not content.endswith(b"\n"):
        return None, "is cut off or overwritten"
    try:
        frame = pd.read_csv(io.BytesIO(content), dtype={"id": str})
        if unchecked:
            others = frame.astype({"index": int}).drop(columns="id", errors="ignore").select_dtypes(exclude="number")
            for column in others:
                others[column].dropna().map({True: 1, False: 0}).astype(int)
        return frame, ""
    except (ValueError, KeyError):
        return None, "is no table of records"


def _speaks_against(ledger: Ledger, columns: Sequence[str], plan: Sequence[Sequence[int]] | None) -> dict[str, str]:
    """Return what is wrong with chunks of which no sums were kept, and with what complete.json promises of them."""
    images, faults = {}, {}
    for name in ledger.chunks:
        content, fault = _compare(ledger.path.parent / name, None)
        frame, fault = (None, fault) if fault else _parse(content)
        if frame is None:
            faults[name] = fault
        elif columns and list(frame.columns) != list(columns):
            faults[name] = "has other columns"
        else:
            images[name] = frame["index"].tolist()
    counts = (len(images), sum(map(len, images.values())))
    if ledger.promise not in (None, counts):
        faults[ledger.path.name] = _broken(ledger.promise, *counts)
    for name, indices in images.items() if plan is not None else ():
        number = _number(name)
        expected = list(plan[number]) if 0 <= number < len(plan) else []
        early = ledger.promise == counts and name == ledger.chunks[-1]  # a run that stops early ends within a chunk
        if not indices or indices != (expected[: len(indices)] if early else expected):
            faults[name] = "holds other images than this chunk"
    if faults and ledger.promise:
        faults.setdefault(ledger.path.name, "counts chunks that are not what was written")
    return faults


def _broken(promise: tuple[int, int], chunks: int, rows: int) -> str:
    return f"counts {promise[0]} chunks of {promise[1]} rows, of which {chunks} of {rows} are there"
