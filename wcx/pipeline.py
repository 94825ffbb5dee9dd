"""A job: one (dataset, model) block of an experiment, where its records go, and the loop that fills them chunk by chunk."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from wcx import contrasts, methods, records
from wcx.datasets import ImageDataset
from wcx.errors import WcxError
from wcx.experiments import Cell, Experiment, Subject, images
from wcx.experiments.base import Row, check_method
from wcx.experiments.images import Item
from wcx.files import write
from wcx.inventory import Check
from wcx.manifest import manifest
from wcx.models import LoadedModel, label_map
from wcx.records import Shard

Progress = Callable[[int], object] | None  # of the images of each chunk that was computed


@dataclass(frozen=True)
class Job:
    """One (dataset, model) block of an experiment.

    Attributes:
        experiment: its class.
        dataset: the test split, opened.
        loaded: the model.
        cells: (method, contrast) pairs, computed together.
        settings: the protocol, an `experiment.protocol`.
        method_options: for each method by name.
        contrast_options: for each contrast by name.
        results_dir: where records go.
        dataset_label: the dataset's name in tables.
        limit: the first so many of a seeded permutation of the images.
        limit_selected: stop after so many images above the threshold.
        seed: of that permutation.
        batch_size: images a pass.
        chunk_size: images a chunk, the unit of commit and resume.
        num_workers: threads that decode images.
        on_error: ``stop`` at an image that cannot be read, or ``skip`` it and count it.
        save_maps: write the selected images' maps beside each chunk's records, as .npz.

    Raises:
        WcxError: a method, or a setting, that the experiment does not take.
    """

    experiment: type[Experiment]
    dataset: ImageDataset
    loaded: LoadedModel
    cells: Sequence[Cell]
    settings: Any
    method_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    contrast_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    results_dir: Path = Path("results")
    dataset_label: str = ""
    limit: int | None = None
    limit_selected: int | None = None
    seed: int = 0
    batch_size: int = 32
    chunk_size: int = 64
    num_workers: int = 2
    on_error: str = "stop"
    save_maps: bool = False

    def __post_init__(self) -> None:
        name = self.experiment.name()
        if self.save_maps and not self.experiment.keeps_maps:
            raise WcxError(f"save_maps=true: experiment {name} keeps no maps; leave it out.")
        if self.limit_selected is not None and not self.experiment.selects:
            raise WcxError(f"limit_selected: experiment {name} selects no images; give limit=... instead.")
        for cell in self.cells:
            check_method(self.experiment, cell.method)

    @property
    def suffix(self) -> str:
        """Suffix of the file that is written beside each chunk's records, or ""."""
        return ".npz" if self.save_maps else ""

    def subject(self, cells: Sequence[Cell]) -> Subject:
        """Return the model with the methods of cells."""
        names = dict.fromkeys(cell.method for cell in cells)
        created = {name: methods.create(name, **self.method_options.get(name, {})) for name in names}
        return Subject(self.loaded.model, self.loaded.layer, created, self.contrast_options, self.batch_size)

    def opened(self, cells: Sequence[Cell]) -> Experiment:
        """Return the experiment on some of the cells."""
        return self.experiment(self.subject(cells), cells, self.settings)

    def columns(self) -> list[str]:
        """Return the columns of the records, in their order."""
        return self.experiment.columns(self.settings, boxes=self.dataset.boxes is not None)

    def chunks(self) -> list[list[int]]:
        """Return the dataset indices of every chunk."""
        shuffled = self.limit_selected is not None
        return images.cut(images.order(len(self.dataset), self.limit, self.seed, shuffled), self.chunk_size)

    def shards(self) -> list[Shard]:
        """Return where the records of every cell go."""
        listing = self.dataset.listing_hash()
        return [self._shard(cell, listing) for cell in self.cells]

    def checks(self, shards: Sequence[Shard]) -> dict[Shard, Check]:
        """Return what is on disk of each shard, compared with what was committed; maps that were asked for, too."""
        columns, plan = self.columns(), self.chunks()
        return {shard: shard.check(self.suffix, columns, plan) for shard in shards}

    def missing(self, checks: Mapping[Shard, Check]) -> list[int]:
        """Return the numbers of the chunks that are not there, as they were committed, in all of the shards."""
        finished = all(shard.complete for shard in checks)  # once: no more chunks are wanted than there were
        count = max((check.chunks for check in checks.values()), default=0) if finished else len(self.chunks())
        return [chunk for chunk in range(count) if not all(chunk in check.sound for check in checks.values())]

    def left(self, shard: Shard, before: int | None = None) -> int | None:
        """Return how many more images above the threshold are wanted than stand in the chunks `before` one (None: in all).

        Read off the records themselves: the same after a resume. None means all.
        """
        if self.limit_selected is None or before == 0 or not shard.chunks():
            return self.limit_selected
        return max(0, self.limit_selected - int(shard.read(before)["above_threshold"].sum()))

    def subset(self) -> str:
        """Return what is to be said of the images beside every number; "" if all official ones were used."""
        notes = [self.dataset.subset] if self.dataset.subset else []
        if self.limit is not None and self.limit < len(self.dataset):
            notes.append(f"limit: {self.limit} of {len(self.dataset)} images")
        if self.limit_selected is not None:
            notes.append(f"limit_selected: {self.limit_selected}")
        return "; ".join(notes)

    def class_names(self) -> list[str]:
        """Return the names of the model's outputs."""
        return self.loaded.class_names or self.dataset.class_names

    def read(self, indices: Sequence[int]) -> list[Item]:
        """Return images of the dataset, labelled by the model's outputs.

        Raises:
            WcxError: the dataset has a class that the model's checkpoint does not know.
        """
        names = self.loaded.class_names
        labels = None if names is None else label_map(self.dataset.class_names, names).tolist()
        return list(images.read(self.dataset, indices, labels, self.num_workers))

    def options_of(self, contrast: str) -> dict[str, Any]:
        """Return all options of a contrast: a default that changes is another fingerprint."""
        return contrasts.get(contrast).defaults | dict(self.contrast_options.get(contrast, {}))

    def _shard(self, cell: Cell, listing: str) -> Shard:
        name, selects = self.dataset.name, self.experiment.selects
        counted = {
            name: options for name in self.experiment.counted(self.settings) if (options := self.options_of(name))
        }
        parts = {
            "experiment": self.experiment.name(),
            "version": self.experiment.version,
            "settings": _settings(self.settings),
            "dataset": listing,
            "transform": asdict(self.dataset.transform),
            "weights": self.loaded.weights_hash,
            "channels_last": self.loaded.channels_last,
            "method": dict(self.method_options.get(cell.method, {})),
            "contrast": self.options_of(cell.contrast),
            "chunk_size": self.chunk_size,
            "batch_size": self.batch_size,
            "on_error": self.on_error,
            "limit": [self.limit, *([self.limit_selected] if selects else []), self.seed],
            **({"layer": self.loaded.layer} if "activation" in self.experiment.spaces else {}),
            **({"equal_pair": counted} if counted else {}),
        }
        method = methods.create(cell.method, **self.method_options.get(cell.method, {}))
        if method.version > 1:  # the first kept its fingerprints
            parts["method_version"] = method.version
        labels = {
            "dataset": self.dataset_label or name,
            "weights": self.loaded.weights,
            "stand_in": self.loaded.stand_in,
            "subset": self.subset(),
            "accuracy": self.loaded.meta.get("accuracy"),
            "class_names": self.class_names(),
        }
        if meta := self.loaded.meta:  # fine-tuned by us
            labels |= {"seed": meta["seed"], "recipe": meta["recipe"]["name"]}
        return Shard(self.results_dir, (name, self.loaded.name, *cell), self.experiment.name(), parts, labels)


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
    shards, passes = job.shards(), Counter[str]()
    for shard in shards:
        shard.relabel()
    for checks in _together(job.checks(shards)):
        passes += _fill(job, checks, config, quiet, progress)
    return shards, passes


