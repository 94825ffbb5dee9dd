"""Per-image results on disk: append, resume, fingerprint.

A shard is one (dataset, model, method, contrast, experiment settings), in a folder of its own:

    <results>/records/<dataset>/<model>/<method>/<contrast>/<experiment>-<fingerprint>/
        shard.json        what it is: key, fingerprinted parts, labels for tables
        manifest.json     what it was made with: versions, device, seed, hashes, git commit
        config.yaml       the composed configuration (written by run.py and scripts/)
        chunk-00000.csv   one row an image; the unit of commit and resume
        complete.json     written last

The fingerprint covers everything that could change a number. Files appear whole or not at all, and the chunks of all
shards that were computed together are committed together (through a journal), so that a kill loses at most a chunk and
resuming repeats the same passes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wcx.errors import WcxError

if TYPE_CHECKING:
    import pandas as pd  # imported where it is needed, for a quick start

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
        """Whether all its chunks are there."""
        return (self.path / "complete.json").is_file()

    def chunks(self) -> int:
        """Return how many chunks are there."""
        return len(list(self.path.glob("chunk-*.csv")))

    def chunk_path(self, chunk: int) -> Path:
        """Return the file of one chunk."""
        return self.path / f"chunk-{chunk:05d}.csv"

    def read(self) -> pd.DataFrame:
        """Return the rows of all chunks that are there, sorted by the images' index in the dataset.

        Raises:
            WcxError: there are none yet.
        """
        chunks = sorted(self.path.glob("chunk-*.csv"))
        if not chunks:
            raise WcxError(f"no records in {self.path}; make them with run.py or scripts/.")
        import pandas as pd

        rows = pd.concat([_read(chunk) for chunk in chunks], ignore_index=True)
        return rows.sort_values("index", kind="stable", ignore_index=True)

    def describe(self, manifest: dict[str, Any], config: str = "") -> None:
        """Write shard.json, manifest.json and config.yaml."""
        self.path.mkdir(parents=True, exist_ok=True)
        write(self.path / "shard.json", self._about())
        write(self.path / "manifest.json", json.dumps(manifest, indent=1))
        if config:
            write(self.path / "config.yaml", config)

    def relabel(self) -> None:
        """Bring the labels of records that are there up to date: they are no part of the fingerprint."""
        file = self.path / "shard.json"
        if file.is_file() and file.read_text() != self._about():
            write(file, self._about())

    def _about(self) -> str:
        about = {"key": dict(zip(KEY, self.key, strict=True)), "experiment": self.experiment}
        about |= {"fingerprint": fingerprint(self.parts), "parts": self.parts, "labels": self.labels}
        return json.dumps(about, indent=1)


def find(root: Path, experiment: str | None = None) -> list[Shard]:
    """Return the shards under a results folder, ordered by path; only those of `experiment`, if given."""
    shards = []
    for file in sorted(Path(root).joinpath("records").glob("*/*/*/*/*/shard.json")):
        about = json.loads(file.read_text())
        if experiment in (None, about["experiment"]):
            key = tuple(about["key"][name] for name in KEY)
            shards.append(Shard(Path(root), key, about["experiment"], about["parts"], about["labels"]))
    return shards


def collect(
    shards: Sequence[Shard],
    chunks: int,
    compute: Callable[[int], Sequence[Sequence[dict[str, Any]]]],
    columns: Sequence[str],
    *,
    beside: str = "",
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda _chunk: None,
) -> None:
    """Fill the shards chunk by chunk, leaving out what is there already.

    Args:
        shards: computed together; nothing is done for a set that is complete.
        chunks: how many there are.
        compute: chunk number -> for each shard its rows.
        columns: of the records, in their order; what a row lacks stays empty.
        beside: suffix of a file that `compute` itself writes beside each chunk's; a chunk without it is computed again.
        stop: asked before each chunk, when the earlier ones are on disk: whether enough has been collected.
        progress: called after each chunk, whether computed or found.

    Raises:
        WcxError: another process is writing the same records.
    """
    with locked(shards):
        for shard in shards:
            _replay(shard)
        for chunk in range(chunks):
            if stop():
                break
            if not all(_there(shard.chunk_path(chunk), beside) for shard in shards):
                tables = compute(chunk)
                _commit(
                    {shard.chunk_path(chunk): _text(rows, columns) for shard, rows in zip(shards, tables, strict=True)}
                )
            progress(chunk)
        for shard in shards:
            done = shard.chunks()
            write(shard.path / "complete.json", json.dumps({"chunks": done, "rows": len(shard.read())}))


@contextmanager
def locked(shards: Sequence[Shard]) -> Iterator[None]:
    """Hold the shards for this process; the lock goes with the process, however it ends."""
    with ExitStack() as stack:
        for shard in shards:
            shard.path.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((shard.path / ".lock").open("w"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise WcxError(
                    f"another process is writing {shard.path}; wait for it, or give another paths.results_dir."
                ) from error
        yield


def write(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _there(path: Path, beside: str) -> bool:
    return path.is_file() and (not beside or path.with_suffix(beside).is_file())


def _commit(files: dict[Path, str]) -> None:
    """Write the files so that after a kill, and `_replay`, either all of them are there or none."""
    journal = min(files).parent / "journal.json"
    write(journal, json.dumps({os.path.relpath(path, journal.parent): text for path, text in files.items()}))
    _replay_journal(journal)


def _replay(shard: Shard) -> None:
    journal = shard.path / "journal.json"
    if journal.is_file():
        _replay_journal(journal)


def _replay_journal(journal: Path) -> None:
    for name, text in json.loads(journal.read_text()).items():
        write(journal.parent / name, text)
    journal.unlink()


def _text(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    import pandas as pd

    return pd.DataFrame(rows, columns=list(columns)).to_csv(index=False, float_format=_FLOAT)


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd

    return pd.read_csv(path, dtype={"id": str})
