"""The figure beside a cell's records: the first selected images, each with its signed heatmaps for t_1 and t_2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from wcx.report import render


@dataclass
class Sample:
    """One image to show.

    Attributes:
        pixels: (3, H, W) in [0, 1].
        maps: (T, H, W), signed.
        names: of the T explained classes.
        probabilities: of the T explained classes.
        truth: the true class's name.
    """

    pixels: Tensor
    maps: Tensor
    names: Sequence[str]
    probabilities: Sequence[float]
    truth: str


def figure(samples: Sequence[Sample], path: Path, title: str) -> Path:
    """Draw the samples, two a row, and write them to `path`; the maps of one image share one scale."""
    columns = min(2, len(samples))
    rows = -(-len(samples) // columns)
    canvas = Figure(figsize=(6.6 * columns, 2.75 * rows + 0.5), layout="constrained")
    FigureCanvasAgg(canvas)
    canvas.suptitle(title, fontsize=9)
    blocks = canvas.subfigures(rows, columns, squeeze=False).flat
    for block, sample in zip(blocks, samples, strict=False):
        _draw(block, sample)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=110, metadata={"Software": None})
    return path


def _draw(block: SubFigure, sample: Sample) -> None:
    axes = block.subplots(1, 1 + len(sample.maps))
    render.photograph(axes[0], sample.pixels)
    axes[0].set_title(render.wrap(f"is: {sample.truth}"), fontsize=8)
    scale = render.scale_of(sample.maps)
    for i, (ax, attribution) in enumerate(zip(axes[1:], sample.maps, strict=True)):
        image = render.overlay(ax, sample.pixels, attribution, scale)
        name = render.wrap(sample.names[i])
        ax.set_title(f"$t_{i + 1}$, p = {sample.probabilities[i]:.2f}\n{name}", fontsize=8)
    render.colour_bar(block, image, axes[1:], scale)
