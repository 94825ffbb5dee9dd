"""What every check shares: an experiment that opens its own networks and images, and sums its records up in tables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd
import torch
from torch import Tensor, nn

from wcx.datasets import ImageDataset
from wcx.experiments import Cell, Experiment
from wcx.experiments.base import Keep, Row, blank
from wcx.experiments.images import Item, cut
from wcx.images import Normalized
from wcx.models import LoadedModel
from wcx.pipeline import Job
from wcx.records import Shard
from wcx.report.tables import Column, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FACTS = ("index", "id", "label", "skipped")  # what `blank` says of an image
KEY = ("dataset", "network", "method", "contrast")


@dataclass(frozen=True)
class Request(ABC):
    """What is asked of the checks; a process of its own gets a copy (pickle).

    Attributes:
        networks: of the oracle, see `specimens.NETWORKS`.
        methods, contrasts: names.
        limit: so many images; None is each check's own number.
        seed: of the images' order.
        epsilon: largest change of a pixel, of the perturbation.
        checkpoints_dir: of fine-tuned networks.
        common: arguments that every `Job` gets: results_dir, num_workers, on_error.
    """

    networks: Sequence[str]
    methods: Sequence[str]
    contrasts: Sequence[str]
    limit: int | None = None
    seed: int = 0
    epsilon: float = 1e-3
    checkpoints_dir: Path = Path("checkpoints")
    common: Mapping[str, Any] = field(default_factory=dict)

    @abstractmethod
    def images(self, dataset: str, model: str) -> ImageDataset:
        """Open the test images of a dataset, transformed as a model wants them."""

    @abstractmethod
    def network(self, model: str, dataset: ImageDataset | None = None) -> LoadedModel:
        """Load a model with ImageNet's weights, or as fine-tuned on another dataset."""

    @abstractmethod
    def fresh(self, model: str, weights: str) -> LoadedModel:
        """Load a model of ImageNet's 1000 classes with weights `random`, or `auto`: what the file has, the classifier random."""

    def job(self, experiment: type[Experiment], batch: int, chunk: int, **arguments: Any) -> Job:
        """Return a job of `batch` images a pass, `chunk` a chunk; by default of `limit` images."""
        sizes = {"batch_size": batch, "chunk_size": chunk}
        return Job(experiment, **{"seed": self.seed, "limit": self.limit, **sizes, **self.common, **arguments})


@dataclass(frozen=True)
class Fixed:
    """The protocol of a check of which nothing can be chosen."""


class Verification(Experiment):
    """An experiment whose networks, images and cells are fixed.

    Attributes:
        protocol: see `Experiment`.
        companions: names of the checks that `wcx verify parts=[<its name>]` runs, too.
    """

    protocol: ClassVar[type] = Fixed
    companions: ClassVar[tuple[str, ...]] = ()

    @classmethod
    @abstractmethod
    def jobs(cls, request: Request) -> Iterator[Job]:
        """Yield its jobs, one opened at a time."""

    @classmethod
    @abstractmethod
    def summaries(cls, shards: Sequence[Shard]) -> list[Table]:
        """Return what its records sum up to."""

    @classmethod
    def picture(cls, shards: Sequence[Shard]) -> Figure | None:  # noqa: ARG003
        """Draw its records, where there is a drawing."""
        return None

    @classmethod
    def disagreements(cls, shards: Sequence[Shard]) -> int:  # noqa: ARG003
        """Return how many of its numbers are not what the theory says."""
        return 0

    @classmethod
    def remark(cls, shards: Sequence[Shard]) -> str:  # noqa: ARG003
        """Return what is to be said below its tables; "" for nothing."""
        return ""

    def rows(self, items: Sequence[Item], most: int | None = None, keep: Keep | None = None) -> dict[Cell, list[Row]]:  # noqa: ARG002
        """See `Experiment.rows`."""
        rows: dict[Cell, list[Row]] = {cell: [blank(item) for item in items] for cell in self.cells}
        readable = [place for place, item in enumerate(items) if item.pixels is not None]
        for places in cut(readable, self.subject.batch_size):
            batch = [items[place] for place in places]
            pixels = torch.stack([item.pixels for item in batch if item.pixels is not None])
            for cell, measured in self.measured(batch, pixels.to(self.subject.device)).items():
                for place, values in zip(places, measured, strict=True):
                    rows[cell][place] |= values
            self.subject.passes.update({kind: count * len(batch) for kind, count in self.passes().items()})
        return rows

    @property
    def network(self) -> nn.Module:
        """The inner network: normalised images -> logits."""
        return self._normalized.model

    def normalised(self, pixels: Tensor) -> Tensor:
        """Return the inner network's input for pixels (N, channels, H, W) in [0, 1]."""
        return self._normalized.normalise(pixels)

    @property
    def _normalized(self) -> Normalized:
        assert isinstance(self.subject.model, Normalized), "a model as it was loaded"
        return self.subject.model

    def measured(self, batch: Sequence[Item], pixels: Tensor) -> Mapping[Cell, Sequence[Row]]:
        """Return for each cell what is measured of each image.

        Args:
            batch: images that could be read.
            pixels: theirs, (N, channels, H, W) in [0, 1], where the network is.
        """
        raise NotImplementedError


