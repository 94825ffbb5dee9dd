"""The drawing of Fig. 3: a panel a network, nested bars for accuracy, p_t (left axis) and y_t (right axis)."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from wcx.report.pictures.draw import write_figure
from wcx.report.sections import counted
from wcx.report.sign_perturbation.cells import ACCURACY, LOGIT, PROBABILITY, Chart, NetworkPanel

# The paper's grey, red and blue for its three iteration counts, in tones of Okabe and Ito that colour-blind readers tell
# apart by hue and by lightness; further counts take the rest of their palette. The hatch says the same without colour.
_COLOURS = ("#808080", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "----", "oooo")
_WIDTHS = {LOGIT: 0.94, PROBABILITY: 0.62, ACCURACY: 0.3}  # of a slot
_ERRORS = {LOGIT: -0.39, PROBABILITY: 0.235, ACCURACY: 0.0}  # where in the slot its interval stands
_GROUP = 0.9  # of the room of a contrast
_ENTRY = 1.6  # inches, of the legend
_PANEL = (4.1, 2.75)  # inches, of up to five contrasts among several networks


def draw_files(chart: Chart, caption: Sequence[str], path: Path, formats: str | Sequence[str]) -> list[Path]:
    """Draw one chart (see `figure`) and write it, see `write_figure`; return the files."""
    return write_figure(figure(chart, caption), path, formats, hatch=0.5)


def figure(chart: Chart, caption: Sequence[str]) -> Figure:
    """Return the drawing of one chart."""
    columns = min(len(chart.panels), 2 if len(chart.panels) == 4 else 3)
    rows = math.ceil(len(chart.panels) / columns)
    room = max(1.0, max(len(panel.cells) for panel in chart.panels) / 5)
    room *= {1: 1.6, 2: 1.3}.get(columns, 1)
    wide, high = columns * _PANEL[0] * room + 0.7, rows * _PANEL[1] * (1.2 if columns < 3 else 1)
    words = "\n".join(textwrap.fill(text, int(wide * 15.5), subsequent_indent="   ") for text in caption).split("\n")
    lines = _legend_lines(chart, wide)
    below, legend = 0.155 * len(words) + 0.15, 0.2 + 0.2 * len(lines)
    canvas = Figure(figsize=(wide, high + legend + below))
    FigureCanvasAgg(canvas)
    top, middle, bottom = canvas.subfigures(3, 1, height_ratios=[legend, high, below])
    for i, line in enumerate(lines):
        place = {"loc": "center", "bbox_to_anchor": (0.5, 0.5 + ((len(lines) - 1) / 2 - i) * 0.264 / legend)}
        labels = [patch.get_label() for patch in line]
        place |= {"bbox_transform": top.transSubfigure}
        top.add_artist(Legend(top, line, labels, **place, ncols=len(line), frameon=False, fontsize=9))
    inches = {"left": 0.75 / wide, "right": 1 - 0.75 / wide, "bottom": 0.35 / high, "top": 1 - 0.3 / high}
    axes = middle.subplots(rows, columns, squeeze=False, gridspec_kw=inches | {"wspace": 0.42, "hspace": 0.36})
    for ax in axes.flat[len(chart.panels) :]:
        ax.set_axis_off()
    for ax, panel, name in zip(axes.flat, chart.panels, _titles(chart), strict=False):
        _draw(ax, panel, name, chart)
    middle.text(0.12 / wide, 0.5, "change of $p_t$ and of accuracy", rotation=90, va="center", ha="left", fontsize=10)
    middle.text(1 - 0.12 / wide, 0.5, "change of $y_t$", rotation=270, va="center", ha="right", fontsize=10)
    bottom.text(0.2 / wide, 1, "\n".join(words), fontsize=8, va="top", linespacing=1.35)
    return canvas


def limits(left: Sequence[float], right: Sequence[float]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the limits of two axes that hold the values of each, with zero at the same height and some room around."""
    spans = [(max(0.0, -min(values)), max(0.0, *values)) for values in (left, right)]
    spans = [(low, high) if low + high > 0 else (0.0, 1.0) for low, high in spans]
    shares = [low / (low + high) for low, high in spans]  # of the height, that each would give to what is below zero
    below = max(shares) / (max(shares) + 1 - min(shares))  # stretches both axes equally, and as little as can be
    wholes = [max(low / below if below else 0.0, high / (1 - below) if below < 1 else 0.0) for low, high in spans]
    (a, b), (c, d) = ((-1.08 * below * whole, 1.08 * (1 - below) * whole) for whole in wholes)
    return (a, b), (c, d)


