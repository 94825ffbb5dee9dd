"""The figure beside a cell's records: the first selected images, each with its signed heatmaps for t_1 and t_2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from matplotlib.axes import Axes
from torch import Tensor

from wcx.contrasts import most_probable
from wcx.experiments import Cell
from wcx.experiments.base import at_pixels
from wcx.experiments.selection import subscript
from wcx.pipeline import Job
from wcx.records import Shard
from wcx.report import render
from wcx.report.sheet import Line, Panel, Sheet

_SIDE = 1.5  # of a panel, inches


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


def samples(job: Job, shards: Sequence[Shard], most: int = 8) -> list[Sample]:
    """Return the first images above the threshold with the maps of the shards (of one method); none if nothing is selected."""
    if not job.experiment.selects or not most:
        return []
    rows = shards[0].read().query("above_threshold").head(most)
    if rows.empty:
        return []
    cells = [Cell(shard.key[2], shard.key[3]) for shard in shards]
    subject, names, settings = job.subject(cells), job.class_names(), job.settings
    items = job.read(rows["index"].tolist())
    pixels = torch.stack([item.pixels for item in items if item.pixels is not None]).to(subject.device)
    look = subject.look(pixels)
    targets = most_probable(look.logits, settings.targets)
    maps = look.maps(cells, targets, settings.foil_masks(look.logits, targets))
    large = {cell.contrast: at_pixels(maps[cell], pixels.shape, settings.align_corners) for cell in cells}
    chosen = []
    for i, (_, row) in enumerate(rows.iterrows()):
        classes = [names[int(row[rank])] for rank in settings.ranks]  # floats beside an image that was skipped
        probabilities = [row[f"p_t{j + 1}"] for j in range(settings.targets)]
        attributions = {contrast: m[:, i] for contrast, m in large.items()}
        chosen.append(Sample(pixels[i], attributions, classes, probabilities, names[int(row["label"])]))
    return chosen


def title(name: str, count: int, threshold: float) -> str:
    """Return the title of the figure of selected images."""
    return (
        f"{name}: the first {count} images with p_t2 > {threshold}\n"
        "red speaks for the class, blue against it; t_1 and t_2 of an image share one scale (each contrast its own)"
    )


def figure(samples: Sequence[Sample], path: Path, title: str) -> Path:
    """Draw the samples and write them to `path`; the maps of one image under one contrast share one scale."""
    targets = len(samples[0].names)
    groups = [(1 + i * targets, (i + 1) * targets) for i in range(len(samples[0].maps))]
    gaps = [0.2] + ([0.08] * (targets - 1) + [0.24]) * len(groups)
    sheet = Sheet([_SIDE] * (1 + targets * len(groups)), gaps[:-1])
    sheet.text([Line(line, bold=i == 0) for i, line in enumerate(title.splitlines())])
    for sample in samples:
        sheet.gap(0.06)
        sheet.rule()
        sheet.gap(0.08)
        contrasts = zip(groups, sample.maps, strict=True)
        sheet.spans([(first, last, Line(name, bold=True)) for (first, last), name in contrasts])
        sheet.panels([_photograph(sample), *_maps(sample)])
        sheet.bars([(*group, render.scale_of(maps)) for group, maps in zip(groups, sample.maps.values(), strict=True)])
    render.save(sheet.figure(), path.with_suffix(""), [path.suffix[1:]], dpi=110)
    return path


def _photograph(sample: Sample) -> Panel:
    above = [Line(f"is: {sample.truth}", bold=True)]
    return Panel(lambda ax: render.photograph(ax, sample.pixels), above=above)


def _maps(sample: Sample) -> list[Panel]:
    panels = []
    for maps in sample.maps.values():
        draw = partial(_overlay, sample.pixels, render.scale_of(maps))
        for i, (one, name, p) in enumerate(zip(maps, sample.names, sample.probabilities, strict=True), 1):
            about = Line(f"t{subscript(i)}, p = {p:.3f}", colour="0.25", size=6.5)
            panels.append(Panel(partial(draw, one), above=[Line(name), about]))
    return panels


def _overlay(pixels: Tensor, scale: float, attribution: Tensor, ax: Axes) -> None:
    render.overlay(ax, pixels, attribution, scale)
