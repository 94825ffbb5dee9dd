"""What was committed to a folder of records, and what of it is there as it was.

The inventory is chunks.json, renamed to complete.json when nothing is missing:

    {"chunks": 2, "rows": 9, "files": {"chunk-00000.csv": {"rows": 6, "size": 410, "sha256": "..."}, ...}}

Chunks made before sums were kept are `unchecked`: in a complete.json of that time, which has no `files`, they are looked at
only; once the records went on, there are sums of them as they were found.
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

if TYPE_CHECKING:
    import pandas as pd  # imported where it is needed, for a quick start

COMPLETE, PENDING, JOURNAL = "complete.json", "chunks.json", "journal.json"


@dataclass(frozen=True)
class Inventory:
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
    def of(cls, folder: Path) -> Inventory:
        """Return the inventory of a folder.

        Raises:
            WcxError: it must not be read.
        """
        path = folder / COMPLETE if (folder / COMPLETE).exists() else folder / PENDING
        if not path.exists():
            return cls(path, dict.fromkeys(_chunks(folder)))
        content, fault = files.load(path)
        try:
            facts = json.loads(content)
            promise = (int(facts["chunks"]), int(facts["rows"]))
            kept = "files" in facts or path.name == PENDING
            entries = facts["files"] if kept else dict.fromkeys(_chunks(folder))
            if kept and (
                _counts(entries) != promise or not all("sha256" in e and "size" in e for e in entries.values())
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
    folder: Path, suffix: str = "", columns: Sequence[str] = (), plan: Sequence[Sequence[int]] | None = None
) -> Check:
    """Compare a folder with its inventory; every file is read once.

    Args:
        folder: of one shard.
        suffix: of a file that belongs to each chunk; without it a chunk is not sound.
        columns: of the records, for chunks without sums; () is not compared.
        plan: the images of each chunk as indices into the dataset, for chunks without sums; None is not compared.

    Raises:
        WcxError: a file must not be read.
    """
    inventory = Inventory.of(folder)
    faults = {inventory.path.name: inventory.fault} if inventory.fault else {}
    faults |= dict.fromkeys(inventory.strays, "was not committed here")
    if inventory.kept:
        faults |= {
            name: fault for name in inventory.chunks if (fault := _compare(folder / name, inventory.entries[name])[1])
        }
    else:
        faults |= _speaks_against(inventory, columns, plan)
    sound = []
    for name in inventory.chunks:
        file = Path(name).with_suffix(suffix).name if suffix else name
        if file in inventory.entries and suffix and (fault := _compare(folder / file, inventory.entries[file])[1]):
            faults[file] = fault
        present = file in inventory.entries or ((folder / file).is_file() and _unchecked(inventory.entries[name]))
        if present and not {name, file} & set(faults):
            sound.append(name)
    missing = faults or len(sound) < len(inventory.chunks) or (folder / JOURNAL).exists()
    complete = inventory.promise is not None and not missing
    return Check(frozenset(map(_number, sound)), faults, max(map(_number, inventory.chunks), default=-1) + 1, complete)


def rows(folder: Path, before: int | None = None) -> pd.DataFrame:
    """Return the rows of the chunks committed (of numbers below `before`, if given), sorted by the images' index.

    Raises:
        WcxError: there are none, or a file is not what was written.
    """
    import pandas as pd

    from wcx.manifest import again

    def refuse(name: str, fault: str) -> WcxError:
        return WcxError(f"{folder / name} {fault}; {again(folder)}")

    inventory, frames = Inventory.of(folder), []
    if inventory.fault:
        raise refuse(inventory.path.name, inventory.fault)
    if inventory.promise and inventory.strays:
        raise refuse(inventory.strays[0], "was not committed here")
    for name in inventory.chunks:
        if before is not None and _number(name) >= before:
            continue
        content, fault = _compare(folder / name, inventory.entries[name])
        frame, fault = (None, fault) if fault else _parse(content, _unchecked(inventory.entries[name]))
        if frame is None:
            raise refuse(name, fault)
        frames.append(frame)
    if not frames:
        raise WcxError(f"no records in {folder}; make them: wcx --help names the commands.")
    table = pd.concat(frames, ignore_index=True)
    if inventory.unchecked and (table["index"].duplicated().any() or len({tuple(frame) for frame in frames}) > 1):
        raise refuse("", "has chunks of the same images, or of different columns")
    if before is None and inventory.promise not in (None, (len(frames), len(table))):
        raise refuse(inventory.path.name, _broken(inventory.promise, len(frames), len(table)))
    return table.sort_values("index", kind="stable", ignore_index=True)


def stamp(content: bytes, **facts: Any) -> dict[str, Any]:
    """Return what a inventory says of a file: `facts`, size and SHA-256."""
    return facts | {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def note(folder: Path, entries: Mapping[str, dict[str, Any]]) -> None:
    """Add files to a folder's inventory, or bring what it says of them up to date."""
    inventory = _usable(folder)
    files.write(inventory.path, _text(_adopted(inventory, known=entries) | entries))


