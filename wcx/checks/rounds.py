"""A job that measures the machine: its rows are rounds of a measurement, not images. Times are no part of byte-identity."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch

from wcx.checks.base import FACTS, Verification
from wcx.experiments import Cell, Subject
from wcx.experiments.base import Keep, Row, blank
from wcx.experiments.images import Item
from wcx.images import device_of
from wcx.pipeline import Job
from wcx.records import Shard


@dataclass(frozen=True)
class Rounds(Job):
    """A job whose rows are the rounds of a measurement; a cell is (what is measured, in which way).

    A round is a chunk: a resume goes on with the rounds that are missing.

    Attributes:
        work: what is measured, for an experiment that needs more than network and images.
        reopen: opens the same, or the work, in a process of its own; it can be pickled.
    """

    work: Any = None
    reopen: Callable[[], Any] | None = None

    @classmethod
    def of(cls, job: Job, experiment: type[Timed], cells: Sequence[Cell], settings: Any, **options: Any) -> Rounds:
        """Return rounds of a measurement of a job's work; `options` are other arguments than the job's own."""
        shared = ("dataset", "loaded", "results_dir", "dataset_label", "batch_size", "seed")
        arguments = {name: getattr(job, name) for name in shared} | {"work": job} | options
        return cls(experiment, cells=cells, settings=settings, **arguments)

    def __post_init__(self) -> None:
        """Cells are none of methods and contrasts: nothing of theirs is checked."""

    def chunks(self) -> list[list[int]]:
        """Return the number of every round."""
        return [[place] for place in range(self.settings.repeats)]

    def read(self, indices: Sequence[int]) -> list[Item]:
        """Return what stands for rounds."""
        return [Item(place, f"round {place}", -1, None) for place in indices]

    def subject(self, cells: Sequence[Cell]) -> Subject:  # noqa: ARG002
        """Return the network; the experiment creates its methods."""
        return Subject(self.loaded.model, self.loaded.layer, {}, self.contrast_options, self.batch_size)

    def opened(self, cells: Sequence[Cell]) -> Timed:
        """Return the experiment on some of the cells."""
        return self.experiment(self, cells)  # type: ignore[arg-type,call-arg,return-value]

    def shards(self) -> list[Shard]:
        """Return where the records of every cell go; threads and device are part of the fingerprint."""
        device = device_of(self.loaded.model)
        parts = {
            "experiment": self.experiment.name(),
            "version": self.experiment.version,
            "settings": asdict(self.settings),
            "dataset": self.dataset.listing_hash(),
            "transform": asdict(self.dataset.transform),
            "weights": self.loaded.weights_hash,
            "channels_last": self.loaded.channels_last,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        }
        labels: dict[str, Any] = {"dataset": self.dataset_label or self.dataset.name, "weights": self.loaded.weights}
        labels |= {"stand_in": self.loaded.stand_in, "subset": self.subset(), "class_names": self.class_names()}
        pair = (self.dataset.name, self.loaded.name)
        return [Shard(self.results_dir, (*pair, *cell), self.experiment.name(), parts, labels) for cell in self.cells]


class Timed(Verification):
    """A check whose rows are rounds: see `Rounds`.

    Attributes:
        measures: the columns of what is measured, by its setting `measures`; "" where there is no such setting.
    """

    measures: ClassVar[Mapping[str, Sequence[str]]]

    def __init__(self, job: Rounds, cells: Sequence[Cell]) -> None:
        super().__init__(job.subject(cells), cells, job.settings)
        self.job = job

    @classmethod
    def columns(cls, settings: Any, boxes: bool = False) -> list[str]:  # noqa: ARG003
        return [*FACTS, *cls.measures[getattr(settings, "measures", "")]]

    @abstractmethod
    def measure(self, place: int) -> dict[Cell, Row]:
        """Return for each cell what round number `place` measures."""

    def rows(self, items: Sequence[Item], most: int | None = None, keep: Keep | None = None) -> dict[Cell, list[Row]]:  # noqa: ARG002
        rows: dict[Cell, list[Row]] = {cell: [] for cell in self.cells}
        for item in items:
            for cell, measured in self.measure(item.index).items():
                rows[cell].append(blank(item) | {"skipped": False} | measured)
        return rows

    def passes(self) -> Counter[str]:
        return Counter()

    def plan(self, probe: Sequence[Item], images: int, most: int | None = None) -> dict[str, Any]:  # noqa: ARG002
        return {"rounds_left": images}  # a round is not tried out beforehand
