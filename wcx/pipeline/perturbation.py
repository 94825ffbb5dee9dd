"""The gradient-sign perturbation's job (Fig. 3)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from wcx import records
from wcx.experiments import sign_perturbation
from wcx.experiments.items import Item
from wcx.experiments.sign_perturbation import Perturbation, Settings
from wcx.pipeline.job import Job


@dataclass(frozen=True)
class PerturbationJob(Job):
    """One (dataset, model) block of the sign_perturbation experiment."""

    experiment: ClassVar[str] = "sign_perturbation"
    version: ClassVar[int] = sign_perturbation.VERSION
    space: ClassVar[str] = "input"

    settings: Settings

    def engine(self) -> Perturbation:
        """Return the engine for these cells."""
        options = {name: dict(values) for name, values in self.contrast_options.items()}
        return Perturbation(
            self.loaded.model, self.methods(), self.cells, self.settings, options, min(self.batch_size, self.chunk_size)
        )

    def columns(self) -> list[str]:
        """See `Job.columns`."""
        return self.settings.columns()

    def rows(
        self, engine: Perturbation, batch: Sequence[Item], _chunk: int, _shards: Sequence[records.Shard]
    ) -> list[list[dict]]:
        """See `Job.rows`."""
        rows = engine.chunk(batch)
        return [rows[cell] for cell in engine.cells]

    def plan(self, engine: Perturbation, todo: int, images: int, probe: Sequence[Item]) -> dict[str, Any]:
        """See `Job.plan`."""
        kinds = len(engine.methods)
        passes = {name: count * kinds if todo else 0 for name, count in self.settings.passes(todo // kinds).items()}
        return {
            "passes_an_image": passes,
            "forward_passes": images * (passes["forward"] + passes["evaluation"]),
            "backward_passes": images * passes["backward"],
            "seconds": round(self.seconds(engine, probe) * images * todo / len(self.cells), 1) if todo else 0,
            "megabytes": f"about {todo * images * 0.0003:.1f}",
        }

    def seconds(self, engine: Perturbation, probe: Sequence[Item]) -> float:
        """Return about how long an image takes, all cells together, from a walk of two steps under one contrast."""
        cells = {cell.method: cell for cell in self.cells}
        settings = replace(self.settings, iterations=(2,))
        short = Perturbation(
            engine.model, engine.methods, list(cells.values()), settings, self.contrast_options, len(probe)
        )
        for _ in range(2):  # the first warms up
            start = time.perf_counter()
            short.chunk(probe)  # ends with numbers on the CPU: the device has finished
        passes = self.settings.passes(len(self.cells) // len(cells)).total() / settings.passes(1).total()
        return (time.perf_counter() - start) / len(probe) * passes
