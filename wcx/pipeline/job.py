"""What every experiment shares: a job, where its records go, and the loop that fills them chunk by chunk."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from tqdm import tqdm

from wcx import contrasts, methods, records
from wcx.datasets import ImageDataset
from wcx.errors import WcxError
from wcx.experiments import items
from wcx.experiments.items import Item
from wcx.experiments.protocol import Cell
from wcx.manifest import manifest
from wcx.methods import Method
from wcx.models import LoadedModel, label_map
from wcx.records import Check, Shard

Progress = Callable[[int], object] | None  # of the images of each chunk that was computed


class Engine(Protocol):
    """What measures: an experiment's own, on one device.

    Attributes:
        cells: what it computes, together.
        passes: network passes done, in images.
    """

    device: torch.device
    cells: Sequence[Cell]
    passes: Counter[str]


@dataclass(frozen=True)
class Job(ABC):
    """One (dataset, model) block of an experiment. A subclass names the experiment and says how a chunk is computed.

    Attributes:
        dataset: the test split, opened.
        loaded: the model.
        cells: (method, contrast) pairs, computed together.
        settings: the protocol, a dataclass of the experiment's.
        method_options: for each method by name.
        contrast_options: for each contrast by name.
        results_dir: where records go.
        dataset_label: the dataset's name in tables.
        limit: the first so many of a seeded permutation of the images.
        seed: of that permutation.
        batch_size: images a pass.
        chunk_size: images a chunk, the unit of commit and resume.
        num_workers: threads that decode images.
        on_error: ``stop`` at an image that cannot be read, or ``skip`` it and count it.
    """

    experiment: ClassVar[str]
    version: ClassVar[int]  # part of the fingerprint: the experiment's own
    space: ClassVar[str]  # of the methods that the experiment takes
    beside: ClassVar[str] = ""  # suffix of a file that `rows` writes beside each chunk's

    dataset: ImageDataset
    loaded: LoadedModel
    cells: Sequence[Cell]
    settings: Any
    method_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    contrast_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    results_dir: Path = Path("results")
    dataset_label: str = ""
    limit: int | None = None
    seed: int = 0
    batch_size: int = 32
    chunk_size: int = 64
    num_workers: int = 2
    on_error: str = "stop"

    @abstractmethod
    def engine(self) -> Engine:
        """Return the experiment's engine for these cells."""

    @abstractmethod
    def columns(self) -> list[str]:
        """Return the columns of the records, in their order."""

    @abstractmethod
    def rows(self, engine: Any, batch: Sequence[Item], chunk: int, shards: Sequence[Shard]) -> list[list[dict]]:
        """Compute one chunk; return for each of `engine.cells`, whose records go to `shards`, its rows."""

    @abstractmethod
    def plan(self, engine: Any, todo: int, images: int, probe: Sequence[Item]) -> dict[str, Any]:
        """Return passes, seconds and disk of `images` under `todo` cells, estimated from a `probe` of a few images."""

    def own_parts(self) -> dict[str, Any]:
        """Return what is fingerprinted beside the parts of every experiment."""
        return {"limit": [self.limit, self.seed]}

    def checks(self, shards: Sequence[Shard]) -> dict[Shard, Check]:
        """Return what is on disk of each shard, compared with what was committed."""
        columns, plan = self.columns(), self.chunks()
        return {shard: shard.check(self.beside, columns, plan) for shard in shards}

    def options_of(self, contrast: str) -> dict[str, Any]:
        """Return all options of a contrast: a default that changes is another fingerprint."""
        return contrasts.get(contrast).defaults | dict(self.contrast_options.get(contrast, {}))

    def stop(self, _todo: Sequence[Shard]) -> Callable[[], bool]:
        """Return what is asked before each chunk: whether enough has been collected."""
        return lambda: False

    def notes(self) -> list[str]:
        """Return what is to be said of the images beside every number, a part each."""
        notes = [self.dataset.subset] if self.dataset.subset else []
        if self.limit is not None and self.limit < len(self.dataset):
            notes.append(f"limit: {self.limit} of {len(self.dataset)} images")
        return notes

    def methods(self) -> dict[str, Method]:
        """Return the cells' methods by name.

        Raises:
            WcxError: a method that the experiment does not take.
        """
        names = list(dict.fromkeys(cell.method for cell in self.cells))
        for name in names:
            check_method(self.experiment, self.space, name)
        return {name: methods.create(name, **self.method_options.get(name, {})) for name in names}

    def chunks(self) -> list[list[int]]:
        """Return the dataset indices of every chunk."""
        return items.cut(items.order(len(self.dataset), self.limit, self.seed), self.chunk_size)

    def missing(self, checks: Mapping[Shard, Check]) -> list[int]:
        """Return the numbers of the chunks that are not there, as they were committed, in all of the shards."""
        finished = all(shard.complete for shard in checks)  # once: no more chunks are wanted than there were
        count = max((check.chunks for check in checks.values()), default=0) if finished else len(self.chunks())
        return [chunk for chunk in range(count) if not all(chunk in check.sound for check in checks.values())]

    def shards(self) -> list[Shard]:
        """Return where the records of every cell go."""
        listing = self.dataset.listing_hash()
        return [self._shard(cell, listing) for cell in self.cells]

    def _shard(self, cell: Cell, listing: str) -> Shard:
        name = self.dataset.name
        parts = {
            "experiment": self.experiment,
            "version": self.version,
            "settings": json.loads(json.dumps(asdict(self.settings))),  # as they come back from a file
            "dataset": listing,
            "transform": asdict(self.dataset.transform),
            "weights": self.loaded.weights_hash,
            "channels_last": self.loaded.channels_last,
            "method": dict(self.method_options.get(cell.method, {})),
            "contrast": self.options_of(cell.contrast),
            "chunk_size": self.chunk_size,
            "batch_size": self.batch_size,
            "on_error": self.on_error,
            **self.own_parts(),
        }
        if (version := getattr(self.methods()[cell.method], "version", 1)) > 1:  # the first kept its fingerprints
            parts["method_version"] = version
        labels = {
            "dataset": self.dataset_label or name,
            "weights": self.loaded.weights,
            "stand_in": self.loaded.stand_in,
            "subset": subset_label(self),
            "accuracy": self.loaded.meta.get("accuracy"),
            "class_names": self.loaded.class_names or self.dataset.class_names,
        }
        if meta := self.loaded.meta:  # fine-tuned by us
            labels |= {"seed": meta["seed"], "recipe": meta["recipe"]["name"]}
        return Shard(self.results_dir, (name, self.loaded.name, *cell), self.experiment, parts, labels)