def _together(checks: Mapping[Shard, Check]) -> list[dict[Shard, Check]]:
    """Return what is computed together, on which the last bits depend: what is damaged, with all that was finished."""
    finished = {shard: check for shard, check in checks.items() if shard.complete}
    groups = [{shard: check for shard, check in checks.items() if not check.complete}]
    if any(check.faults for check in finished.values()):
        groups = [finished, {shard: check for shard, check in checks.items() if not shard.complete}]
    return [group for group in groups if group]


def _fill(job: Job, checks: Mapping[Shard, Check], config: str, quiet: bool, progress: Progress) -> Counter[str]:
    """Compute what is missing of some of the job's shards; return the passes done."""
    todo = {Cell(shard.key[2], shard.key[3]): shard for shard in checks}
    experiment, first = job.opened(list(todo)), next(iter(checks))
    for shard in (shard for shard, check in checks.items() if not check.complete):
        facts = {"fingerprint": records.fingerprint(shard.parts), "seed": job.seed, "layer": job.loaded.layer}
        loaded = {"weights": job.loaded.weights, "weights_hash": job.loaded.weights_hash}
        facts |= {"dataset_listing": shard.parts["dataset"]} | loaded
        shard.describe(manifest(experiment.subject.device, **facts), config)
    chunks, missing = job.chunks(), set(job.missing(checks))
    done = sum(len(indices) for chunk, indices in enumerate(chunks) if chunk not in missing)
    name, hidden = f"{job.dataset.name} {job.loaded.name}", quiet or progress is not None
    total = sum(map(len, chunks))
    bar = tqdm(total=total, initial=done, unit="image", desc=name, disable=hidden, smoothing=0.05)

    def compute(chunk: int) -> list[list[Row]]:
        items = ahead.chunk(chunk)
        _check_readable(job, items)
        maps: dict[Cell, list[tuple[int, np.ndarray]]] = {cell: [] for cell in todo}

        def keep(cell: Cell, index: int, attribution: Tensor) -> None:
            maps[cell].append((index, attribution.float().cpu().numpy()))

        rows = experiment.rows(items, job.left(first, chunk), keep if job.save_maps else None)
        for cell, shard in todo.items() if job.save_maps else ():
            write(shard.chunk_path(chunk).with_suffix(job.suffix), _npz(maps[cell]))
        return [rows[cell] for cell in todo]

    def tell(chunk: int) -> None:
        if chunk in missing:
            (progress or bar.update)(len(chunks[chunk]))

    with bar, images.Ahead(lambda chunk: job.read(chunks[chunk]), len(chunks)) as ahead:
        records.collect(
            list(checks),
            len(chunks),
            compute,
            job.columns(),
            suffix=job.suffix,
            plan=chunks,
            stop=lambda: job.left(first) == 0,
            progress=tell,
        )
    return experiment.subject.passes


