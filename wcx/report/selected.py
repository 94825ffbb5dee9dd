"""The figure beside a cell's records: the first selected images, each with its signed heatmaps for t_1 and t_2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from wcx.report import render


@dataclass
class Sample:
    """One image to show.

    Attributes:
        pixels: (3, H, W) in [0, 1].
        maps: by contrast, (T, H, W), signed.
        names: of the T explained classes.
        probabilities: of the T explained classes.
        truth: the true class's name.
    """

    pixels: Tensor
    maps: Mapping[str, Tensor]
    names: Sequence[str]
    probabilities: Sequence[float]
    truth: str


def figure(samples: Sequence[Sample], path: Path, title: str) -> Path:
    """Draw the samples and write them to `path`; the maps of one image under one contrast share one scale."""
    shown = sum(len(maps) for maps in samples[0].maps.values())
    columns = 2 if shown <= 2 and len(samples) > 1 else 1
    rows = -(-len(samples) // columns)
    canvas = Figure(figsize=(columns * (2.05 * (1 + shown) + 0.7 * len(samples[0].maps)), 2.6 * rows + 0.5))
    canvas.set_layout_engine("constrained", h_pad=0.06, w_pad=0.04)
    FigureCanvasAgg(canvas)
    canvas.suptitle(title, fontsize=9)
    groups = canvas.subfigures(rows, columns, squeeze=False).flat
    for block, sample in zip(groups, samples, strict=False):
        axes = block.subplots(1, 1 + shown)
        _draw(axes[0], list(axes[1:]), sample)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=110, metadata={"Software": None})
    return path


def _draw(first: Axes, axes: list[Axes], sample: Sample) -> None:
    render.photograph(first, sample.pixels)
    first.set_title(f"is:\n{render.wrap(sample.truth)}", fontsize=8)
    for contrast, maps in sample.maps.items():
        scale, own = render.scale_of(maps), [axes.pop(0) for _ in maps]
        for i, (ax, attribution) in enumerate(zip(own, maps, strict=True)):
            image = render.overlay(ax, sample.pixels, attribution, scale)
            ax.set_title(
                f"{contrast}, $t_{i + 1}$: p = {sample.probabilities[i]:.2f}\n{render.wrap(sample.names[i])}",
                fontsize=8,
            )
        render.colour_bar(first.get_figure(), image, own, scale)
