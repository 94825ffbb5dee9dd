"""The paper's layout of Table 1: what stands in which line and column, for the screen, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from wcx.report.recorded import Recorded

METHODS = {"linear_approximation": "LA", "gradcam": "GC", "xgradcam": "XGC"}
CONTRASTS = {"original": "ori.", "weighted": "wtd."}
BASELINES = {"blur": "Gaussian Blur", "zeros": "Zeros", "mean": "Channel-wise Mean"}
KEPT = {"positive": "Pos.", "negative": "Neg."}
LEVEL = 0.05


@dataclass(frozen=True)
class Part:
    """Everything of one protocol.

    Attributes:
        name: the protocol in words.
        members: the records.
        frames: Table 1 by "", and the other tables by what follows ``table1_`` in their files' names.
    """

    name: str
    members: Sequence[Recorded]
    frames: dict[str, pd.DataFrame]


@dataclass(frozen=True)
class Value:
    """A number as it is shown.

    Attributes:
        text: with three decimals; "-" where there is none.
        best: the better of its pair (or the best of its group), as shown.
        row: the table's row it comes from, for what is shown beside it; empty where there is none.
    """

    text: str
    best: bool = False
    row: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    """A line of a grid.

    Attributes:
        network: which of the grid's networks.
        labels: method, target and, where contrasts stand below one another, contrast.
        unmasked: relative probability before masking.
        values: a number for each of `Grid.columns`.
        masked: share of masked pixels in per cent, for each of `Grid.masked`.
    """

    network: int
    labels: tuple[str, ...]
    unmasked: str
    values: list[Value]
    masked: list[str]


@dataclass(frozen=True)
class Grid:
    """Table 1 of one model and protocol.

    Attributes:
        title: model and protocol.
        networks: (dataset, n, notes) of every trained network: weights, subset, skipped images.
        stub: names of the label columns.
        columns: (baseline, kept, contrast) of the numbers; contrast is "" where they stand below one another.
        masked: (kept, contrast) of the shares: the same for all baselines.
        lines: in order.
        widest: half the width of the widest interval.
    """

    title: str
    networks: list[tuple[str, str, list[str]]]
    stub: tuple[str, ...]
    columns: list[tuple[str, str, str]]
    masked: list[tuple[str, str]]
    lines: list[Line]
    widest: float


def grids(table: pd.DataFrame, protocol: str = "") -> list[Grid]:
    """Return a grid a model.

    Args:
        table: Table 1 (see `table1.HEADER`) of one protocol.
        protocol: in words; "" makes them from the table.
    """
    made = []
    for model, block in told_apart(table).groupby("model", sort=False):
        first = block.iloc[0]
        words = protocol or f"p_t2 > {first['threshold']:g}, mask={first['mask']}"
        made.append(_grid(f"{model}, {words}", block))
    return made


def plain(grid: Grid) -> str:
    """Return a grid for the screen; * marks the better."""
    names = [("", "", name) for name in ("dataset", *grid.stub, "unmasked")]
    names += [(BASELINES.get(b, b), KEPT[k], CONTRASTS.get(c, c)) for b, k, c in grid.columns]
    names += [("masked %", KEPT[k], CONTRASTS.get(c, c)) for k, c in grid.masked]
    rows = [
        [grid.networks[line.network][0], *line.labels, line.unmasked]
        + [f"{value.text}{'*' if value.best else ' '}" for value in line.values]
        + line.masked
        for line in grid.lines
    ]
    body = pd.DataFrame(rows, columns=pd.MultiIndex.from_tuples(names)).to_string(index=False)
    notes = [f"{dataset}: n = {n} images; {'; '.join(notes)}" for dataset, n, notes in grid.networks]
    return "\n".join([grid.title, *notes, body])


def lines(part: Part) -> list[str]:
    """Return what the screen says of one protocol: the table, and what the tests found."""
    blocks = ["\n" + plain(grid) for grid in grids(part.frames[""], part.name)]
    return [*blocks, *findings(part)]


def findings(part: Part) -> list[str]:
    """Return in how many cells weighted beats original, a sentence a model; the same of localisation."""
    found = []
    for model, cells in part.frames["paired"].groupby("model", sort=False):
        sure = cells["p_holm"] < LEVEL
        wins, losses = cells["better"] == "weighted", cells["better"] == "original"
        found.append(
            f"{model}, {part.name}: weighted beats original in {wins.sum()} of {len(cells)} cells ({(wins & sure).sum()} with "
            f"p < {LEVEL} after Holm's correction for m = {cells['m'].iloc[0]}), original beats weighted in {losses.sum()} "
            f"({(losses & sure).sum()}). Hidden pixels, weighted against original: {_hidden(cells, 'positive')} where positive "
            f"features are kept, {_hidden(cells, 'negative')} where negative ones are"
        )
    for (model, dataset), cells in part.frames["localisation"].groupby(["model", "dataset"], sort=False):
        sure = cells["p_holm"] < LEVEL
        more, less = cells["difference"] < 0, cells["difference"] > 0
        found.append(
            f"{model}, {dataset}: original has more of its positive attribution inside the box in {more.sum()} of {len(cells)} "
            f"cells ({(more & sure).sum()} with p < {LEVEL} after Holm's correction for m = {cells['m'].iloc[0]}), weighted in "
            f"{less.sum()} ({(less & sure).sum()})"
        )
    return found


def _hidden(cells: pd.DataFrame, kept: str) -> str:
    some = cells[cells["features_kept"] == kept]
    return " against ".join(f"{100 * some[f'masked_{name}'].mean():.0f} %" for name in ("weighted", "original"))


def told_apart(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose datasets' names tell networks apart: where several stand for one, their seeds are added."""
    several = frame.groupby(["dataset", "model"])["weights"].transform("nunique") > 1
    seeds = frame["weights"].str.rpartition(", ")[2]
    return frame.assign(dataset=frame["dataset"].where(~several, frame["dataset"] + ", " + seeds))


