"""What every check shares: an experiment that opens its own networks and images, and sums its records up in tables."""

from __future__ import annotations

import textwrap
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd
from torch import Tensor, nn

from wcx.datasets import ImageDataset
from wcx.experiments import Cell, Experiment
from wcx.experiments.base import Keep, Row
from wcx.experiments.images import Item, stacked
from wcx.images import Normalized
from wcx.models import LoadedModel
from wcx.pipeline import Job
from wcx.records import Shard
from wcx.report.tables import Column, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FACTS = ("index", "id", "label", "skipped")  # what `blank` says of an image
KEY = ("dataset", "network", "method", "contrast")
Part = tuple[str, pd.DataFrame]  # of rows, and what they share


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
        recipe: by which they were made; None: whichever it was.
        common: arguments that every `Job` gets: results_dir, num_workers, on_error.
    """

    networks: Sequence[str]
    methods: Sequence[str]
    contrasts: Sequence[str]
    limit: int | None = None
    seed: int = 0
    epsilon: float = 1e-3
    checkpoints_dir: Path = Path("checkpoints")
    recipe: str | None = None
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

    def opened(self, model: str, dataset: str = "imagenet") -> dict[str, Any]:
        """Open images, and a model for them: what a job needs of both."""
        images = self.images(dataset, model)
        return {"dataset": images, "loaded": self.network(model, images)}

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
        recorded: the columns behind an image's facts.
    """

    protocol: ClassVar[type] = Fixed
    companions: ClassVar[tuple[str, ...]] = ()
    recorded: ClassVar[Sequence[str]] = ()

    @classmethod
    @abstractmethod
    def jobs(cls, request: Request) -> Iterator[Job]:
        """Yield its jobs, one opened at a time."""

    @classmethod
    @abstractmethod
    def summaries(cls, shards: Sequence[Shard]) -> list[Table]:
        """Return what its records sum up to."""

    @classmethod
    def picture(cls, shards: Sequence[Shard]) -> Figure | None:
        """Return the drawing of its records, under what they are of; None where there is none."""
        if figure := cls.drawing(shards):
            figure.suptitle(textwrap.fill(heading(shards), int(figure.get_figwidth() * 15)), fontsize=8)
        return figure

    @classmethod
    def drawing(cls, shards: Sequence[Shard]) -> Figure | None:  # noqa: ARG003
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

    @classmethod
    def columns(cls, settings: Any, boxes: bool = False) -> list[str]:  # noqa: ARG003
        return [*FACTS, *cls.recorded]

    def rows(self, items: Sequence[Item], most: int | None = None, keep: Keep | None = None) -> dict[Cell, list[Row]]:  # noqa: ARG002
        rows = self.blank(items)
        for places in self.batches(items):
            batch = [items[place] for place in places]
            for cell, measured in self.measured(batch, stacked(batch).to(self.subject.device)).items():
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
    """Return the columns of `by_target` for the two most probable classes."""
    return list(map("/".join, product(measures, ("t_1", "t_2"))))


def heading(shards: Sequence[Shard]) -> str:
    """Return what records are of: dataset, network, weights, method, which part of the images, and how many of them."""
    facts = [
        (shard.labels["dataset"], shard.key[1], shard.labels["weights"], shard.key[2], shard.labels["subset"])
        for shard in shards
    ]
    counts = sorted({int((~shard.read().skipped).sum()) for shard in shards})
    number = f"n = {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} images".replace(
        " ", "\N{NO-BREAK SPACE}"
    )
    shown = [", ".join(dict.fromkeys(values)) for values in zip(*facts, strict=True)]
    return "\N{NO-BREAK SPACE}· ".join([*filter(None, shown), number])


def gathered(shards: Sequence[Shard], *levels: str) -> pd.DataFrame:
    """Return the rows of records with their cell beside them.

    Args:
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


def by_bins(rows: pd.DataFrame, values: pd.Series, bins: Sequence[float], **options: Any) -> Iterator[Part]:
    """Yield (bin, rows) of the bins that have some, then all rows; `options` are those of `pandas.cut`."""
    labels = [f"{low:g}-{high:g}".removesuffix("inf") for low, high in pairwise(bins)]
    yield from rows.groupby(pd.cut(values, bins, labels=labels, **options), observed=True)
    yield "all", rows


def summary_table(
    name: str, title: str, frame: pd.DataFrame, meanings: Mapping[str, str], digits: str = ".3g"
) -> Table:
    """Return a table whose columns are those of `meanings` (name -> what it is); numbers that are no counts have `digits`."""
    formats = {"f": digits, "i": "d", "u": "d"}
    stated = {column: meaning for column, meaning in meanings.items() if column in frame}
    columns = [Column(name, what, format=formats.get(frame[name].dtype.kind, "")) for name, what in stated.items()]
    return Table(name, title, tuple(columns), frame)
