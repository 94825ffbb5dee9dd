"""The masking experiment's job (Table 1), and the images for its figures."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from wcx import records
from wcx.experiments import items, masking
from wcx.experiments.items import Item
from wcx.experiments.masking import Masking
from wcx.experiments.protocol import KEPT, Cell, Settings
from wcx.pipeline.job import Job, methods_of, output_labels, plan, run

if TYPE_CHECKING:
    from wcx.report.selected import Sample  # imported where it is needed: matplotlib is slow to import


@dataclass(frozen=True)
class MaskingJob(Job):
    """One (dataset, model) block of the masking experiment.

    Attributes:
        limit_selected: stop after so many images above the threshold.
        save_maps: write the selected images' maps, at the layer's resolution, beside each chunk's records, as .npz.
    """

    experiment: ClassVar[str] = "masking"
    version: ClassVar[int] = masking.VERSION
    space: ClassVar[str] = "activation"

    settings: Settings
    limit_selected: int | None = None
    save_maps: bool = False

    @property
    def beside(self) -> str:
        """See `Job`."""
        return ".npz" if self.save_maps else ""

    def engine(self) -> Masking:
        """Return the masking engine for these cells."""
        normalized = self.loaded.model
        return Masking(
            normalized,
            self.loaded.layer,
            self.methods(),
            self.cells,
            self.settings,
            normalized.mean.flatten().tolist(),
            {name: dict(values) for name, values in self.contrast_options.items()},
            self.batch_size,
            self.save_maps,
        )

    def columns(self) -> list[str]:
        """See `Job.columns`."""
        return self.settings.columns(boxes=self.dataset.boxes is not None)

    def own_parts(self) -> dict[str, Any]:
        """See `Job.own_parts`."""
        parts = {"limit": [self.limit, self.limit_selected, self.seed], "layer": self.loaded.layer}
        pair = self.settings.equal_pair if self.settings.mask == "equal" else ()
        counted = {name: options for name in pair if (options := self.options_of(name))}
        return parts | ({"equal_pair": counted} if counted else {})  # its counts are every cell's

    def notes(self) -> list[str]:
        """See `Job.notes`."""
        limit = [] if self.limit_selected is None else [f"limit_selected: {self.limit_selected}"]
        return super().notes() + limit

    def chunks(self) -> list[list[int]]:
        """Return the dataset indices of every chunk."""
        indices = items.order(len(self.dataset), self.limit, self.seed, shuffled=self.limit_selected is not None)
        return items.cut(indices, self.chunk_size)

    def stop(self, todo: Sequence[records.Shard]) -> Callable[[], bool]:
        """See `Job.stop`."""
        return lambda: self._left(todo[0]) == 0

    def rows(self, engine: Masking, batch: Sequence[Item], chunk: int, shards: Sequence[records.Shard]) -> list[list]:
        """See `Job.rows`."""
        rows = engine.chunk(batch, self._left(shards[0], chunk))
        for cell, shard in zip(engine.cells, shards, strict=True) if self.save_maps else ():
            records.write(shard.chunk_path(chunk).with_suffix(".npz"), _npz(engine.maps[cell]))
        return [rows[cell] for cell in engine.cells]

    def plan(self, engine: Masking, todo: int, images: int, probe: Sequence[Item]) -> dict[str, Any]:
        """See `Job.plan`."""
        start = time.perf_counter()
        with torch.no_grad():
            logits = engine.model(torch.stack([item.pixels for item in probe]).to(engine.device))
        seconds = (time.perf_counter() - start) / len(probe)
        above = float((logits.softmax(1).topk(2).values[:, 1] > self.settings.threshold).double().mean())
        expected = images if self.settings.select == "all" else round(above * images)
        if self.limit_selected is not None:
            expected = min(expected, self.limit_selected)
        masked = expected * todo * self.settings.targets * len(KEPT) * len(self.settings.baselines)
        forward = images if todo else 0
        return {
            "above_threshold": f"about {expected} (probe of {len(probe)})",
            "forward_passes": forward,
            "masked_passes": f"at most about {masked}",
            "seconds": f"about {(forward + masked) * seconds:.0f}",
            "megabytes": f"about {todo * images * 0.0006:.1f}",
        }

    def _left(self, shard: records.Shard, before: int | None = None) -> int | None:
        """Return how many more images above the threshold are wanted than stand in the chunks `before` one (None: in all).

        Read off the records themselves: the same after a resume.
        """
        if self.limit_selected is None:
            return None
        if before == 0 or not shard.chunks():
            return self.limit_selected
        return max(0, self.limit_selected - int(shard.read(before)["above_threshold"].sum()))


def activation_methods() -> list[str]:
    """Return the names of the methods that the masking experiment takes."""
    return methods_of("activation")


def run_masking(job: MaskingJob, config: str = "", quiet: bool = False) -> tuple[list[records.Shard], Counter[str]]:
    """Return `run(job, config, quiet)`."""
    return run(job, config, quiet)


def plan_masking(job: MaskingJob, probe: int = 16) -> dict[str, Any]:
    """Return `plan(job, probe)`."""
    return plan(job, probe)


def samples(job: MaskingJob, shards: Sequence[records.Shard], most: int = 8) -> list[Sample]:
    """Return the first images above the threshold with the maps of the shards (of one method), for `report.selected`."""
    from wcx.report.selected import Sample

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
        classes = [names[int(row[rank])] for rank in job.settings.ranks]  # floats beside an image that was skipped
        probabilities = [row[f"p_t{i + 1}"] for i in range(job.settings.targets)]
        own = {cell.contrast: maps[cell][:, i] for cell in cells}
        found.append(Sample(pixels[i], own, classes, probabilities, names[int(row["label"])]))
    return found


def _npz(maps: Sequence[tuple[int, np.ndarray]]) -> bytes:
    """Return an .npz of `index` (n,) and `maps` (n, T, h, w), float32; both empty where no image was selected."""
    buffer = io.BytesIO()
    np.savez(buffer, index=np.array([i for i, _ in maps], dtype=np.int64), maps=np.array([one for _, one in maps]))
    return buffer.getvalue()