def methods_of(space: str) -> list[str]:
    """Return the names of the methods whose explanations lie in ``input`` or ``activation`` space."""
    return [name for name in methods.names() if methods.get(name).space == space]


def check_method(experiment: str, space: str, method: str) -> None:
    """Check that an experiment, which takes methods of `space`, takes this one.

    Raises:
        WcxError: it does not.
    """
    if methods.get(method).space != space:
        choices = ", ".join(methods_of(space))
        raise WcxError(f"experiment {experiment} needs an {space} method, not {method}; try: {choices}.")


def subset_label(job: Job) -> str:
    """Return what is to be said of the images beside every number; "" if all official ones were used."""
    return "; ".join(job.notes())


def output_labels(job: Job) -> list[int] | None:
    """Return the model's output for each of the dataset's classes, by name; None if the model does not name its own.

    Raises:
        WcxError: the dataset has a class that the checkpoint does not know.
    """
    if job.loaded.class_names is None:
        return None
    return label_map(job.dataset.class_names, job.loaded.class_names).tolist()


def run(job: Job, config: str = "", quiet: bool = False, progress: Progress = None) -> tuple[list[Shard], Counter[str]]:
    """Compute the records of a block, or what is missing of them.

    Args:
        job: what to compute.
        config: the composed configuration as text, kept beside the records.
        quiet: no progress bar.
        progress: called with the number of images of each chunk that has been computed; then there is no progress bar.

    Returns:
        the shards in the order of `job.cells`, and the network passes done, counted in images.

    Raises:
        WcxError: cells that do not fit; an image that cannot be read (with on_error=stop; what was computed is kept).
    """
    engine, shards = job.engine(), job.shards()
    for shard in shards:
        shard.relabel()
    for todo in _together(job.checks(shards)):
        engine.cells = [Cell(*shard.key[2:]) for shard in todo]
        _fill(job, engine, todo, config, quiet, progress)
    return shards, engine.passes