def tone(colour: int, quantity: int) -> tuple[float, ...]:
    """Return a count's colour for a quantity: pale for y_t, medium for p_t, deep for accuracy."""
    rgb = np.array(to_rgb(_COLOURS[colour % len(_COLOURS)]))
    share, end = {LOGIT: (0.74, 1.0), PROBABILITY: (0.18, 1.0), ACCURACY: (0.5, 0.0)}[quantity]
    return tuple(rgb + share * (end - rgb))


def _draw(ax: Axes, panel: NetworkPanel, name: str, chart: Chart) -> None:
    counts = _counts(chart)
    twin = ax.twinx()
    ax.set_zorder(twin.get_zorder() + 1)  # the pale bars of the right axis stand behind
    ax.patch.set_visible(False)
    values: dict[int, list[float]] = {LOGIT: [], PROBABILITY: [], ACCURACY: []}
    slot = _GROUP / len(counts)
    for place, (contrast, cell) in enumerate(panel.cells.items()):
        mean, (low, high) = cell.changes.mean(0), panel.interval(contrast)
        for i, count in enumerate(cell.iterations):
            colour = counts.index(count)
            x = place + (colour - (len(counts) - 1) / 2) * slot
            for quantity, drawn in ((LOGIT, twin), (PROBABILITY, ax), (ACCURACY, ax)):
                _bar(drawn, x, slot, mean[i, quantity], (low[i, quantity], high[i, quantity]), quantity, colour)
                values[quantity] += [mean[i, quantity], low[i, quantity], high[i, quantity]]
    left, right = limits([*values[PROBABILITY], *values[ACCURACY]], values[LOGIT])
    ax.set(xlim=(-0.55, len(panel.cells) - 0.45), ylim=left)
    twin.set_ylim(right)
    ax.axhline(0, color="0.2", linewidth=0.7, zorder=4)
    ax.set_xticks(range(len(panel.cells)), list(panel.cells), fontsize=9 if len(panel.cells) < 5 else 7.5)
    ax.set_title(name, fontsize=10, pad=5)
    for drawn in (ax, twin):
        drawn.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        drawn.tick_params(axis="y", labelsize=8)
        drawn.spines["top"].set_visible(False)
    ax.tick_params(axis="x", length=0)


def _bar(
    ax: Axes, x: float, slot: float, height: float, interval: tuple[float, float], quantity: int, colour: int
) -> None:
    hatch = _HATCHES[colour % len(_HATCHES)] if quantity == LOGIT else ""
    edge = tone(colour, PROBABILITY) if quantity == LOGIT else "none"
    width = _WIDTHS[quantity] * slot
    ax.bar(x, height, width, color=tone(colour, quantity), edgecolor=edge, hatch=hatch, linewidth=0.5, zorder=2)
    at = x + _ERRORS[quantity] * slot
    line = tone(colour, PROBABILITY) if quantity == LOGIT else "black"
    ax.vlines(at, *interval, color=line, linewidth=0.9, zorder=3)
    inside = np.clip(interval, min(height, 0), max(height, 0))
    if quantity == ACCURACY and inside[0] < inside[1]:  # black would not be seen on the deep bar
        ax.vlines(at, *inside, color="white", linewidth=1.1, zorder=3)


def _legend_lines(chart: Chart, wide: float) -> list[list[Patch]]:
    """Return the one legend: what the colours mean, then what the widths mean, in one line or in as many as `wide` inches need."""
    counts, fit = _counts(chart), int(wide / _ENTRY)
    handles = []
    for i, n in enumerate(counts):
        colours = {"facecolor": tone(i, LOGIT), "edgecolor": tone(i, PROBABILITY)}
        handles.append(Patch(**colours, hatch=_HATCHES[i % len(_HATCHES)], label=counted(n, "iteration")))
    names = {LOGIT: "wide: $y_t$ (right axis)", PROBABILITY: "medium: $p_t$ (left)", ACCURACY: "thin: accuracy (left)"}
    widths = [Patch(facecolor=tone(0, quantity), label=name) for quantity, name in names.items()]
    if len(handles + widths) <= fit:
        return [handles + widths]
    return [*(handles[i : i + fit] for i in range(0, len(handles), fit)), widths]


def _counts(chart: Chart) -> list[int]:
    return sorted(set().union(*(panel.iterations for panel in chart.panels)))


def _titles(chart: Chart) -> list[str]:
    """Return the panels' names: the network's, with what tells two of one name apart, and whether it is a stand-in."""
    models = [panel.model for panel in chart.panels]
    named = []
    for panel in chart.panels:
        notes = [panel.first.weights] if models.count(panel.model) > 1 else []
        notes += ["stand-in"] if panel.first.shard.labels.get("stand_in") and not notes else []
        named.append(panel.model + (f" ({', '.join(notes)})" if notes else ""))
    return named
