"""An executor computes the chunks of blocks somewhere: here in this process, or as tasks that Ray gives to its workers.

The records are written by the process that asks (the driver) alone, in the order of the chunks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import torch

from wcx.experiments import Cell, images
from wcx.pipeline.block import Computed, OpenedBlock
from wcx.pipeline.job import Job


class Executor(ABC):
    """Where chunks are computed. It is a context: what it started ends with it.

    Attributes:
        blocks: how many blocks a runner keeps under way, so that no worker waits for the end of one.
        workers: how many chunks are computed at once.
        on_gpu: whether on GPUs; None: where this process's jobs are.
    """

    blocks: ClassVar[int] = 1
    workers: int = 1
    on_gpu: bool | None = None

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027
        """End what was started; who still waits for a chunk gets a CancelledError."""

    @abstractmethod
    def chunks(
        self, job: Job, cells: Sequence[Cell], missing: Sequence[int], most: Callable[[int], int | None]
    ) -> AbstractContextManager[Callable[[int], Computed]]:
        """Open a block; inside of the context, the function returned computes a chunk.

        Args:
            job: of the block, opened in this process.
            cells: computed together.
            missing: the chunks that will be asked for, in this order, or some of them.
            most: of a chunk: its rows end with so many selected images. It counts when the chunk is asked for, at which time
                all chunks before it are committed; None means all.
        """

    @abstractmethod
    def plan(self, job: Job, cells: Sequence[Cell], probe: int, images: int) -> dict[str, Any]:
        """Return what images of a block cost where they would be computed; see `OpenedBlock.plan`."""


class Local(Executor):
    """This process, chunk after chunk; the images of the next one are read meanwhile.

    Args:
        threads: of a pass on the CPU; None leaves what torch chose.
    """

    def __init__(self, threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)

    @contextmanager
    def chunks(
        self, job: Job, cells: Sequence[Cell], missing: Sequence[int], most: Callable[[int], int | None]
    ) -> Iterator[Callable[[int], Computed]]:
        block = OpenedBlock(job, cells)
        with images.Ahead(block.read, max(missing, default=-1) + 1) as ahead:
            yield lambda chunk: block.compute(ahead.chunk(chunk), most(chunk))

    def plan(self, job: Job, cells: Sequence[Cell], probe: int, images: int) -> dict[str, Any]:
        return OpenedBlock(job, cells).plan(probe, images)