def finish(folder: Path) -> None:
    """Turn chunks.json into complete.json, and strike out what is not there any more."""
    inventory = _usable(folder)
    entries = {name: entry for name, entry in _adopted(inventory).items() if (folder / name).exists()}
    if inventory.promise is None or (inventory.kept and entries != inventory.entries):
        files.write(inventory.path, _text(entries))
        inventory.path.replace(folder / COMPLETE)


def _usable(folder: Path) -> Inventory:
    """Return the inventory of a folder; one that cannot be used is set aside first."""
    while (inventory := Inventory.of(folder)).fault:
        files.set_aside(inventory.path, inventory.fault)
    return inventory


def _adopted(inventory: Inventory, known: Mapping[str, dict[str, Any]] | None = None) -> dict[str, dict[str, Any]]:
    """Return the entries but for those `known`, with sums of the chunks as they are now where none were kept."""

    def of_now(name: str) -> dict[str, Any]:
        content = (inventory.path.parent / name).read_bytes()
        return stamp(content, rows=len(_parse(content)[0]), unchecked=True)

    older = {name: entry for name, entry in inventory.entries.items() if name not in (known or {})}
    return {name: of_now(name) if entry is None else entry for name, entry in older.items()}


def _text(entries: Mapping[str, dict[str, Any]]) -> str:
    chunks, rows = _counts(entries)
    return json.dumps({"chunks": chunks, "rows": rows, "files": dict(sorted(entries.items()))})


def _counts(entries: Mapping[str, dict[str, Any]]) -> tuple[int, int]:
    """Return how many chunks, and rows in them, the entries speak of."""
    rows = [entry["rows"] for name, entry in entries.items() if name.endswith(".csv")]
    return len(rows), sum(rows)


def _unchecked(entry: dict[str, Any] | None) -> bool:
    return entry is None or "unchecked" in entry


def _chunks(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("chunk-*.csv"))


def _number(name: str) -> int:
    match = re.fullmatch(r"chunk-(\d{5,})\.csv", name)
    return int(match[1]) if match else -1  # "chunk-00003 (copy).csv"


def _compare(path: Path, entry: Mapping[str, Any] | None) -> tuple[bytes, str]:
    """Return what is in a file, and what is wrong with it by its entry; without one it is only read."""
    content, fault = files.load(path)
    if entry is None or fault:
        return content, fault
    if len(content) != entry["size"]:
        return content, f"has {len(content)} bytes, {entry['size']} were written"
    same = hashlib.sha256(content).hexdigest() == entry["sha256"]
    return content, "" if same else "is not what was written (SHA-256)"


def _parse(content: bytes, unchecked: bool = True) -> tuple[pd.DataFrame | None, str]:
    """Return the rows of a chunk, or why they cannot be had; an unchecked one is of numbers and truth values alone."""
    import pandas as pd

    if b"\0" in content or not content.endswith(b"\n"):
        return None, "is cut off or overwritten"
    try:
        frame = pd.read_csv(io.BytesIO(content), dtype={"id": str})
        if unchecked:
            texts = frame.astype({"index": int}).drop(columns="id", errors="ignore").select_dtypes(exclude="number")
            for column in texts:
                texts[column].dropna().map({True: 1, False: 0}).astype(int)
        return frame, ""
    except (ValueError, KeyError):
        return None, "is no table of records"


def _speaks_against(
    inventory: Inventory, columns: Sequence[str], plan: Sequence[Sequence[int]] | None
) -> dict[str, str]:
    """Return what is wrong with chunks of which no sums were kept, and with what complete.json promises of them."""
    images, faults = {}, {}
    for name in inventory.chunks:
        content, fault = _compare(inventory.path.parent / name, None)
        frame, fault = (None, fault) if fault else _parse(content)
        if frame is None:
            faults[name] = fault
        elif columns and list(frame.columns) != list(columns):
            faults[name] = "has other columns"
        else:
            images[name] = frame["index"].tolist()
    counts = (len(images), sum(map(len, images.values())))
    if inventory.promise not in (None, counts):
        faults[inventory.path.name] = _broken(inventory.promise, *counts)
    for name, indices in images.items() if plan is not None else ():
        number = _number(name)
        expected = list(plan[number]) if 0 <= number < len(plan) else []
        # a run that stops early ends within a chunk
        early = inventory.promise == counts and name == inventory.chunks[-1]
        if not indices or indices != (expected[: len(indices)] if early else expected):
            faults[name] = "holds other images than this chunk"
    if faults and inventory.promise:
        faults.setdefault(inventory.path.name, "counts chunks that are not what was written")
    return faults


def _broken(promise: tuple[int, int], chunks: int, rows: int) -> str:
    return f"counts {promise[0]} chunks of {promise[1]} rows, of which {chunks} of {rows} are there"
