"""The figure of ours against the paper's Table 1."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from wcx.report import opened
from wcx.report.masking import paper
from wcx.report.masking.paper import Comparison
from wcx.report.pictures.draw import write_figure

_OURS, _THEIRS = "#1f5a94", "#e08214"
_MARKERS = ("o", "s", "^", "D", "v")
_WIDTH = 9.5  # inches


def figure(comparisons: Sequence[Comparison], path: Path, formats: str | Sequence[str] = "png") -> list[Path]:
    """Draw every comparison: the cells on the left, weighted - original on the right; the caption holds the numbers."""
    notes = list(chain.from_iterable(map(_caption, comparisons)))
    notes.append(f"Bars: {opened.INTERVALS[0].lower()}{opened.INTERVALS[1:]}")
    caption = "\n".join(textwrap.fill(note, 150, subsequent_indent="   ") for note in notes)
    height, below = 4.7 * len(comparisons), 0.17 * (caption.count("\n") + 2)
    canvas = Figure(figsize=(_WIDTH, height + below))
    upper, lower = canvas.subfigures(2, 1, height_ratios=[height, below])
    for block, comparison in zip(upper.subfigures(len(comparisons), 1, squeeze=False).flat, comparisons, strict=True):
        left, right = block.subplots(
            1, 2, gridspec_kw={"top": 0.87, "bottom": 0.2, "left": 0.08, "right": 0.98, "wspace": 0.22}
        )
        block.suptitle("\n".join(textwrap.wrap(comparison.title, 110)).replace("p_t2", "$p_{t_2}$"), fontsize=9.5)
        _cells(left, comparison)
        _pairs(right, comparison)
        block.legend(
            handles=_legend(comparison), fontsize=8, loc="center", bbox_to_anchor=(0.5, 0.07), ncols=4, frameon=False
        )
    lower.text(0.02, 0.95, caption, fontsize=7.5, va="top", linespacing=1.35)
    return write_figure(canvas, path, formats, dpi=130)


def _cells(ax: Axes, comparison: Comparison) -> None:
    cells, datasets = comparison.cells, list(dict.fromkeys(comparison.cells["dataset"]))
    ax.axline((0.5, 0.5), slope=1, color="0.6", linewidth=0.8, zorder=0)
    for (dataset, contrast), points in cells.groupby(["dataset", "contrast"], sort=False):
        ours = points["relative_probability"]
        ends = [(ours - points["ci_low"]).clip(lower=0), (points["ci_high"] - ours).clip(lower=0)]
        style = {"color": _OURS, "markerfacecolor": _OURS if contrast == "weighted" else "white", "markersize": 4.5}
        style |= {"elinewidth": 0.5, "ecolor": _OURS + "80", "markeredgewidth": 0.8, "zorder": 3}
        ax.errorbar(points["published"], ours, yerr=ends, fmt=_marker(datasets, dataset), **style)
    ax.set(xlim=(0, 1), ylim=(0, 1))
    _finish(ax, comparison.reproduced, "relative probability of $t_i$, a point a cell")


def _pairs(ax: Axes, comparison: Comparison) -> None:
    datasets = list(dict.fromkeys(comparison.cells["dataset"]))
    ours = paper.differences(comparison.cells, "relative_probability")
    reproduced = paper.differences(comparison.reproduced, "reproduction")
    for line in (ax.axhline, ax.axvline):
        line(0, color="0.8", linewidth=0.8, zorder=0)
    ax.axline((0, 0), slope=1, color="0.6", linewidth=0.8, zorder=0)
    for dataset, points in ours.groupby("dataset", sort=False):
        style = {"marker": _marker(datasets, dataset), "color": _OURS, "zorder": 3}
        ax.scatter(points["published"], points["relative_probability"], s=20, **style)
    agreement = comparison.ours
    _finish(ax, reproduced, f"weighted - original: the paper's sign in {agreement.agree} of {agreement.pairs}")


def _marker(datasets: Sequence[str], dataset: str) -> str:
    return _MARKERS[datasets.index(dataset) % len(_MARKERS)]


def _legend(comparison: Comparison) -> list[Line2D]:
    n = comparison.cells.groupby("dataset", sort=False)["n"].max().to_dict()
    ours = [_handle(f"ours, {name} (n = {n[name]})", _marker(list(n), name), _OURS, _OURS) for name in n]
    marks = [_handle("left: original", "o", _OURS, "white"), _handle("left: weighted", "o", _OURS, _OURS)]
    return [*ours, *marks, _handle("the reproduction, CUB-200", "x", _THEIRS, _THEIRS)]


def _handle(label: str, marker: str, colour: str, face: str) -> Line2D:
    return Line2D([], [], linestyle="", marker=marker, markersize=5, color=colour, markerfacecolor=face, label=label)


def _finish(ax: Axes, reproduced: pd.DataFrame, title: str) -> None:
    """Add the reproduction's points, and what both axes have."""
    places = reproduced["published"], reproduced["reproduction"]
    ax.scatter(*places, s=16, marker="x", linewidth=1, color=_THEIRS, zorder=4)
    ax.set_xlabel("the paper", fontsize=8.5)
    ax.set_ylabel("ours, and the reproduction", fontsize=8.5)
    ax.set_title(title, fontsize=9)
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)


def _caption(comparison: Comparison) -> list[str]:
    """Return the agreement, and for each network n, weights, subset and what was skipped."""
    sentence = comparison.sentence
    return [sentence[:1].upper() + sentence[1:], *map(str, opened.networks(comparison.cells))]
