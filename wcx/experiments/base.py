"""What an experiment declares of itself, beside the subject whose maps it measures."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from wcx import methods
from wcx.errors import WcxError
from wcx.experiments.images import Item, cut, stacked
from wcx.experiments.subject import Cell, FoilSetting, Subject, at_pixels

Row = dict[str, Any]
Keep = Callable[["Cell", int, Tensor], None]  # takes an image's map: cell, index in the dataset, (T, h, w)


class Experiment(ABC):
    """What is measured of a subject's maps, a row an image and cell. A subclass stands in a file of its name.

    Attributes:
        protocol: its settings, a frozen dataclass whose fields are the keys of conf/experiment/<name>.yaml.
        version: part of the fingerprint: raise it with every change that may change a number.
        spaces: of the methods that it takes.
        axes: what the parts of a quantity's name tell, which stand between slashes in `columns`; for tables.
        selects: its rows say `above_threshold`, so that `limit_selected` may end it early.
        keeps_maps: it can hand on its maps (save_maps=true).
        walks: along gradients: a method without them would cost a thousand passes an image.
        means: what a quantity is, by the first part of its name, for data cards.
        needs_anatomy: it is of datasets that know where parts are and in which classes differ, which `Item.anatomy` holds.
        needs_twins: it is of datasets that know an image's twins (`wcx.datasets.twins.Twins`), which `Item.twins` holds.
    """

    protocol: ClassVar[type]
    version: ClassVar[int] = 1
    spaces: ClassVar[tuple[str, ...]] = ("activation", "input")
    axes: ClassVar[tuple[str, ...]] = ()
    means: ClassVar[dict[str, str]] = {}
    selects: ClassVar[bool] = False
    keeps_maps: ClassVar[bool] = False
    walks: ClassVar[bool] = False
    needs_twins: ClassVar[bool] = False
    needs_anatomy: ClassVar[bool] = False

    def __init__(self, subject: Subject, cells: Sequence[Cell], settings: Any) -> None:
        self.subject, self.cells, self.settings = subject, list(cells), settings

    @classmethod
    def name(cls) -> str:
        """Its name on the command line: that of its file."""
        return cls.__module__.rpartition(".")[2]

    @classmethod
    @abstractmethod
    def columns(cls, settings: Any, boxes: bool = False) -> list[str]:
        """Return the columns of its records, in their order; with `boxes`, the dataset knows where the objects are."""

    @classmethod
    def counted(cls, settings: Any) -> Sequence[str]:  # noqa: ARG003
        """Return the contrasts whose maps count in every cell, whatever its own."""
        return ()

    @classmethod
    def evaluations(cls, settings: Any) -> int:  # noqa: ARG003
        """Return the evaluation passes (without a backward one) that an image of one cell needs at most."""
        return 0

    @abstractmethod
    def rows(self, items: Sequence[Item], most: int | None = None, keep: Keep | None = None) -> dict[Cell, list[Row]]:
        """Return for each cell one row an image, in the order of `items`.

        Args:
            items: the images of a chunk; those that could not be read have rows with `skipped`.
            most: with `selects`: the rows end with the image that is the `most`-th above the threshold.
            keep: with `keeps_maps`: takes the maps of the selected images.
        """

    def blank(self, items: Sequence[Item], **facts: object) -> dict[Cell, list[Row]]:
        """Return the beginnings of the rows of all cells, with what holds of an image until more is known."""
        rows = [blank(item) | facts for item in items]
        return {cell: list(map(dict, rows)) for cell in self.cells}

    def batches(self, items: Sequence[Item]) -> list[list[int]]:
        """Return the places of the images that could be read, a batch each."""
        return cut([place for place, item in enumerate(items) if item.pixels is not None], self.subject.batch_size)

    @abstractmethod
    def passes(self) -> Counter[str]:
        """Return the passes that an image needs at most, all cells together, by what `Subject.passes` calls them."""

    def plan(self, probe: Sequence[Item], images: int, most: int | None = None) -> dict[str, Any]:  # noqa: ARG002
        """Return what `images` more images cost, or only so many that `most` are selected: passes, seconds and disk.

        Args:
            probe: a few images that could be read.
            images: how many are left.
            most: at most so many of them are wanted above the threshold.
        """
        seconds, passes = self.seconds(probe), self.passes()
        return {
            **{f"{kind}_passes": f"at most {count * images}" for kind, count in passes.items()},
            "seconds": f"at most about {passes.total() * images * seconds:.0f}",
            "megabytes": f"about {len(self.cells) * images * 0.0006:.1f}",
        }

    def seconds(self, probe: Sequence[Item]) -> float:
        """Return how long the forward pass of an image takes."""
        return self.timed(self.subject.model, probe)

    def timed(self, network: Callable[[Tensor], object], probe: Sequence[Item]) -> float:
        """Return the seconds an image of one call of a network."""
        pixels = stacked(probe).to(self.subject.device)
        start = time.perf_counter()
        with torch.no_grad():
            network(pixels)
        return (time.perf_counter() - start) / len(probe)


def check_method(experiment: type[Experiment], method: str) -> None:
    """Check that an experiment takes a method.

    Raises:
        WcxError: it does not.
    """
    known = methods.of_gradients(transformers=True) if experiment.walks else methods.names()
    fitting = [name for name in known if methods.get(name).space in experiment.spaces]
    if methods.get(method) and method not in fitting:
        kind = f"an {' or '.join(experiment.spaces)} method{' of gradients' * experiment.walks}"
        raise WcxError(f"experiment {experiment.name()} needs {kind}, not {method}; try: {', '.join(fitting)}.")


def blank(item: Item) -> Row:
    """Return the beginning of an image's row."""
    return {"index": item.index, "id": item.id, "label": item.label, "skipped": item.pixels is None}


def by_image(rows: Mapping[Cell, Sequence[Row]]) -> list[dict[Cell, Row]]:
    """Return rows, cell by cell, image by image."""
    return [dict(zip(rows, of_image, strict=True)) for of_image in zip(*rows.values(), strict=True)]


__all__ = [
    "Cell",
    "Experiment",
    "FoilSetting",
    "Keep",
    "Row",
    "Subject",
    "at_pixels",
    "blank",
    "by_image",
    "check_method",
]