def by_target(measures: Mapping[str, Tensor]) -> list[Row]:
    """Return a row an image of measures (T, N), in columns `<measure>/t_<rank>`."""
    columns: dict[str, list[float]] = {}
    for name, values in measures.items():
        columns |= {f"{name}/t_{rank}": of_rank.tolist() for rank, of_rank in enumerate(values, start=1)}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def target_columns(*measures: str) -> list[str]:
    """Return the columns of `by_target` for the two most probable classes, behind an image's facts."""
    return [*FACTS, *map("/".join, product(measures, ("t_1", "t_2")))]


def gathered(shards: Sequence[Shard], *levels: str) -> pd.DataFrame:
    """Return the rows of records with their cell beside them.

    Args:
        shards: of one check.
        levels: what stands in the columns' names behind the measure's: `error/t_1` becomes a row of target t_1.

    Raises:
        WcxError: records are not what was written.
    """
    frames = []
    for shard in shards:
        frame = shard.read()
        for name, value in reversed(list(zip(KEY, shard.key, strict=True))):
            frame.insert(0, name, value)
        frames.append(unfolded(frame[~frame.skipped], levels) if levels else frame)
    return pd.concat(frames, ignore_index=True)


def unfolded(frame: pd.DataFrame, levels: Sequence[str]) -> pd.DataFrame:
    """Return a row for each value of `levels` of columns `<measure>/<level>/...`."""
    spread = [name for name in frame if name.count("/") == len(levels)]
    facts = frame.drop(columns=spread)
    parts: dict[tuple[str, ...], pd.DataFrame] = {}
    for name in spread:
        measure, *values = name.split("/")
        parts.setdefault(tuple(values), facts.copy())[measure] = frame[name]
    labelled = [part.assign(**dict(zip(levels, values, strict=True))) for values, part in parts.items()]
    return pd.concat(labelled, ignore_index=True)


def summary_table(
    name: str, title: str, frame: pd.DataFrame, meanings: Mapping[str, str], digits: str = ".3g"
) -> Table:
    """Return a table whose columns are those of `meanings` (name -> what it is); numbers that are no counts have `digits`."""
    columns = [
        Column(column, meaning, format=digits if frame[column].dtype.kind == "f" else "")
        for column, meaning in meanings.items()
        if column in frame
    ]
    labels = sum(column.format == "" and frame[column.name].dtype.kind not in "iu" for column in columns)
    return Table(name=name, title=title, columns=tuple(columns), frame=frame, labels=labels)
