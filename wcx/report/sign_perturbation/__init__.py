"""The report of the sign_perturbation experiment: Fig. 3, and every change, difference and correlation behind it.

One figure a dataset, method and protocol (epsilon, target rule, precision, foils; iteration counts stand side by side in one):
fig3.png and .pdf show the one with the most networks, contrasts and images; the others are named by what differs
(fig3-eps0.001.png). The tables hold them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain

import pandas as pd

from wcx.records import Shard
from wcx.report import opened
from wcx.report.sections import Plot, Section, counted
from wcx.report.sign_perturbation import cells, numbers, plot
from wcx.report.sign_perturbation.cells import protocol
from wcx.report.sign_perturbation.numbers import SIGNS
from wcx.report.tables import Table, gathered

__all__ = ["protocol", "section"]
_INTRO = (
    "Every pixel moves a little in the direction in which a contrast's gradient points, in so many steps; then we look at the "
    "true class: its logit y_t, its probability p_t, and whether it is the most probable. What explains the probability should "
    "move the probability, and the accuracy with it."
)
_ALT = (
    "Fig. 3: change of logit, probability and accuracy, by contrast and number of steps; the tables hold the numbers."
)
_BARS = "Changes under gradient-sign perturbation, a group of bars a contrast, a colour an iteration count. Lines: intervals."


def section(shards: Sequence[Shard], refused: list[str] | None = None) -> Section:
    """Return the section; see `sections.of`.

    Raises:
        WcxError: two sets of records that would be the same line.
    """
    opened_cells = cells.read(shards, refused)
    charts = cells.charts(opened_cells)
    divided = [numbers.tables(chart) for chart in charts]
    plots: list[Plot] = []
    findings: list[str] = []
    for chart, (changes, pairs, _) in zip(charts, divided, strict=True):
        zeros = list(_zero_gradients(changes.frame))
        caption = [f"{chart.title}. {_BARS}", *gathered(changes.networks), *zeros, opened.INTERVALS]
        draw = partial(plot.draw_files, chart, caption)
        plots.append(Plot(f"fig3-{chart.name}" if plots else "fig3", chart.title, _ALT, draw))
        findings += [*_findings(pairs), *zeros]
    networks = {(cell.network, cell.seed) for cell in opened_cells}
    rows = sum(len(changes.frame) for changes, *_ in divided)
    return Section(
        name="sign_perturbation",
        title="Fig. 3: perturbation",
        intro=_INTRO,
        tables=list(chain.from_iterable(divided)),
        plots=plots,
        findings=findings if charts else ["no records of an image that could be read: no Fig. 3"],
        problems=list(refused or ()),
        notes=opened.unchecked([cell.shard for cell in opened_cells]),
        state=f"{counted(len(networks), 'network')}, {counted(rows, 'row')}" if rows else "",
        headline=_headline(divided[0][1].frame) if charts else None,
        stale=("fig3", "fig3-*"),
        document="fig3",
    )


def _findings(pairs: Table) -> Iterator[str]:
    """Yield in how many conditions weighted is ahead of each other contrast, a sentence each."""
    for rival, rows in pairs.frame.groupby("minus", sort=False):
        counts = []
        for name, sign in SIGNS.items():
            ahead, behind = rows[f"difference_{name}"] > 0, rows[f"difference_{name}"] < 0
            above, below = rows[f"difference_{name}_ci_low"] > 0, rows[f"difference_{name}_ci_high"] < 0
            counts.append(
                f"{sign} {ahead.sum()} ahead ({above.sum()} surely), {behind.sum()} behind ({below.sum()} surely)"
            )
        yield f"weighted against {rival} in {len(rows)} conditions: {'; '.join(counts)}"
    if len(pairs.frame):
        yield "surely: the interval leaves out 0, each condition by itself"


def _headline(pairs: pd.DataFrame) -> tuple[str, str] | None:
    """Return weighted minus original in p_t at the most iterations of the first network."""
    rows = pairs[pairs["minus"] == "original"]
    if rows.empty:
        return None
    last = rows[rows["model"] == rows["model"].iloc[0]].iloc[-1]
    what = f"p_t, weighted - original, {last['model']}, {last['iterations']} iterations"
    return f"{last['difference_probability']:+.3f}", what


def _zero_gradients(changes: pd.DataFrame) -> Iterator[str]:
    """Yield a line for each cell that met a gradient of exactly zero."""
    for (model, _, contrast), rows in changes.groupby(["model", "weights", "contrast"], sort=False):
        if rows["zero_gradients"].any():
            images, steps = (", ".join(map(str, rows[name])) for name in ("zero_gradients", "iterations"))
            yield (
                f"{model}, {contrast}: gradient exactly zero at some step for {images} of {rows['n'].iloc[0]} images "
                f"({steps} iterations)"
            )
