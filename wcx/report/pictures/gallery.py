"""The gallery on disk: a plate's figure, and beside it a JSON file with its rule, its numbers and its command."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wcx import contrasts, methods, records
from wcx.experiments import pictures
from wcx.experiments.gallery import GalleryJob
from wcx.experiments.pictures import Picture, View
from wcx.images import device_of
from wcx.manifest import manifest
from wcx.report.pictures import draw, file_formats, layouts, selected
from wcx.report.pictures.plate import Plate

_HIDDEN = {"blur": "blurred", "zeros": "set to zero", "mean": "set to the image's mean colour"}
_FIRST = ("dataset", "dataset_label", "model", "weights", "subset", "rule", "command")  # facts before the caption


def make(
    job: GalleryJob,
    folder: Path,
    *,
    commands: Mapping[str, str] = {},
    formats: str | Sequence[str] = ("png", "pdf"),
    dpi: float = 150,
    scale: str = "contrast",
    style: str = "colour",
) -> Iterator[list[Path]]:
    """Make the figures of a job one after the other.

    Args:
        folder: where the files go, see `write_plate`.
        commands: for each figure, what makes it again.
        scale: what shares a colour scale, see `Plate`.

    Yields:
        the files of each figure, the JSON file last.

    Raises:
        WcxError: no image to show, or something unknown.
    """
    file_formats(formats)
    for name in job.figures:
        choice, explained, options = job.explain(job.kind(name))
        facts = {
            "dataset": job.dataset.name,
            "dataset_label": job.dataset_label or job.dataset.name,
            "model": job.loaded.name,
            "weights": job.loaded.weights,
            "subset": job.dataset.subset,
            "rule": choice.rule,
            "command": commands.get(name, ""),
            "options": {method: given for method in options if (given := methods.differing(method, options[method]))},
            **_provenance(job),
        }
        plate = Plate(name, explained, facts, _foils(job), _HIDDEN[job.settings.baseline], scale, style)
        yield write_plate(plate, folder, formats, dpi)


def write_plate(
    plate: Plate, folder: Path, formats: str | Sequence[str] = ("png", "pdf"), dpi: float = 150
) -> list[Path]:
    """Write <folder>/<dataset>-<model>-<figure>.png, .pdf, ... and .json; single heatmaps, too, for the report to switch.

    Returns:
        the files, the JSON file last.

    Raises:
        WcxError: an unknown format.
    """
    name = f"{plate.facts['dataset']}-{plate.facts['model']}-{plate.kind}"
    files = draw.write_figure(layouts.plate_figure(plate), folder / name, formats, dpi)
    path = folder / f"{name}.json"
    record = json_values(plate) | {"files": [file.name for file in files]}
    records.write(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    if len(plate.methods) == 1 and len(plate.contrasts) > 2 and not plate.in_pixels(plate.methods[0]):
        chosen = f"{layouts.heading(plate)[0]}: {plate.facts['rule']}"
        title = f"{chosen}\nthe classes of an image share one scale, each contrast its own"
        labels = {"dataset": plate.facts["dataset_label"], "model": plate.facts["model"], "method": plate.methods[0]}
        labels |= {key: plate.facts[key] for key in ("weights", "stand_in", "subset")}
        selected.write_frames(plate.pictures, folder / name, title, **labels)
    return [*files, path]


def json_values(plate: Plate) -> dict[str, Any]:
    """Return everything that a plate says and shows, as JSON values."""
    return {
        "figure": plate.kind,
        "title": layouts.heading(plate)[0],
        **{key: plate.facts[key] for key in _FIRST},
        "caption": layouts.caption(plate),
        "foils": plate.foils or "others",
        "baseline": plate.baseline,
        "scale": plate.scale,
        **{key: fact for key, fact in plate.facts.items() if key not in _FIRST},
        "images": list(map(partial(_image, plate), plate.pictures)),
    }


def _image(plate: Plate, picture: Picture) -> dict[str, Any]:
    classes = picture.predicted(max(3, len(picture.targets)))
    alike = {}
    for method, numbers in pictures.cosines(picture).items():
        alike[method] = {key: None if math.isnan(number) else round(number, 6) for key, number in numbers.items()}
    return {
        "id": picture.item.id,
        "index": picture.item.index,
        "truth": picture.truth,
        "classes": list(map(picture.names.__getitem__, classes)),
        "probabilities": _numbers(picture.probabilities[classes]),
        "explained": len(picture.targets),
        "maps": [_map(plate, picture, view) for view in picture.maps],
        "cosines": alike,
    }


def _map(plate: Plate, picture: Picture, view: View) -> dict[str, Any]:
    record: dict[str, Any] = {"method": view.method, "contrast": view.contrast}
    record["scale"] = float(f"{plate.scale_of(picture, view):.6g}")
    record["negative_share"] = _numbers((picture.maps[view] < 0).double().mean((1, 2)))
    if view in picture.hidden:
        record["hidden_share"] = _numbers(picture.hidden[view].share)
        record["probabilities_after"] = [_numbers(row) for row in picture.after(view)]
    return record


def _numbers(numbers: Tensor) -> list[float]:
    return [round(number, 6) for number in numbers.tolist()]


def _foils(job: GalleryJob) -> str:
    foils = job.settings.foils
    if (count := contrasts.Confused.count(foils)) is not None:
        return f"the {count} that the network confuses it with most"
    return (
        f"the {foils} most probable others"
        if isinstance(foils, int)
        else ", ".join(job.class_names[foil] for foil in foils or ())
    )


def _provenance(job: GalleryJob) -> dict[str, Any]:
    model = {"weights_hash": job.loaded.weights_hash, "layer": job.loaded.layer}
    run = {"dataset_listing": job.dataset.listing_hash(), "torch_threads": torch.get_num_threads()}
    return {
        "stand_in": job.loaded.stand_in,
        "settings": asdict(job.settings),
        "transform": asdict(job.dataset.transform),
        "manifest": manifest(device_of(job.loaded.model), **model, **run),
    }
