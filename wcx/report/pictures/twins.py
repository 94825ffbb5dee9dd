"""One image, several foils in turn, and what a map answers: the experiment twins in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from wcx import methods
from wcx.experiments import Cell, images, pictures
from wcx.experiments._answers import Answered
from wcx.experiments.base import Subject
from wcx.experiments.images import Item
from wcx.experiments.pictures import Asked, Picture, View
from wcx.pipeline import Job
from wcx.records import Shard
from wcx.report.pictures import draw
from wcx.report.pictures.plate import Plate, method_title
from wcx.report.pictures.sheet import Label, Sheet, Tile, bold, fine

SIDE, MOST = 1.72, 4  # of a tile, inches; foils at most
BASE = "original"


@dataclass(frozen=True)
class Turn:
    """One foil: the part in which it differs, its class, and what the image would be.

    Attributes:
        part: in which it differs.
        foil: its class id.
        pixels: of the twin, (channels, H, W).
        regions: of the visible parts, by name, bool (H, W).
    """

    part: str
    foil: int
    pixels: Tensor
    regions: dict[str, Tensor]


def turns(item: Item) -> list[Turn]:
    """Return the foils of an image that differ from it in one visible part each."""
    if item.twins is None or item.pixels is None:
        return []
    answered = Answered(item.pixels, item.twins, item.label, torch.empty(0))
    found = []
    for swapped, foil, pixels in zip(item.twins.swaps, item.twins.labels, item.twins.pixels, strict=True):
        regions = answered.regions(swapped)
        if len(swapped) == 1 and swapped <= set(regions):
            found.append(Turn(next(iter(swapped)), foil, pixels, regions))
    return found[:MOST]


def explain(subject: Subject, item: Item, names: Sequence[str], cell: Cell, align_corners: bool = False) -> Picture:
    """Return an image with the map of its class alone, and those against each foil of `turns`, one after the other."""
    foils = turns(item)

    def ask(logits: Tensor) -> tuple[Tensor, Asked]:
        targets = torch.full((1, 1), item.label, device=logits.device)
        masks = {turn.part: torch.zeros(1, *logits.shape, dtype=torch.bool, device=logits.device) for turn in foils}
        for turn in foils:
            masks[turn.part][..., turn.foil] = True
        alone = subject.foil_masks(logits, targets, None)
        return targets, {
            View(cell.method, BASE, "none"): alone,
            **{View(*cell, part): mask for part, mask in masks.items()},
        }

    return pictures.explain(subject, [item], names, ask, align_corners)[0]


def top_part(attribution: Tensor, turn: Turn) -> str:
    """Return the visible part with the largest mean of a map (H, W)."""
    means = {part: float(attribution.double()[region].mean()) for part, region in turn.regions.items()}
    return max(means, key=lambda part: means[part])


def write(job: Job, shards: Sequence[Shard], formats: str | Sequence[str] = "png", style: str = "colour") -> list[Path]:
    """Draw the first image whose answers are all right, for each method with a contrast; return the files."""
    files = []
    for method in dict.fromkeys(shard.key[2] for shard in shards):
        shard = next((s for s in reversed(shards) if s.key[2] == method and s.key[3] != BASE), None)
        rows = shard.read() if shard else None
        if shard is None or rows is None or "top_mean/q3/verified" not in rows:
            continue
        asked = rows[(rows["verified/q3"] == rows["asked/q3"]) & (rows["asked/q3"] > 0)]
        right = asked[asked["top_mean/q3/verified"] == 1]
        if not len(right):
            continue
        [item] = images.read(job.dataset, [int(right["index"].iloc[0])], job.outputs, 1, needs_twins=True)
        cell = Cell(method, shard.key[3])
        subject = job.subject([cell])
        picture = explain(subject, item, job.class_names(), cell, job.settings.align_corners)
        rule = f"The first of the {len(right)} of {len(asked)} images in which the answers to all foils are right"
        facts = {"model": job.loaded.name, "weights": job.loaded.weights, "rule": rule}
        layer = "" if subject.layer is None or methods.get(method).space == "input" else subject.layer
        facts |= {"layer": layer}
        name = "-".join(filter(None, ("twins", job.dataset.name, job.loaded.name, method, layer, f"seed{job.seed}")))
        path = job.results_dir / "figures" / name.replace(".", "_")
        files += draw.write_figure(figure(picture, cell, facts, style), path, formats, dpi=150)
    return files


def figure(picture: Picture, cell: Cell, facts: dict[str, str], style: str = "colour") -> Figure:
    """Return the picture: a column a foil; its twin, the map of the class alone, and the one against it."""
    foils, plate = turns(picture.item), Plate("twins", [picture], facts, style=style)
    sheet = Sheet([SIDE] * (1 + len(foils)), [0.22] + [0.1] * (len(foils) - 1))
    words = [_difference(picture.truth, picture.names[turn.foil]) for turn in foils]
    sheet.text([Label("Why this one, and not …", bold=True, size=11)])
    sheet.gap(0.05)
    above = [bold(f"… {other}?") for other in words]
    twins = [_photograph(turn.pixels, turn, [label]) for turn, label in zip(foils, above, strict=True)]
    sheet.tiles([plate.photograph(picture, [bold("this one")], [fine(picture.truth)]), *twins])
    sheet.gap(0.12)
    alone = View(cell.method, BASE, "none")
    title = method_title(cell.method)
    rows = {
        f"{title[:1].upper()}{title[1:]}: the class": [alone] * len(foils),
        "The class, rather than the foil": [View(*cell, turn.part) for turn in foils],
    }
    notes = [
        "One map, whatever the question.",
        "A map for each question: the contrast with the one foil that is asked about.",
    ]
    for (title, views), note in zip(rows.items(), notes, strict=True):
        tiles = [_answer(plate, picture, view, turn) for view, turn in zip(views, foils, strict=True)]
        sheet.tiles([Tile(inside=[bold(title), Label(note)]), *tiles])
        sheet.gap(0.1)
    sheet.rule()
    lines = [
        "First row: the same scene, with the one part changed in which the foil differs; the line runs around both looks of it. "
        f"Red speaks for the class, blue{', hatched,' * (style == 'print')} against it; each map has a scale of its own. "
        "Below: the part with the map's largest mean.",
        f"{facts['rule']}; {facts['model']}, {facts['weights']}"
        + (f", layer {facts['layer']}." if facts["layer"] else "."),
    ]
    sheet.text([fine(line) for line in lines])
    return sheet.figure()


def _photograph(pixels: Tensor, turn: Turn, above: Sequence[Label]) -> Tile:
    def paint(ax: Axes) -> None:
        draw.paint_photograph(ax, pixels)
        _outline(ax, turn)

    return Tile(paint, above)


def _answer(plate: Plate, picture: Picture, view: View, turn: Turn) -> Tile:
    """Return a map with a line around the part that differs, and the part with its largest mean below."""
    part, scale = top_part(picture.maps[view][0], turn), plate.scale_of(picture, view)
    pixels = None if plate.in_pixels(view.method) else picture.pixels

    def paint(ax: Axes) -> None:
        draw.paint_map(ax, pixels, plate.drawn(picture, view)[0], scale, plate.style, has_line=False)
        if pixels is not None:
            _outline(ax, turn)

    is_right = part == turn.part
    return Tile(
        paint, below=[Label(f"{'✓' if is_right else '✗'} {part}", draw.FOR if is_right else "0.35", bold=is_right)]
    )


def _outline(ax: Axes, turn: Turn) -> None:
    ax.contour(turn.regions[turn.part].double().numpy(), levels=[0.5], colors="black", linewidths=1.1)


def _difference(name: str, other: str) -> str:
    """Return the words of another name that a name has not; all of it, where there are none."""
    return " ".join(word for word in other.split() if word not in name.split()) or other
