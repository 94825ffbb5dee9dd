"""A job: one (dataset, model) block of an experiment, which images it takes, and where its records go."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wcx import contrasts, methods
from wcx.contrasts import Confused
from wcx.datasets import ImageDataset
from wcx.datasets.cub import Cub
from wcx.experiments import Cell, Experiment, Subject, images
from wcx.experiments.images import Item
from wcx.images import device_of
from wcx.inventory import Check
from wcx.methods.base import has_both_layouts
from wcx.models import LoadedModel
from wcx.models.class_names import NAMES
from wcx.models.evaluation import Evaluation, evaluation_of
from wcx.pipeline.checked import check
from wcx.records import Shard, fingerprint

_ABSENT = object()


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
        evaluation: what evaluation passes go through, see `wcx.models.evaluation`; ``auto`` is settled once for the block, by the
            first images of the dataset, and what it comes to is part of the fingerprint.
        opener: opens the same job in another process, maybe on another machine; it can be pickled. None: none can.
        confusion: of the network, see `contrasts.Confused`; part of the fingerprint. None: no foils are chosen by it.

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
    evaluation: str = "auto"
    opener: Callable[[], Job] | None = None
    confusion: Tensor | None = None

    def __post_init__(self) -> None:
        methods_of_cells = [cell.method for cell in self.cells]
        check(self.experiment, self.dataset, methods_of_cells, self.limit_selected, save_maps=self.save_maps)

    @property
    def suffix(self) -> str:
        """Suffix of the file that is written beside each chunk's records, or ""."""
        return ".npz" if self.save_maps else ""

    def subject(self, cells: Sequence[Cell]) -> Subject:
        """Return the model with the methods of cells."""
        names = dict.fromkeys(cell.method for cell in cells)
        created = {name: methods.create(name, **self.settled[name]) for name in names}
        return Subject(
            self.loaded.model,
            self.loaded.layer,
            created,
            self.contrast_options,
            self.batch_size,
            evaluation=self.evaluator,
            confusion=self.confusion,
        )

    @cached_property
    def evaluator(self) -> Evaluation:
        """What evaluation passes go through."""
        if not self.experiment.evaluations(self.settings):
            return Evaluation(self.loaded.model)
        first = [item.pixels for item in self.read(range(min(4, len(self.dataset)))) if item.pixels is not None]
        sample = torch.stack(first) if first else self._drawn(4)
        numbers = getattr(self.settings, "evaluation_precision", "float32")
        model, device = self.loaded.model, device_of(self.loaded.model)
        return evaluation_of(model, sample.to(device), self.evaluation, numbers, self.batch_size)

    @cached_property
    def settled(self) -> dict[str, dict[str, Any]]:
        """The options of each method as the network takes them, which may differ from those that were asked for."""
        model, image = self.loaded.model, self._drawn(1).to(device_of(self.loaded.model))
        names = dict.fromkeys(cell.method for cell in self.cells)
        return {name: methods.settled(name, self.method_options.get(name, {}), model, image) for name in names}

    def _drawn(self, count: int) -> Tensor:
        """Return images of the dataset's shape without its images."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.rand(
            count, self.dataset.transform.channels, *2 * [self.dataset.transform.size], generator=generator
        )

    def opened(self, cells: Sequence[Cell]) -> Experiment:
        """Return the experiment on some of the cells."""
        return self.experiment(self.subject(cells), cells, self.settings)

    def columns(self) -> list[str]:
        """Return the columns of the records, in their order."""
        return self.experiment.columns(self.settings, boxes=self.dataset.boxes is not None)

    def chunks(self) -> list[list[int]]:
        """Return the dataset indices of every chunk."""
        shuffled = self.limit_selected is not None
        places = images.order(len(self.among), self.limit, self.seed, shuffled)
        return images.cut([self.among[place] for place in places], self.chunk_size)

    @cached_property
    def outputs(self) -> list[int | None] | None:
        """The model's output for each of the dataset's classes, see `LoadedModel.outputs`.

        Raises:
            WcxError: the dataset has a class that the model does not know.
        """
        return self.loaded.outputs(self.dataset.class_names)

    @cached_property
    def anatomy(self) -> dict[int, int] | None:
        """The outputs that are classes of a dataset with an anatomy, and which; None where it is not asked for."""
        if not (self.experiment.needs_anatomy and isinstance(self.dataset, Cub)):
            return None
        named = self.loaded.named(self.dataset.class_names)
        return {output: place for name, output in named.items() if (place := self.dataset.place(name)) is not None}

    @cached_property
    def among(self) -> list[int]:
        """The dataset indices of the images whose class has an output."""
        return images.mapped(self.dataset, self.outputs)

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
        return sorted(set(range(count)) - set(range(count)).intersection(*(check.sound for check in checks.values())))

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
        if None in (self.outputs or ()):
            classes, total = len(self.outputs or ()), len(self.dataset)
            known = classes - (self.outputs or []).count(None)
            notes.append(f"{known} of {classes} classes have an output: {len(self.among)} of {total} images")
        if self.limit is not None and self.limit < len(self.among):
            notes.append(f"limit: {self.limit} of {len(self.among)} images")
        if self.limit_selected is not None:
            notes.append(f"limit_selected: {self.limit_selected}")
        return "; ".join(notes)

    def class_names(self) -> list[str]:
        """Return the names of the model's outputs."""
        return self.loaded.class_names or self.dataset.class_names

    def read(self, indices: Sequence[int]) -> list[Item]:
        """Return images of the dataset, labelled by the model's outputs."""
        needs_twins = self.experiment.needs_twins
        return list(images.read(self.dataset, indices, self.outputs, self.num_workers, needs_twins, self.anatomy))

    def options_of(self, contrast: str) -> dict[str, Any]:
        """Return all options of a contrast: a default that changes is another fingerprint."""
        return contrasts.get(contrast).defaults | dict(self.contrast_options.get(contrast, {}))

    def _shard(self, cell: Cell, listing: str) -> Shard:
        name, selects = self.dataset.name, self.experiment.selects
        options = self.settled[cell.method]
        method = methods.create(cell.method, **options)
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
            "method": {key: value for key, value in options.items() if method.younger.get(key, _ABSENT) != value},
            "contrast": self.options_of(cell.contrast),
            "chunk_size": self.chunk_size,
            "batch_size": self.batch_size,
            "on_error": self.on_error,
            "limit": [self.limit, *([self.limit_selected] if selects else []), self.seed],
            **({"layer": self.loaded.layer} if "activation" in self.experiment.spaces else {}),
            **({"equal_pair": counted} if counted else {}),
            **({"anatomy": sorted(self.anatomy.items())} if self.anatomy is not None else {}),
            **({"outputs": self.outputs} if self.loaded.class_map != NAMES else {}),
            **({"confusion": self._confused()} if self.confusion is not None else {}),
            **({"evaluation": self.evaluator.kind} if self.experiment.evaluations(self.settings) else {}),
        }
        if has_both_layouts(self.loaded.net):  # their maps of an image alone in its batch were wrong
            parts["layouts"] = 2
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

    def _confused(self) -> str:
        """Return what stands for the foils of every class that are chosen by the confusion."""
        assert self.confusion is not None
        foils = Confused(Confused.count(self.settings.foils) or 1, self.confusion)
        rows = foils.confusion.nan_to_num().argsort(dim=1, descending=True, stable=True)[:, : foils.k + 1]
        return fingerprint({"foils": rows.tolist()})


def _settings(settings: Any) -> dict[str, Any]:
    """Return settings as they come back from a file; without those that are younger than records and at their default."""
    values = asdict(settings)
    younger = [f.name for f in fields(settings) if f.metadata.get("later") and values[f.name] == f.default]
    stated: dict[str, Any] = json.loads(json.dumps({key: value for key, value in values.items() if key not in younger}))
    return stated