def plan(job: Job, probe: int = 16) -> dict[str, Any]:
    """Return what a block costs: images, passes, seconds and disk, from a probe of the first few images."""
    shards, chunks = job.shards(), job.chunks()
    checks = {shard: check for shard, check in job.checks(shards).items() if not check.complete}
    todo = [Cell(shard.key[2], shard.key[3]) for shard in checks]
    images_left = sum(len(chunks[chunk]) for chunk in job.missing(checks))
    items = [item for item in job.read(chunks[0][:probe]) if item.pixels is not None]
    estimate = job.opened(todo).plan(items, images_left, job.limit_selected) if todo else {"seconds": 0}
    return {
        "dataset": job.dataset.name,
        "model": job.loaded.name,
        "cells": len(shards),
        "complete": len(shards) - len(todo),
        "images": sum(map(len, chunks)),
        "images_left": images_left,
        **estimate,
    }


def _settings(settings: Any) -> dict[str, Any]:
    """Return settings as they come back from a file; without those that are younger than records and at their default."""
    values = asdict(settings)
    younger = [f.name for f in fields(settings) if f.metadata.get("later") and values[f.name] == f.default]
    stated: dict[str, Any] = json.loads(json.dumps({key: value for key, value in values.items() if key not in younger}))
    return stated


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