def _together(checks: Mapping[Shard, Check]) -> list[dict[Shard, Check]]:
    """Return what is computed together, on which the last bits depend: what is damaged, with all that was finished."""
    finished = {shard: check for shard, check in checks.items() if shard.complete}
    groups = [{shard: check for shard, check in checks.items() if not check.complete}]
    if any(check.faults for check in finished.values()):
        groups = [finished, {shard: check for shard, check in checks.items() if not shard.complete}]
    return [group for group in groups if group]


def _fill(
    job: Job, engine: Engine, checks: Mapping[Shard, Check], config: str, quiet: bool, progress: Progress
) -> None:
    """Compute what is missing of some of the job's shards, those of `engine.cells`."""
    for shard in (shard for shard, check in checks.items() if not check.complete):
        facts = {"fingerprint": records.fingerprint(shard.parts), "seed": job.seed, "layer": job.loaded.layer}
        facts |= {"dataset_listing": shard.parts["dataset"], "weights_hash": shard.parts["weights"]}
        shard.describe(manifest(engine.device, weights=job.loaded.weights, **facts), config)
    todo, plan, missing = list(checks), job.chunks(), set(job.missing(checks))
    found = sum(len(indices) for chunk, indices in enumerate(plan) if chunk not in missing)
    name, hidden = f"{job.dataset.name} {job.loaded.name}", quiet or progress is not None
    total, labels = sum(map(len, plan)), output_labels(job)
    bar = tqdm(total=total, initial=found, unit="image", desc=name, disable=hidden, smoothing=0.05)

    def read(chunk: int) -> list[Item]:
        return list(items.read(job.dataset, plan[chunk], labels, job.num_workers))

    with bar, items.Ahead(read, len(plan)) as ahead:
        records.collect(
            todo,
            len(plan),
            lambda chunk: job.rows(engine, _readable(job, ahead.chunk(chunk)), chunk, todo),
            job.columns(),
            beside=job.beside,
            plan=plan,
            stop=job.stop(todo),
            progress=lambda chunk: (progress or bar.update)(len(plan[chunk])) if chunk in missing else None,
        )


def _readable(job: Job, batch: Sequence[Item]) -> Sequence[Item]:
    """Return the batch if all of it could be read, or unreadable images are to be skipped."""
    errors = [item.error for item in batch if item.error is not None]
    if errors and job.on_error == "stop":
        message = "What was computed is kept; or on_error=skip counts it, in records of their own."
        raise WcxError(f"{errors[0]} {message}")
    return batch


def plan(job: Job, probe: int = 16) -> dict[str, Any]:
    """Return what a block costs: images, passes, seconds and disk, from a probe of the first few images."""
    engine, shards = job.engine(), job.shards()
    chunks, checks = job.chunks(), {shard: check for shard, check in job.checks(shards).items() if not check.complete}
    some = items.read(job.dataset, chunks[0][:probe], output_labels(job), job.num_workers)
    left = sum(len(chunks[chunk]) for chunk in job.missing(checks))
    return {
        "dataset": job.dataset.name,
        "model": job.loaded.name,
        "cells": len(shards),
        "complete": len(shards) - len(checks),
        "images": sum(map(len, chunks)),
        "images_left": left,
        **job.plan(engine, len(checks), left, [item for item in some if item.pixels is not None]),
    }
