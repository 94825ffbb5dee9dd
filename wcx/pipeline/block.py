"""A block at work: network and dataset of a job with the experiment on its cells, in whatever process an executor puts it."""

from __future__ import annotations

import io
import socket
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from wcx.errors import WcxError
from wcx.experiments import Cell
from wcx.experiments.base import Row
from wcx.experiments.images import Item
from wcx.manifest import manifest
from wcx.pipeline.job import Job
from wcx.records import fingerprint


@dataclass(frozen=True)
class Computed:
    """What comes of a chunk.

    Attributes:
        rows: of each cell.
        maps: of each cell the content of an .npz; none unless the job saves maps.
        passes: done for it, counted in images.
        made_with: versions, device, platform and commit of the process that computed it.
    """

    rows: list[list[Row]]
    maps: list[bytes]
    passes: Counter[str]
    made_with: dict[str, Any]

    @property
    def selected(self) -> int:
        """How many images are above the threshold."""
        return sum(bool(row.get("above_threshold")) for row in self.rows[0])


class OpenedBlock:
    """The experiment of a job on some of its cells.

    Args:
        job: opened in this process.
        cells: computed together.
    """

    def __init__(self, job: Job, cells: Sequence[Cell]) -> None:
        self.job, self.cells = job, list(cells)
        self._experiment, self._chunks = job.opened(cells), job.chunks()
        facts = manifest(self._experiment.subject.device)
        self._made_with = {name: fact for name, fact in facts.items() if name != "command"}  # that is the driver's
        self._computing = threading.Lock()

    @classmethod
    def reopened(cls, opener: Callable[[], Job], cells: Sequence[Cell], fingerprints: Sequence[str]) -> OpenedBlock:
        """Return the block of a job that was first opened elsewhere, with these fingerprints of its records.

        Raises:
            WcxError: dataset, weights or code are others here.
        """
        job = opener()
        if identity(job) != list(fingerprints):
            raise WcxError(
                f"node {socket.gethostname()} has other images, weights or code of {job.dataset.name} {job.loaded.name} than "
                f"the driver; give all nodes the same paths.data_dir, paths.weights_dir and checkpoints."
            )
        return cls(job, cells)

    def read(self, chunk: int) -> list[Item]:
        """Return the images of a chunk."""
        return self.job.read(self._chunks[chunk])

    def chunk(self, chunk: int, most: int | None) -> Computed:
        """Compute a chunk; a second thread may read the images of the next one meanwhile."""
        items = self.read(chunk)
        with self._computing:
            return self.compute(items, most)

    def compute(self, items: Sequence[Item], most: int | None) -> Computed:
        """Return the rows of a chunk's images, which end with the `most`-th selected one.

        Raises:
            WcxError: an image cannot be read (with on_error=stop).
        """
        _check_readable(self.job, items)
        maps: dict[Cell, list[tuple[int, np.ndarray]]] = {cell: [] for cell in self.cells}

        def keep(cell: Cell, index: int, attribution: Tensor) -> None:
            maps[cell].append((index, attribution.float().cpu().numpy()))

        passes, saves = self._experiment.subject.passes, self.job.save_maps
        passes.clear()
        rows = self._experiment.rows(items, most, keep if saves else None)
        contents = [_npz(maps[cell]) for cell in self.cells] if saves else []
        return Computed([rows[cell] for cell in self.cells], contents, passes.copy(), self._made_with)

    def plan(self, probe: int, images: int) -> dict[str, Any]:
        """Return what `images` more images cost, from a probe of the first few; see `Experiment.plan`."""
        items = [item for item in self.job.read(self._chunks[0][:probe]) if item.pixels is not None]
        return self._experiment.plan(items, images, self.job.limit_selected)


def identity(job: Job) -> list[str]:
    """Return what two openings of one job have in common: the fingerprints of its cells."""
    return [fingerprint(shard.parts) for shard in job.shards()]


def _check_readable(job: Job, items: Sequence[Item]) -> None:
    """Stop at an image that could not be read, unless such are to be skipped."""
    for item in items:
        if item.error is not None and job.on_error == "stop":
            raise WcxError(
                f"{item.error} What was computed is kept; or on_error=skip counts it, in records of their own."
            )


def _npz(maps: Sequence[tuple[int, np.ndarray]]) -> bytes:
    """Return an .npz of `index` (n,) and `maps` (n, T, ...), float32; both empty where no image was selected."""
    buffer = io.BytesIO()
    np.savez(buffer, index=np.array([i for i, _ in maps], dtype=np.int64), maps=np.array([m for _, m in maps]))
    return buffer.getvalue()
