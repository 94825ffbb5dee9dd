"""Per-image results on disk: append, resume, fingerprint, and nothing believed that was not committed.

A shard is one (dataset, model, method, contrast, experiment settings), in a folder of its own:

    <results>/records/<dataset>/<model>/<method>/<contrast>/<experiment>-<fingerprint>/
        shard.json        what it is: key, fingerprinted parts, labels for tables
        manifest.json     what it was made with: versions, device, seed, hashes, git commit
        config.yaml       the composed configuration (written by run.py and scripts/)
        chunk-00000.csv   one row an image; the unit of commit and resume
        chunks.json       rows, size and SHA-256 of each chunk committed so far
        complete.json     the same file, renamed when nothing is missing
        *.damaged-1       a file that was not what had been written: set aside, never deleted

The fingerprint covers everything that could change a number. Files appear whole or not at all, and the chunks of all
shards that were computed together are committed together (through a journal), so that a kill loses at most a chunk and
resuming repeats the same passes. What is read is compared with what was committed; chunks made before sums were kept cannot
be: they are called unchecked.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wcx import files, inventory
from wcx.errors import WcxError
from wcx.files import write
from wcx.inventory import Check, Inventory

if TYPE_CHECKING:
    import pandas as pd  # imported where it is needed, for a quick start

log = logging.getLogger("wcx")
KEY = ("dataset", "model", "method", "contrast")
_FLOAT = "%.9g"  # enough for a float32 to come back exactly


def fingerprint(parts: dict[str, Any]) -> str:
    """Return 12 hex digits that stand for everything in `parts` (JSON values)."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Shard:
    """The records of one cell.

    Attributes:
        root: the results folder.
        key: dataset, model, method, contrast: names as on the command line.
        experiment: its name.
        parts: everything that could change the numbers, as JSON values: what the fingerprint covers.
        labels: what tables say of it beside the numbers (subset, weights, ...), as JSON values.
    """

    root: Path
    key: tuple[str, str, str, str]
    experiment: str
    parts: dict[str, Any] = field(hash=False, compare=False)
    labels: dict[str, Any] = field(hash=False, compare=False, default_factory=dict)

    @property
    def path(self) -> Path:
        """The shard's folder."""
        return self.root.joinpath("records", *self.key, f"{self.experiment}-{fingerprint(self.parts)}")

    @property
    def complete(self) -> bool:
        """Whether all its chunks were committed; `check` looks whether they still are what was written."""
        return (self.path / inventory.COMPLETE).exists()

    @property
    def rows(self) -> int:
        """How many rows complete.json counts; 0 while incomplete, or where it cannot be read."""
        return (Inventory.of(self.path).promise or (0, 0))[1]

    @property
    def unchecked(self) -> bool:
        """Whether some of it was made before sums were kept: it is read, and cannot be compared with what was written."""
        return Inventory.of(self.path).unchecked

    def chunks(self) -> int:
        """Return how many chunks are there."""
        return len(list(self.path.glob("chunk-*.csv")))

    def chunk_path(self, chunk: int) -> Path:
        """Return the file of one chunk."""
        return self.path / f"chunk-{chunk:05d}.csv"

    def check(
        self, suffix: str = "", columns: Sequence[str] = (), plan: Sequence[Sequence[int]] | None = None
    ) -> Check:
        """Compare what is on disk with what was committed; see `inventory.check`."""
        return inventory.check(self.path, suffix, columns, plan)

    def read(self, before: int | None = None) -> pd.DataFrame:
        """Return the rows of all chunks that were committed, sorted by the images' index in the dataset.

        Args:
            before: only the chunks of smaller numbers.

        Raises:
            WcxError: there are none yet, or a file is not what was written.
        """
        return inventory.rows(self.path, before)

    def describe(self, manifest: dict[str, Any], config: str = "") -> None:
        """Write shard.json, manifest.json and config.yaml."""
        self.path.mkdir(parents=True, exist_ok=True)
        write(self.path / "shard.json", self._about())
        write(self.path / "manifest.json", json.dumps(manifest, indent=1))
        if config:
            write(self.path / "config.yaml", config)

    def relabel(self) -> None:
        """Bring shard.json up to date, where there are records: labels are no part of the fingerprint."""
        file, stated = self.path / "shard.json", self._about()
        if not self.path.is_dir() or (file.is_file() and file.read_bytes() == files.encoded(stated)):
            return
        if file.exists() and (fault := _open(self.root, file)[1]):
            files.set_aside(file, fault)
        write(file, stated)

    def _about(self) -> str:
        stated = {"key": dict(zip(KEY, self.key, strict=True)), "experiment": self.experiment}
        stated |= {"fingerprint": fingerprint(self.parts), "parts": self.parts, "labels": self.labels}
        return json.dumps(stated, indent=1)


def find(root: Path, experiment: str | None = None, refused: list[str] | None = None) -> list[Shard]:
    """Return the shards under a results folder, ordered by path; only those of `experiment`, if given.

    Args:
        root: the results folder.
        experiment: its name.
        refused: where a line goes for each folder whose shard.json is damaged or belongs elsewhere; None is the log.
    """
    shards = []
    for file in sorted(Path(root).joinpath("records").glob("*/*/*/*/*/shard.json")):
        shard, fault = _open(Path(root), file)
        if shard is None and (experiment is None or file.parent.name.startswith(f"{experiment}-")):
            from wcx.manifest import again

            line = f"left out: {file} {fault}; {again(file.parent)}"
            log.warning(line) if refused is None else refused.append(line)
        elif shard is not None and experiment in (None, shard.experiment):
            shards.append(shard)
    return shards


