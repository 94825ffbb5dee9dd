"""The gallery of one dataset and model: images chosen by a stated rule, and what each figure shows of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any

from torch import Tensor

from wcx import contrasts, methods
from wcx.datasets import ImageDataset
from wcx.errors import WcxError, choose
from wcx.experiments import images, pictures
from wcx.experiments.base import Cell, FoilSetting, Subject
from wcx.experiments.images import Item
from wcx.experiments.pictures import Picture
from wcx.experiments.selection import Choice, Walk, by_id
from wcx.images import device_of, drawn_sigma, make_baseline, sigma_range
from wcx.models import LoadedModel

log = logging.getLogger("wcx")


@dataclass(frozen=True)
class FigureKind:
    """What one figure shows.

    Attributes:
        methods, contrasts: every pair of them is a map; empty means all there are.
        targets: the so many most probable classes are explained.
        rank: images are chosen by the probability of t_rank.
        hides: whether the images with the negative features hidden belong to it.
        most: images at most.
    """

    methods: tuple[str, ...]
    contrasts: tuple[str, ...]
    targets: int
    rank: int = 2
    hides: bool = False
    most: int | None = None

    @property
    def cells(self) -> list[Cell]:
        """Every pair of method and contrast."""
        return [Cell(*pair) for pair in product(self.methods, self.contrasts)]


FIGURES = {
    "fig1": FigureKind(("gradcam",), ("original", "weighted"), targets=2, hides=True),
    "fig4": FigureKind(("gradcam", "linear_approximation"), ("original", "weighted"), targets=2),
    "fig5": FigureKind(("gradcam",), ("original", "mean", "max", "weighted"), targets=3, rank=3),
    "methods": FigureKind((), (), targets=1, most=1),
}


@dataclass(frozen=True)
class GallerySettings:
    """The protocol: which images, and how features are hidden (as in the masking experiment).

    Attributes:
        count: images a figure.
        ids: these images instead of random ones.
        p_t2_min, p_t3_min: images are chosen among those with p_t2 (for Fig. 5 p_t3) above it.
        baseline: what the hidden pixels become.
        baseline_space: what ``zeros`` is, as in `hiding.Protocol`; likewise the other three.
        foils: of the contrasts.
        seed: of the images' order, and of drawn sigmas.

    Raises:
        WcxError: a value outside of these.
    """

    count: int = 4
    ids: tuple[str | int, ...] = ()  # a name of digits may come as a number
    p_t2_min: float = 0.1
    p_t3_min: float = 0.1
    baseline: str = "blur"
    baseline_space: str = "normalized"
    align_corners: bool = False
    blur_sigma: float | tuple[float, float] = 15.0
    blur_kernel: int = 101
    foils: FoilSetting = None
    seed: int = 0

    def __post_init__(self) -> None:
        sigma_range(self.blur_sigma)
        if self.count < 1:
            raise WcxError(f"count = {self.count} images; give at least 1.")
        for name in ("p_t2_min", "p_t3_min"):
            if not 0 <= getattr(self, name) < 1:
                raise WcxError(f"{name} = {getattr(self, name)} is no probability; give a number from 0 to below 1.")

    def minimum(self, rank: int) -> float:
        """Return the threshold on the probability of t_rank."""
        return self.p_t3_min if rank >= 3 else self.p_t2_min

    def explain(self, subject: Subject, items: Sequence[Item], kind: FigureKind, names: Sequence[str]) -> list[Picture]:
        """Return what a figure shows of each image that could be read; `names` are those of the model's outputs."""
        ask = pictures.most_probable(subject, kind.targets, kind.cells, self.foils)
        explained = pictures.explain(subject, items, names, ask, self.align_corners)
        zero = subject.zero if self.baseline_space == "normalized" else 0.0
        for picture in explained if kind.hides else ():
            sigma, batch = drawn_sigma(self.blur_sigma, self.seed, picture.item.index), picture.pixels[None]
            baseline = make_baseline(self.baseline, batch, sigma=sigma, kernel=self.blur_kernel, zero=zero)
            pictures.hide(subject, picture, baseline[0])
        return explained


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
        confusion: of the network, where foils are chosen by it.

    Raises:
        WcxError: an unknown name.
    """

    dataset: ImageDataset
    loaded: LoadedModel
    settings: GallerySettings = field(default_factory=GallerySettings)
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
    confusion: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.figures:
            raise WcxError(f"figures is empty; give some of: {', '.join(FIGURES)}.")
        for name in self.figures:
            choose("figure", name, FIGURES)
        for name in self.methods:
            methods.get(name)
        for name in self.contrasts:
            contrasts.get(name)

    def kind(self, figure: str) -> FigureKind:
        """Return what a figure shows here, with `methods` and `contrasts` in the place of its own."""
        usual = FIGURES[figure]
        by_space = sorted(methods.of_gradients(), key=lambda name: (methods.get(name).space, name))
        return replace(
            usual,
            methods=tuple(self.methods or usual.methods or by_space),
            contrasts=tuple(self.contrasts or usual.contrasts or contrasts.names()),
        )

    def explain(self, kind: FigureKind) -> tuple[Choice, list[Picture], dict[str, dict[str, Any]]]:
        """Return how the images of a figure were chosen, its pictures, and the options of its methods as the network takes them.

        Raises:
            WcxError: no image over the threshold, or none of a given id.
        """
        choice = self.choose(kind)
        items, model = list(self.read(choice.indices)), self.loaded.model
        first = next(item.pixels for item in items if item.pixels is not None)[None].to(device_of(model))
        options, refused = methods.accepted(kind.methods, self.method_options, model, first)
        for name, error in refused.items():
            if self.methods or set(kind.methods) != set(methods.of_gradients()):  # they were asked for by name
                raise error
            log.warning("%s is left out: %s", name, error)
        kind = replace(kind, methods=tuple(options))
        created = {name: methods.create(name, **options[name]) for name in kind.methods}
        subject = Subject(
            self.loaded.model,
            self.loaded.layer,
            created,
            self.contrast_options,
            self.batch_size,
            confusion=self.confusion,
        )
        return choice, self.settings.explain(subject, items, kind, self.class_names), options

    def read(self, indices: Sequence[int]) -> Iterator[Item]:
        """Yield images of the dataset.

        Raises:
            DataError: one cannot be read, with on_error=stop.
        """
        for item in images.read(self.dataset, indices, self.outputs, self.num_workers):
            if item.error is not None and self.on_error == "stop":
                raise item.error
            yield item

    @property
    def class_names(self) -> list[str]:
        """Names of the model's outputs."""
        return self.loaded.class_names or self.dataset.class_names

    @cached_property
    def outputs(self) -> list[int | None] | None:
        """The model's output for each of the dataset's classes, see `LoadedModel.outputs`."""
        return self.loaded.outputs(self.dataset.class_names)

    @cached_property
    def walk(self) -> Walk:
        """The images in random order: looked at once for all figures."""
        among, seed = images.mapped(self.dataset, self.outputs), self.settings.seed
        total = len(among)
        order = [among[place] for place in images.order(total, self.limit, seed, shuffled=True)]
        count = f"{len(order)} of {total}" if len(order) < total else f"{total}"
        note = f"{count} {self.dataset.split} images (seed {seed})"
        return Walk(self.loaded.model, self.read, order, note, self.batch_size)

    def choose(self, kind: FigureKind) -> Choice:
        """Return the images of a figure.

        Raises:
            WcxError: no image over the threshold, or none of a given id.
        """
        settings = self.settings
        if settings.ids:
            chosen = by_id(settings.ids, self.dataset.ids)
            return Choice(chosen.indices[: kind.most], chosen.rule)
        count = min(settings.count, kind.most or settings.count)
        return self.walk.choose(kind.rank, settings.minimum(kind.rank), count)
