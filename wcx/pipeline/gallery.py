"""The gallery of one dataset and model: images chosen by a stated rule, explained, drawn, written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from wcx import contrasts, methods
from wcx.datasets import ImageDataset
from wcx.errors import WcxError, choose
from wcx.experiments import gallery, items
from wcx.experiments.choice import Choice, Walk, by_id
from wcx.experiments.gallery import Figure, Lens, Settings
from wcx.experiments.items import Item
from wcx.manifest import manifest
from wcx.models import LoadedModel
from wcx.pipeline.job import output_labels

BASELINES = {"blur": "blurred", "zeros": "set to zero", "mean": "set to the image's mean colour"}


@dataclass(frozen=True)
class GalleryJob:
    """One (dataset, model) of the gallery.

    Attributes:
        dataset: the split that images are taken from, opened.
        loaded: the model.
        settings: the protocol.
        figures: names of `gallery.FIGURES`.
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
            raise WcxError(f"figures is empty; give some of: {', '.join(gallery.FIGURES)}.")
        for name in self.figures:
            choose("figure", name, gallery.FIGURES)
        for name in self.methods:
            methods.get(name)
        for name in self.contrasts:
            contrasts.get(name)

    def spec(self, figure: str) -> Figure:
        """Return what a figure shows here, with `methods` and `contrasts` in the place of its own."""
        own = gallery.FIGURES[figure]
        return replace(
            own,
            methods=tuple(self.methods or own.methods or _by_space()),
            contrasts=tuple(self.contrasts or own.contrasts or contrasts.names()),
        )

    def lens(self, spec: Figure) -> Lens:
        """Return the model with the methods of a figure."""
        made = {name: methods.create(name, **self.method_options.get(name, {})) for name in spec.methods}
        zero = self.loaded.model.mean.flatten().tolist()
        return Lens(self.loaded.model, self.loaded.layer, made, self.contrast_options, zero, self.batch_size)

    def read(self, indices: Sequence[int]) -> Iterator[Item]:
        """Yield images of the dataset.

        Raises:
            DataError: one cannot be read, with on_error=stop.
        """
        for item in items.read(self.dataset, indices, output_labels(self), self.num_workers):
            if item.error is not None and self.on_error == "stop":
                raise item.error
            yield item

    @cached_property
    def walk(self) -> Walk:
        """The images in random order: looked at once for all figures."""
        total, seed = len(self.dataset), self.settings.seed
        order = items.order(total, self.limit, seed, shuffled=True)
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


def run_gallery(
    job: GalleryJob,
    folder: Path,
    *,
    commands: Mapping[str, str] = {},
    formats: Sequence[str] = ("png", "pdf"),
    dpi: float = 150,
    scale: str = "contrast",
    style: str = "colour",
) -> Iterator[list[Path]]:
    """Make the figures of a job one after the other.

    Args:
        job: what to show.
        folder: where the files go, see `report.gallery.write`.
        commands: for each figure, what makes it again.
        formats: of the figures: png, pdf, svg.
        dpi: of a PNG.
        scale: what shares a colour scale, see `Page`.
        style: colour or print.

    Yields:
        the files of each figure, the JSON file last.

    Raises:
        WcxError: no image to show, or something unknown.
    """
    from wcx.report import gallery as report  # matplotlib is slow to import
    from wcx.report import render

    render.check_formats(formats)
    for name in job.figures:
        spec = job.spec(name)
        choice = job.choose(spec)
        some = list(job.read(choice.indices))
        shown = gallery.show(job.lens(spec), [item for item in some if item.pixels is not None], spec, job.settings)
        page = report.Page(
            figure=name,
            shown=shown,
            class_names=job.loaded.class_names or job.dataset.class_names,
            dataset=job.dataset.name,
            model=job.loaded.name,
            label=job.dataset_label,
            weights=job.loaded.weights,
            subset=job.dataset.subset,
            rule=choice.rule,
            command=commands.get(name, ""),
            spaces={method: methods.get(method).space for method in spec.methods},
            foils="" if job.settings.foils is None else _foils(job),
            baseline=BASELINES[job.settings.baseline],
            scale=scale,
            style=style,
            facts=_facts(job),
        )
        yield report.write(page, folder, formats, dpi)


def _by_space() -> list[str]:
    """Return all methods, those that stop at a layer first."""
    return sorted(methods.names(), key=lambda name: (methods.get(name).space, name))


def _foils(job: GalleryJob) -> str:
    foils = job.settings.foils
    names = job.loaded.class_names or job.dataset.class_names
    return f"the {foils} most probable others" if isinstance(foils, int) else ", ".join(names[one] for one in foils)


def _facts(job: GalleryJob) -> dict[str, Any]:
    device = next(job.loaded.model.parameters()).device
    own = {"weights_hash": job.loaded.weights_hash, "layer": job.loaded.layer}
    own |= {"dataset_listing": job.dataset.listing_hash(), "torch_threads": torch.get_num_threads()}
    return {
        "stand_in": job.loaded.stand_in,
        "settings": asdict(job.settings),
        "transform": asdict(job.dataset.transform),
        "manifest": manifest(device, **own),
    }
