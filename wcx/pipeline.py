"""From opened datasets and loaded models to records: what run.py and scripts/ call, with plain arguments."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from wcx import methods, records
from wcx.datasets import ImageDataset
from wcx.errors import WcxError
from wcx.experiments import items, masking
from wcx.experiments.masking import Masking
from wcx.experiments.protocol import KEPT, Cell, Settings
from wcx.manifest import manifest
from wcx.models import LoadedModel, label_map
from wcx.report.selected import Sample


@dataclass(frozen=True)
class Job:
    """One (dataset, model) block of the masking experiment.

    Attributes:
        dataset: the test split, opened.
        loaded: the model.
        cells: (method, contrast) pairs, computed together.
        settings: the protocol.
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
        save_maps: write the selected images' maps, at the layer's resolution, beside each chunk's records, as .npz.
    """

    dataset: ImageDataset
    loaded: LoadedModel
    cells: Sequence[Cell]
    settings: Settings
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

    def engine(self) -> Masking:
        """Return the masking engine for these cells."""
        names = dict.fromkeys(cell.method for cell in self.cells)
        made = {name: methods.create(name, **self.method_options.get(name, {})) for name in names}
        for name, method in made.items():
            if method.space != "activation":
                choices = ", ".join(activation_methods())
                raise WcxError(f"masking needs an activation method; {name} goes back to the input; try: {choices}.")
        normalized = self.loaded.model
        zero = normalized.mean.flatten().tolist()
        options = {name: dict(values) for name, values in self.contrast_options.items()}
        return Masking(
            normalized,
            self.loaded.layer,
            made,
            self.cells,
            self.settings,
            zero,
            options,
            self.batch_size,
            self.save_maps,
        )

    def chunks(self) -> list[list[int]]:
        """Return the dataset indices of every chunk."""
        indices = items.order(len(self.dataset), self.limit, self.seed, shuffled=self.limit_selected is not None)
        return items.cut(indices, self.chunk_size)

    def shards(self) -> list[records.Shard]:
        """Return where the records of every cell go."""
        listing = self.dataset.listing_hash()
        return [self._shard(cell, listing) for cell in self.cells]

    def _shard(self, cell: Cell, listing: str) -> records.Shard:
        name = self.dataset.name
        parts = {
            "experiment": "masking",
            "version": masking.VERSION,
            "settings": asdict(self.settings),
            "dataset": listing,
            "transform": asdict(self.dataset.transform),
            "limit": [self.limit, self.limit_selected, self.seed],
            "weights": self.loaded.weights_hash,
            "channels_last": self.loaded.channels_last,
            "layer": self.loaded.layer,
            "method": dict(self.method_options.get(cell.method, {})),
            "contrast": dict(self.contrast_options.get(cell.contrast, {})),
            "chunk_size": self.chunk_size,
            "batch_size": self.batch_size,
            "on_error": self.on_error,
        }
        labels = {
            "dataset": self.dataset_label or name,
            "weights": self.loaded.weights,
            "stand_in": self.loaded.stand_in,
            "subset": subset_label(self),
            "accuracy": self.loaded.meta.get("accuracy"),
            "class_names": self.loaded.class_names or self.dataset.class_names,
        }
        return records.Shard(self.results_dir, (name, self.loaded.name, *cell), "masking", parts, labels)


def activation_methods() -> list[str]:
    """Return the names of the methods that the masking experiment takes."""
    return [name for name in methods.names() if methods.get(name).space == "activation"]


def subset_label(job: Job) -> str:
    """Return what is to be said of the images beside every number; "" if all official ones were used."""
    notes = [job.dataset.subset] if job.dataset.subset else []
    if job.limit is not None and job.limit < len(job.dataset):
        notes.append(f"limit: {job.limit} of {len(job.dataset)} images")
    if job.limit_selected is not None:
        notes.append(f"limit_selected: {job.limit_selected}")
    return "; ".join(notes)


def run_masking(job: Job, config: str = "", quiet: bool = False) -> tuple[list[records.Shard], Counter[str]]:
    """Compute the records of a block, or what is missing of them.

    Returns:
        the shards in the order of `job.cells`, and the network passes done, counted in images.

    Raises:
        WcxError: cells that do not fit; an image that cannot be read (with on_error=stop; what was computed is kept).
    """
    engine = job.engine()
    shards = job.shards()
    todo = [shard for shard in shards if not shard.complete or (job.save_maps and not _has_maps(shard))]
    if not todo:
        return shards, engine.passes
    engine.cells = [cell for cell, shard in zip(job.cells, shards, strict=True) if shard in todo]
    for shard in todo:
        facts = {"fingerprint": records.fingerprint(shard.parts), "seed": job.seed, "layer": job.loaded.layer}
        facts |= {"dataset_listing": shard.parts["dataset"]}
        facts |= {"weights": job.loaded.weights, "weights_hash": job.loaded.weights_hash}
        shard.describe(manifest(engine.device, **facts), config)
    plan = job.chunks()
    labels = output_labels(job)
    bar = tqdm(
        total=sum(map(len, plan)),
        unit="image",
        desc=f"{job.dataset.name} {job.loaded.name}",
        disable=quiet,
        smoothing=0.05,
    )
    selected = _Selected(todo[0], job.limit_selected)

    def compute(chunk: int) -> list[list[dict[str, Any]]]:
        batch = list(items.read(job.dataset, plan[chunk], labels, job.num_workers))
        for item in batch:
            if item.error is not None and job.on_error == "stop":
                raise WcxError(
                    f"{item.error} (on_error=skip records it as skipped and goes on; nothing computed is lost)"
                )
        rows = engine.chunk(batch, selected.left())
        for cell, shard in zip(engine.cells, todo, strict=True) if job.save_maps else ():
            records.write(shard.chunk_path(chunk).with_suffix(".npz"), _npz(engine.maps[cell]))
        return [rows[cell] for cell in engine.cells]

    with bar:
        records.collect(
            todo,
            len(plan),
            compute,
            job.settings.columns(boxes=job.dataset.boxes is not None),
            beside=".npz" if job.save_maps else "",
            stop=lambda: selected.left() == 0,
            progress=lambda c: bar.update(len(plan[c])),
        )
    return shards, engine.passes


def output_labels(job: Job) -> list[int] | None:
    """Return the model's output for each of the dataset's classes, by name; None if the model does not name its own.

    Raises:
        WcxError: the dataset has a class that the checkpoint does not know.
    """
    if job.loaded.class_names is None:
        return None
    return label_map(job.dataset.class_names, job.loaded.class_names).tolist()


class _Selected:
    """How many more images above the threshold are wanted, read off the records themselves: the same after a resume."""

    def __init__(self, shard: records.Shard, most: int | None) -> None:
        self._shard, self._most = shard, most

    def left(self) -> int | None:
        if self._most is None:
            return None
        if not self._shard.chunks():
            return self._most
        return max(0, self._most - int(self._shard.read()["above_threshold"].sum()))


def _has_maps(shard: records.Shard) -> bool:
    return all(file.with_suffix(".npz").is_file() for file in shard.path.glob("chunk-*.csv"))


def _npz(maps: Sequence[tuple[int, np.ndarray]]) -> bytes:
    """Return an .npz of `index` (n,) and `maps` (n, T, h, w), float32; both empty where no image was selected."""
    buffer = io.BytesIO()
    np.savez(buffer, index=np.array([i for i, _ in maps], dtype=np.int64), maps=np.array([one for _, one in maps]))
    return buffer.getvalue()


def samples(job: Job, shards: Sequence[records.Shard], most: int = 8) -> list[Sample]:
    """Return the first images above the threshold with the maps of the shards (of one method), for `report.selected`."""
    rows = shards[0].read().query("above_threshold").head(most)
    if rows.empty:
        return []
    engine, cells = job.engine(), [Cell(shard.key[2], shard.key[3]) for shard in shards]
    names = job.loaded.class_names or job.dataset.class_names
    some = list(items.read(job.dataset, rows["index"].tolist(), output_labels(job), job.num_workers))
    pixels = torch.stack([item.pixels for item in some]).to(engine.device)
    maps = engine.explain(pixels, cells)
    found = []
    for i, (_, row) in enumerate(rows.iterrows()):
        classes = [names[row[rank]] for rank in job.settings.ranks]
        probabilities = [row[f"p_{rank}"] for rank in job.settings.ranks]
        own = {cell.contrast: maps[cell][:, i] for cell in cells}
        found.append(Sample(pixels[i], own, classes, probabilities, names[row["label"]]))
    return found


def plan_masking(job: Job, probe: int = 16) -> dict[str, Any]:
    """Return what a block costs: images, passes, seconds and disk, from a probe of the first few images."""
    engine, shards = job.engine(), job.shards()
    plan = job.chunks()
    images = sum(map(len, plan))
    some = list(items.read(job.dataset, plan[0][:probe], output_labels(job), job.num_workers))
    some = [item for item in some if item.pixels is not None]
    start = time.perf_counter()
    with torch.no_grad():
        logits = engine.model(torch.stack([item.pixels for item in some]).to(engine.device))
    seconds = (time.perf_counter() - start) / len(some)
    above = float((logits.softmax(1).topk(2).values[:, 1] > job.settings.threshold).double().mean())
    expected = images if job.settings.select == "all" else round(above * images)
    if job.limit_selected is not None:
        expected = min(expected, job.limit_selected)
    todo = [shard for shard in shards if not shard.complete]
    masked = expected * len(todo) * job.settings.targets * len(KEPT) * len(job.settings.baselines)
    forward = images if todo else 0
    return {
        "dataset": job.dataset.name,
        "model": job.loaded.name,
        "cells": len(shards),
        "complete": len(shards) - len(todo),
        "images": images,
        "above_threshold": f"about {expected} (probe of {len(some)})",
        "forward_passes": forward,
        "masked_passes": f"at most about {masked}",
        "seconds": f"about {(forward + masked) * seconds:.0f}",
        "megabytes": f"about {len(todo) * images * 0.0006:.1f}",
    }
