"""Images on their way into an experiment: their order, their chunks, and reading them ahead of the network."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from wcx.datasets import ImageDataset
from wcx.datasets.anatomy import Anatomy
from wcx.datasets.cub import Cub
from wcx.datasets.twins import TwinImages, Twins
from wcx.errors import DataError, WcxError


@dataclass
class Item:
    """One image: its place in the dataset, its label among the model's outputs, and its pixels or what kept them away.

    Attributes:
        pixels: (3, H, W) in [0, 1]; None if the file could not be read.
        box: x, y, w, h of the object in pixels, where the dataset knows it.
        error: what reading raised.
        twins: the image with parts in their other look, their classes among the model's outputs; where they are asked for.
        anatomy: where its parts are, classes among the model's outputs; where it is asked for.
    """

    index: int
    id: str
    label: int
    pixels: Tensor | None
    box: np.ndarray | None = None
    error: DataError | None = None
    twins: TwinImages | None = None
    anatomy: Anatomy | None = None


def stacked(items: Sequence[Item]) -> Tensor:
    """Return the pixels of the images that could be read, (N, channels, H, W)."""
    return torch.stack([item.pixels for item in items if item.pixels is not None])


def order(n: int, limit: int | None, seed: int, shuffled: bool = False) -> list[int]:
    """Return the dataset indices of an experiment: all, or the first `limit` of a seeded permutation (nested).

    The whole dataset comes in its own order, unless `shuffled` (for an experiment that stops early).
    """
    if limit is None and not shuffled:
        return list(range(n))
    return [int(index) for index in np.random.default_rng(seed).permutation(n)[:limit]]


def cut(indices: Sequence[int], size: int) -> list[list[int]]:
    """Return consecutive chunks of `size` indices; the last may be shorter."""
    return [list(indices[start : start + size]) for start in range(0, len(indices), size)]


def mapped(dataset: ImageDataset, outputs: Sequence[int | None] | None) -> list[int]:
    """Return the indices of the images whose class has an output, see `LoadedModel.outputs`.

    Raises:
        WcxError: there is none.
    """
    indices = [i for i, label in enumerate(dataset.labels) if outputs is None or outputs[label] is not None]
    if not indices:
        raise WcxError(f"no class of {dataset.name} has an output of this network; check class_map.")
    return indices


def read(
    dataset: ImageDataset,
    indices: Sequence[int],
    labels: Sequence[int | None] | None = None,
    workers: int = 1,
    needs_twins: bool = False,
    anatomy: Mapping[int, int] | None = None,
) -> Iterator[Item]:
    """Yield the images in the order of `indices`, decoded by `workers` threads some way ahead.

    Args:
        dataset: opened with its transform.
        indices: into the dataset.
        labels: the model's output for each of the dataset's classes, -1 or None where it has none; None if they are the same.
        workers: threads; Pillow decodes outside Python's lock.
        needs_twins: of a dataset that has them: the twins of each image that has some, too.
        anatomy: of a dataset that knows it: where each image's parts are, too, given which of its classes the outputs are.
    """

    def one(index: int) -> Item:
        label = outputs[dataset.labels[index]]
        try:
            item = Item(index, dataset.ids[index], label, dataset[index][0], dataset.box(index))
            if needs_twins and isinstance(dataset, Twins) and dataset.swaps(index):
                twins = dataset.twins(index)
                item.twins = replace(twins, labels=tuple(outputs[twin] for twin in twins.labels))
            if anatomy is not None and isinstance(dataset, Cub):
                item.anatomy = replace(dataset.anatomy(index), classes=anatomy)
            return item
        except DataError as error:
            return Item(index, dataset.ids[index], label, None, error=error)

    known = range(len(dataset.class_names)) if labels is None else labels
    outputs = [-1 if output is None else output for output in known]
    workers = max(1, workers)
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[Item]] = deque()
        for index in indices:
            ahead.append(pool.submit(one, index))
            if len(ahead) > 16 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


class Ahead:
    """Reads the chunk after the one that is being computed, so that the network need not wait.

    Args:
        read: chunk number -> its images.
        chunks: how many there are.
    """

    def __init__(self, read: Callable[[int], list[Item]], chunks: int) -> None:
        self._read, self._chunks = read, chunks
        self._pool = ThreadPoolExecutor(1)
        self._next: tuple[int, Future[list[Item]]] | None = None

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def chunk(self, chunk: int) -> list[Item]:
        """Return the images of a chunk, and begin to read the next."""
        expected = self._next
        batch = expected[1].result() if expected is not None and expected[0] == chunk else self._read(chunk)
        later = chunk + 1
        self._next = (later, self._pool.submit(self._read, later)) if later < self._chunks else None
        return batch
