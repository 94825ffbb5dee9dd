"""The selected images once more, a file for every heatmap: what the report lays over one another to switch between contrasts.

<folder>/frames.json         dataset, model, method, title, and for each image: names, probabilities, files
<folder>/0.jpg               a photograph
<folder>/0-weighted-t_1.jpg  its heatmap for t_1 under a contrast
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from wcx import records
from wcx.report import render
from wcx.report.selected import Sample

SIDE = 224  # pixels, of the shorter side
INDEX = "frames.json"


def write(samples: Sequence[Sample], folder: Path, title: str, **facts: str) -> Path:
    """Write the photographs and heatmaps of the samples; the maps of one image under one contrast share one scale.

    Args:
        samples: as `selected.figure` draws them.
        folder: for the files; what was in it of an earlier run goes.
        title: how the images were chosen; lines are sentences.
        facts: more that is said of them: dataset (its name in tables), model, method, weights, subset.

    Returns:
        the index, frames.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*.jpg"), folder / INDEX):
        old.unlink(missing_ok=True)
    images = [_write(sample, i, folder) for i, sample in enumerate(samples)]
    records.write(folder / INDEX, json.dumps({"title": title} | facts | {"images": images}, indent=1))
    return folder / INDEX


def _write(sample: Sample, i: int, folder: Path) -> dict[str, object]:
    figure, ax = _canvas(sample)
    render.photograph(ax, sample.pixels)
    names = {"photograph": _save(figure, folder / f"{i}.jpg")}
    frames: dict[str, list[str]] = {}
    for contrast, maps in sample.maps.items():
        scale = render.scale_of(maps)
        frames[contrast] = []
        for j, attribution in enumerate(maps):
            figure, ax = _canvas(sample)
            render.overlay(ax, sample.pixels, attribution, scale)
            frames[contrast].append(_save(figure, folder / f"{i}-{contrast}-t_{j + 1}.jpg"))
    probabilities = [round(float(p), 6) for p in sample.probabilities]
    return names | {
        "truth": sample.truth,
        "names": list(sample.names),
        "probabilities": probabilities,
        "frames": frames,
    }


def _canvas(sample: Sample) -> tuple[Figure, Axes]:
    """Return a figure that its one axes fills, in the photograph's proportions."""
    height, width = sample.pixels.shape[-2:]
    inches = SIDE / 100 / min(height, width)
    figure = Figure(figsize=(width * inches, height * inches), dpi=100)
    FigureCanvasAgg(figure)
    return figure, figure.add_axes((0, 0, 1, 1))


def _save(figure: Figure, path: Path) -> str:
    buffer = io.BytesIO()
    figure.canvas.draw()
    Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3]).save(buffer, "JPEG", quality=86)
    records.write(path, buffer.getvalue())
    return path.name