def capital(text: str) -> str:
    """Return a sentence with its first letter large."""
    return text[:1].upper() + text[1:]


def _grid(title: str, block: pd.DataFrame) -> Grid:
    contrasts, baselines = list(dict.fromkeys(block["contrast"])), list(dict.fromkeys(block["baseline"]))
    beside = len(contrasts) <= 2
    across = contrasts if beside else [""]
    grid = Grid(
        title,
        networks=[],
        stub=("method", "target") if beside else ("method", "target", "contrast"),
        columns=[(baseline, kept, contrast) for baseline in baselines for kept in KEPT for contrast in across],
        masked=[(kept, contrast) for kept in KEPT for contrast in across],
        lines=[],
        widest=float((block["ci_high"] - block["ci_low"]).max() / 2),
    )
    for (dataset, _), network in block.groupby(["dataset", "weights"], sort=False):
        n = "/".join(map(str, dict.fromkeys(network["n"])))
        for (method, target), cells in network.groupby(["method", "target"], sort=False):
            labels = (METHODS.get(method, method), target)
            for own in [""] if beside else dict.fromkeys(cells["contrast"]):
                named = (*labels, CONTRASTS.get(own, own)) if own else labels
                grid.lines.append(_line(grid, cells, named, own))
        grid.networks.append((dataset, n, notes(network)))
    return grid


def _line(grid: Grid, cells: pd.DataFrame, labels: tuple[str, ...], own: str) -> Line:
    """Return the line of one network, method and target, and of the contrast `own` where contrasts stand below one another."""
    numbers = cells.dropna(subset="relative_probability").set_index(["baseline", "features_kept", "contrast"])
    shown = {key: f"{value:.3f}" for key, value in numbers["relative_probability"].items()}
    shares = {key[1:]: f"{100 * value:.0f}" for key, value in numbers["masked_fraction"].items()}
    rows = numbers.to_dict("index")

    def value(baseline: str, kept: str, contrast: str) -> Value:
        rivals = {text for key, text in shown.items() if key[:2] == (baseline, kept)}
        best = max(rivals, default="") if kept == "positive" else min(rivals, default="")
        text = shown.get((baseline, kept, contrast), "-")
        return Value(text, text == best and len(rivals) > 1, rows.get((baseline, kept, contrast), {}))

    return Line(
        network=len(grid.networks),
        labels=labels,
        unmasked=f"{cells['relative_probability_unmasked'].iloc[0]:.3f}",
        values=[value(baseline, kept, contrast or own) for baseline, kept, contrast in grid.columns],
        masked=[shares.get((kept, contrast or own), "-") for kept, contrast in grid.masked],
    )


def notes(network: pd.DataFrame) -> list[str]:
    """Return what is to be said of one network's numbers: weights, subset, skipped images, foils."""
    notes = [network["weights"].iloc[0], *(note for note in dict.fromkeys(network["subset"]) if note)]
    skipped = int(network["n_skipped"].max())
    notes += [f"{skipped} unreadable image{'s' if skipped > 1 else ''} skipped"] if skipped else []
    foils = [foils for foils in dict.fromkeys(network["foils"]) if foils != "others"]
    return notes + [f"foils: {one}" for one in foils]
