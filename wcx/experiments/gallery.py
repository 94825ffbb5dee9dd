"""The gallery of one dataset and model: images chosen by a stated rule, and what each figure shows of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from wcx import contrasts, methods
from wcx.datasets import ImageDataset
from wcx.errors import WcxError, choose
from wcx.experiments import images
from wcx.experiments.base import Subject
from wcx.experiments.images import Item
from wcx.experiments.pictures import FIGURES, Figure, Settings
from wcx.experiments.selection import Choice, Walk, by_id
from wcx.models import LoadedModel, label_map


@dataclass(frozen=True)
class GalleryJob:
    """One (dataset, model) of the gallery.

    Attributes:
        dataset: the split that images are taken from, opened.
        loaded: the model.
        settings: the protocol.
        figures: names of `FIGURES`.
        methods, contrasts: instead of each figure's own; empty: its own.
        method_options: for each method by name.
        contrast_options: for each contrast by name.
        dataset_label: the dataset's name in tables.
        limit: images are looked for among the first so many of the random order.
        batch_size: images a pass.
        num_workers: threads that decode images.
        on_error: ``stop`` at an image that cannot be read, or ``skip`` it and count it.

    Raises:
        WcxError: an unknown name.
    """

    dataset: ImageDataset
    loaded: LoadedModel
    settings: Settings = field(default_factory=Settings)
    figures: Sequence[str] = ("fig1", "fig4", "fig5")
    methods: Sequence[str] = ()
    contrasts: Sequence[str] = ()
    method_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    contrast_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    dataset_label: str = ""
    limit: int | None = None
    batch_size: int = 32
    num_workers: int = 2
    on_error: str = "stop"

    def __post_init__(self) -> None:
        if not self.figures:
            raise WcxError(f"figures is empty; give some of: {', '.join(FIGURES)}.")
        for name in self.figures:
            choose("figure", name, FIGURES)
        for name in self.methods:
            methods.get(name)
        for name in self.contrasts:
            contrasts.get(name)

    def spec(self, figure: str) -> Figure:
        """Return what a figure shows here, with `methods` and `contrasts` in the place of its own."""
        usual = FIGURES[figure]
        return replace(
            usual,
            methods=tuple(self.methods or usual.methods or _by_space()),
            contrasts=tuple(self.contrasts or usual.contrasts or contrasts.names()),
        )

    def subject(self, spec: Figure) -> Subject:
        """Return the model with the methods of a figure."""
        created = {name: methods.create(name, **self.method_options.get(name, {})) for name in spec.methods}
        return Subject(self.loaded.model, self.loaded.layer, created, self.contrast_options, self.batch_size)

    def read(self, indices: Sequence[int]) -> Iterator[Item]:
        """Yield images of the dataset.

        Raises:
            DataError: one cannot be read, with on_error=stop.
        """
        for item in images.read(self.dataset, indices, self.labels(), self.num_workers):
            if item.error is not None and self.on_error == "stop":
                raise item.error
            yield item

    @property
    def class_names(self) -> list[str]:
        """Names of the model's outputs."""
        return self.loaded.class_names or self.dataset.class_names

    def labels(self) -> list[int] | None:
        """Return the model's output for each of the dataset's classes; None if the model does not name its own."""
        names = self.loaded.class_names
        return None if names is None else label_map(self.dataset.class_names, names).tolist()

    @cached_property
    def walk(self) -> Walk:
        """The images in random order: looked at once for all figures."""
        total, seed = len(self.dataset), self.settings.seed
        order = images.order(total, self.limit, seed, shuffled=True)
        among = f"{len(order)} of {total}" if len(order) < total else f"{total}"
        note = f"{among} {self.dataset.split} images (seed {seed})"
        return Walk(self.loaded.model, self.read, order, note, self.batch_size)

    def choose(self, spec: Figure) -> Choice:
        """Return the images of a figure.

        Raises:
            WcxError: no image over the threshold, or none of a given id.
        """
        settings = self.settings
        if settings.ids:
            chosen = by_id(settings.ids, self.dataset.ids)
            return Choice(chosen.indices[: spec.most], chosen.rule)
        count = min(settings.count, spec.most or settings.count)
        return self.walk.choose(spec.rank, settings.minimum(spec.rank), count)


def _by_space() -> list[str]:
    """Return all methods, those that stop at a layer first."""
    return sorted(methods.names(), key=lambda name: (methods.get(name).space, name))
