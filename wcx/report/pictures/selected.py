"""The first selected images of a cell's records: the figure beside them, and single heatmaps for the report to switch between.

<folder>/frames.json         dataset, model, method, title, and for each image: names, probabilities, files
<folder>/0.jpg               a photograph
<folder>/0-weighted-t_1.jpg  its heatmap for t_1 under a contrast
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from torch import Tensor

from wcx import records
from wcx.experiments import Cell, pictures
from wcx.experiments.pictures import Picture
from wcx.pipeline import Job
from wcx.records import Shard
from wcx.report.pictures import draw, layouts
from wcx.report.pictures.plate import Plate

SIDE = 224  # pixels, of the shorter side of a frame
INDEX = "frames.json"


def selected(job: Job, shards: Sequence[Shard], most: int = 8) -> list[Picture]:
    """Return the first images above the threshold with the maps of the shards (of one method); none if nothing is selected."""
    if not job.experiment.selects or not most:
        return []
    indices = shards[0].read().query("above_threshold").head(most)["index"].tolist()
    cells, settings = [Cell(*shard.key[2:4]) for shard in shards], job.settings
    subject = job.subject(cells)
    ask = pictures.most_probable(subject, settings.targets, cells, settings.foils)
    items = list(job.read(indices)) if indices else []
    return pictures.explain(subject, items, job.class_names(), ask, settings.align_corners)


def title_of(name: str, count: int, threshold: float) -> str:
    """Return the title of the figure of selected images."""
    return (
        f"{name}: the first {count} images with p_t2 > {threshold}\n"
        "red speaks for the class, blue against it; t_1 and t_2 of an image share one scale (each contrast its own)"
    )


def write(
    job: Job, shards: Sequence[Shard], most: int, formats: str | Sequence[str] = "png", style: str = "colour"
) -> list[Path]:
    """Draw the first selected images of a job under every contrast, a figure for each method; return the figures."""
    figures = []
    mask, seed = job.settings.mask, job.loaded.meta.get("seed")
    variant = (f"-{mask}" if mask != "sign" else "") + (f"-seed{seed}" if seed else "")
    labels = shards[0].labels
    for method in dict.fromkeys(cell.method for cell in job.cells):
        path = job.results_dir / "figures" / f"{job.dataset.name}-{job.loaded.name}-{method}{variant}"
        if explained := selected(job, [shard for shard in shards if shard.key[2] == method], most):
            name = f"{job.dataset.name} {job.loaded.name} {method}"
            title = title_of(name, len(explained), job.settings.threshold)
            figures += write_selected(explained, path, title, labels, formats, style)
            facts = {key: labels[key] for key in ("dataset", "weights", "stand_in", "subset")}
            write_frames(explained, path, title, model=job.loaded.name, method=method, **facts)
    return figures


def write_selected(
    explained: Sequence[Picture],
    path: Path,
    title: str,
    labels: Mapping[str, Any],
    formats: str | Sequence[str] = "png",
    style: str = "colour",
) -> list[Path]:
    """Draw the pictures, see `draw.write_figure`; the maps of one image under one contrast share one scale.

    `labels` are the records' own: their weights and subset stand below the title.
    """
    facts = {"title": title, "weights": labels["weights"], "subset": labels["subset"]}
    figure = layouts.plate_figure(Plate("selected", explained, facts, style=style))
    return draw.write_figure(figure, path, formats, dpi=110)


def write_frames(explained: Sequence[Picture], folder: Path, title: str, **facts: object) -> Path:
    """Write the photographs and heatmaps of pictures of one method; the maps of one image under one contrast share one scale.

    Args:
        folder: for the files; what was in it of an earlier run goes.
        title: how the images were chosen; lines are sentences.
        facts: more that is said of them: dataset (its name in tables), model, method, weights, stand_in, subset.

    Returns:
        the index, frames.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*.jpg"), folder / INDEX):
        old.unlink(missing_ok=True)
    images = [_frames(picture, i, folder) for i, picture in enumerate(explained)]
    records.write(folder / INDEX, json.dumps({"title": title} | facts | {"images": images}, indent=1))
    return folder / INDEX


def _frames(picture: Picture, i: int, folder: Path) -> dict[str, object]:
    pixels = picture.pixels
    photograph = _save(pixels, partial(draw.paint_photograph, pixels=pixels), folder / f"{i}.jpg")
    frames: dict[str, list[str]] = {}
    for view, maps in picture.maps.items():
        scale, frames[view.contrast] = draw.scale_of(maps), []
        for j, attribution in enumerate(maps):
            paint = partial(draw.paint_map, pixels=pixels, attribution=attribution, scale=scale)
            frames[view.contrast].append(_save(pixels, paint, folder / f"{i}-{view.contrast}-t_{j + 1}.jpg"))
    return {
        "photograph": photograph,
        "truth": picture.truth,
        "names": list(map(picture.names.__getitem__, picture.targets)),
        "probabilities": [round(picture.p(target), 6) for target in picture.targets],
        "frames": frames,
    }


def _save(pixels: Tensor, paint: Callable[[Axes], object], path: Path) -> str:
    buffer = io.BytesIO()
    draw.frame(pixels, paint, SIDE).save(buffer, "JPEG", quality=86)
    records.write(path, buffer.getvalue())
    return path.name
