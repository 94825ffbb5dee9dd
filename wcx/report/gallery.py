"""The gallery on disk: a page's figure, and beside it a JSON file with its rule, its numbers and its command."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wcx import methods, records
from wcx.experiments import pictures
from wcx.experiments.base import Cell
from wcx.experiments.gallery import GalleryJob
from wcx.experiments.pictures import Shown
from wcx.images import device_of
from wcx.manifest import manifest
from wcx.report import frames, gallery_layouts, render
from wcx.report.gallery_page import Page
from wcx.report.selected import Sample

__all__ = ["Page", "facts", "make", "write"]

_HIDDEN = {"blur": "blurred", "zeros": "set to zero", "mean": "set to the image's mean colour"}


def make(
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
        folder: where the files go, see `write`.
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
    render.check_formats(formats)
    for name in job.figures:
        spec = job.spec(name)
        choice = job.choose(spec)
        page = Page(
            figure=name,
            shown=pictures.show(job.subject(spec), list(job.read(choice.indices)), spec, job.settings),
            class_names=job.class_names,
            dataset=job.dataset.name,
            model=job.loaded.name,
            label=job.dataset_label,
            weights=job.loaded.weights,
            subset=job.dataset.subset,
            rule=choice.rule,
            command=commands.get(name, ""),
            spaces={method: methods.get(method).space for method in spec.methods},
            foils="" if job.settings.foils is None else _foils(job),
            baseline=_HIDDEN[job.settings.baseline],
            scale=scale,
            style=style,
            facts=_made_with(job),
        )
        yield write(page, folder, formats, dpi)


def write(page: Page, folder: Path, formats: Sequence[str] = ("png", "pdf"), dpi: float = 150) -> list[Path]:
    """Write <folder>/<dataset>-<model>-<figure>.png, .pdf, ... and .json; single heatmaps, too, for the report to switch.

    Returns:
        the files, the JSON file last.

    Raises:
        WcxError: an unknown format.
    """
    files = render.save(gallery_layouts.draw(page), folder / page.name, formats, dpi)
    path = folder / f"{page.name}.json"
    about = facts(page) | {"files": [file.name for file in files]}
    records.write(path, json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    if len(page.methods) == 1 and len(page.contrasts) > 2 and not page.in_pixels(page.methods[0]):
        _frames(page, folder / page.name)
    return [*files, path]


def _frames(page: Page, folder: Path) -> None:
    """Write the maps of a page of one method, a file each."""
    samples = [
        Sample(
            shown.item.pixels,
            {cell.contrast: maps for cell, maps in shown.maps.items()},
            page.names(shown)[: len(shown.targets)],
            shown.probabilities[: len(shown.targets)].tolist(),
            page.truth(shown),
        )
        for shown in page.shown
    ]
    facts = {"dataset": page.label or page.dataset, "model": page.model, "method": page.methods[0]}
    title = f"{gallery_layouts.heading(page)[0]}: {page.rule}\nthe classes of an image share one scale, each contrast its own"
    frames.write(samples, folder, title, **facts, weights=page.weights, subset=page.subset)


def facts(page: Page) -> dict[str, Any]:
    """Return everything that a page says and shows, as JSON values."""
    heading = gallery_layouts.heading(page)
    return {
        "figure": page.figure,
        "title": heading[0],
        "dataset": page.dataset,
        "dataset_label": page.label or page.dataset,
        "model": page.model,
        "weights": page.weights,
        "subset": page.subset,
        "rule": page.rule,
        "command": page.command,
        "caption": gallery_layouts.caption(page),
        "foils": page.foils or "others",
        "baseline": page.baseline,
        "scale": page.scale,
        **page.facts,
        "images": [_image(page, one) for one in page.shown],
    }


def _image(page: Page, shown: Shown) -> dict[str, Any]:
    return {
        "id": shown.item.id,
        "index": shown.item.index,
        "truth": page.truth(shown),
        "classes": page.names(shown),
        "probabilities": _numbers(shown.probabilities),
        "explained": len(shown.targets),
        "maps": [_map(page, shown, cell) for cell in shown.maps],
        "cosines": {
            method: {key: None if math.isnan(value) else round(value, 6) for key, value in own.items()}
            for method, own in pictures.cosines(shown).items()
        },
    }


def _map(page: Page, shown: Shown, cell: Cell) -> dict[str, Any]:
    about: dict[str, Any] = {"method": cell.method, "contrast": cell.contrast}
    about["scale"] = float(f"{page.scale_of(shown, cell):.6g}")
    about["negative_share"] = _numbers((shown.maps[cell] < 0).double().mean((1, 2)))
    if cell in shown.hidden:
        hidden = shown.hidden[cell]
        about |= {
            "hidden_share": _numbers(hidden.share),
            "probabilities_after": [_numbers(row) for row in hidden.after],
        }
    return about


def _numbers(values: Tensor) -> list[float]:
    return [round(float(value), 6) for value in values]


def _foils(job: GalleryJob) -> str:
    foils = job.settings.foils
    return (
        f"the {foils} most probable others"
        if isinstance(foils, int)
        else ", ".join(job.class_names[foil] for foil in foils or ())
    )


def _made_with(job: GalleryJob) -> dict[str, Any]:
    model = {"weights_hash": job.loaded.weights_hash, "layer": job.loaded.layer}
    run = {"dataset_listing": job.dataset.listing_hash(), "torch_threads": torch.get_num_threads()}
    return {
        "stand_in": job.loaded.stand_in,
        "settings": asdict(job.settings),
        "transform": asdict(job.dataset.transform),
        "manifest": manifest(device_of(job.loaded.model), **model, **run),
    }