def _open(root: Path, file: Path) -> tuple[Shard | None, str]:
    """Return the shard that a shard.json tells of; None, and why, if it is damaged or that of another folder."""
    try:
        facts = json.loads(file.read_bytes())
        key = tuple(facts["key"][name] for name in KEY)
        shard = Shard(root, key, facts["experiment"], facts["parts"], dict(facts["labels"]))
        path = shard.path
    except OSError as error:
        return None, f"cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError):
        return None, "is not what was written"
    return (shard, "") if path == file.parent else (None, "tells of other records")


def collect(
    shards: Sequence[Shard],
    chunks: int,
    compute: Callable[[int], Sequence[Sequence[dict[str, Any]]]],
    columns: Sequence[str],
    *,
    suffix: str = "",
    plan: Sequence[Sequence[int]] | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda _chunk: None,
) -> None:
    """Fill the shards chunk by chunk, leaving out what is there as it was committed; what is not is set aside and named.

    Args:
        shards: computed together.
        chunks: how many there are.
        compute: chunk number -> for each shard its rows.
        columns: of the records, in their order; what a row lacks stays empty.
        suffix: suffix of a file that `compute` itself writes beside each chunk's; a chunk without it is computed again.
        plan: the images of each chunk as indices into the dataset, to look at chunks of which no sums were kept.
        stop: asked before each chunk after the last that is there: whether enough has been collected.
        progress: called after each chunk, whether computed or found.

    Raises:
        WcxError: another process is writing the same records; a file must not be read.
    """
    with locked(shards):
        for shard in shards:
            _replay(shard.path, shards)
        checks = [_mended(shard, suffix, columns, plan) for shard in shards]
        sound = frozenset.intersection(*(check.sound for check in checks))
        committed = 1 + max(frozenset().union(*(check.sound for check in checks)), default=-1)
        for chunk in range(chunks):
            if chunk >= committed and stop():
                break
            if chunk not in sound:
                paths = [shard.chunk_path(chunk) for shard in shards]
                _commit(dict(zip(paths, compute(chunk), strict=True)), columns, suffix)
            progress(chunk)
        for shard in shards:
            inventory.finish(shard.path)


@contextmanager
def locked(shards: Sequence[Shard]) -> Iterator[None]:
    """Hold the shards for this process; the lock goes with the process, however it ends.

    Raises:
        WcxError: another process holds one of them.
    """
    with ExitStack() as stack:
        for shard in shards:
            shard.path.mkdir(parents=True, exist_ok=True)
            _hold(stack, shard.path)
        yield


def _hold(stack: ExitStack, folder: Path) -> None:
    try:
        stack.enter_context(files.locked(folder / ".lock"))
    except BlockingIOError as error:
        message = f"another process is writing {folder}{error}; wait for it, or give another paths.results_dir."
        raise WcxError(message) from error


def _mended(shard: Shard, suffix: str, columns: Sequence[str], plan: Sequence[Sequence[int]] | None) -> Check:
    """Set aside what is not what was committed; return what is left."""
    check = shard.check(suffix, columns, plan)
    for name, fault in check.faults.items():
        if (shard.path / name).exists():
            files.set_aside(shard.path / name, fault)
        else:
            log.warning("%s %s; computed again", shard.path / name, fault)
    return check


def _commit(tables: Mapping[Path, Sequence[dict[str, Any]]], columns: Sequence[str], suffix: str) -> None:
    """Write the chunks (file -> rows) so that after a kill, and `_replay`, either all of them are there or none."""
    folder = min(tables).parent
    texts = {path: _text(rows, columns) for path, rows in tables.items()}
    entries = {path: inventory.stamp(files.encoded(text), rows=len(tables[path])) for path, text in texts.items()}
    if suffix:
        attached = [path.with_suffix(suffix) for path in tables]
        entries |= {path: inventory.stamp(path.read_bytes()) for path in attached}
    named = [{os.path.relpath(path, folder): value for path, value in part.items()} for part in (texts, entries)]
    facts = dict(zip(("texts", "entries"), named, strict=True))
    write(folder / inventory.JOURNAL, json.dumps(facts | {"fingerprint": fingerprint(facts)}))
    _carry_out(folder, facts)


def _replay(folder: Path, shards: Sequence[Shard]) -> None:
    """Carry out what a journal in a folder tells, if there is one; set it aside if it is damaged."""
    journal = folder / inventory.JOURNAL
    if not journal.exists():
        return
    try:
        facts = json.loads(journal.read_bytes())
        intact = facts.pop("fingerprint") == fingerprint(facts)
    except (IsADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        intact = False
    if not intact:
        files.set_aside(journal, "is not what was written")
        return
    held = {os.path.normpath(shard.path) for shard in shards}
    with ExitStack() as stack:
        folders = {os.path.normpath((folder / name).parent) for name in facts["texts"]}
        for path in map(Path, folders - held):  # of cells that are not among those of this command
            if path.is_dir():
                _hold(stack, path)
        _carry_out(folder, facts)


def _carry_out(folder: Path, facts: dict[str, Any]) -> None:
    """Write the chunks of a journal, then the inventories of their folders; a folder that is gone is passed over."""
    notes: dict[Path, dict[str, Any]] = {}
    for name, text in facts["texts"].items():
        if (folder / name).parent.is_dir():
            write(folder / name, text)
    for name, entry in facts["entries"].items():
        notes.setdefault((folder / name).parent, {})[Path(name).name] = entry
    for place, entries in notes.items():
        if place.is_dir():
            inventory.note(place, entries)
    (folder / inventory.JOURNAL).unlink()


def _text(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    import pandas as pd

    return str(pd.DataFrame(rows, columns=list(columns)).to_csv(index=False, float_format=_FLOAT))
