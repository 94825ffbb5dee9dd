"""The tables beside Fig. 3: every change with its interval, weighted against the others, the paper's claim as correlations."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, product

import numpy as np

from wcx.report import opened
from wcx.report.sign_perturbation.cells import ACCURACY, COLUMNS, LOGIT, PROBABILITY, Chart, NetworkPanel
from wcx.report.tables import Column, Span, Spread, Table

_SIDES = ("ci_low", "ci_high")
_WITH_CI = (*COLUMNS, *map("_".join, product(COLUMNS, _SIDES)))
HEADER = (
    "dataset", "model", "method", "contrast", "epsilon", "iterations", "n",
    *(f"delta_{name}" for name in _WITH_CI), "target_rule", "precision", "weights", "subset",
)  # fmt: skip
PAIRED = (
    "dataset", "model", "method", "contrast", "minus", "epsilon", "iterations", "n",
    *(f"difference_{name}" for name in _WITH_CI), "target_rule", "precision", "weights", "subset",
)  # fmt: skip
_WITH = {"probability": PROBABILITY, "logit": LOGIT}
CORRELATION = (
    "dataset", "model", "method", "epsilon", "contrasts", "iterations", "conditions", "n",
    *(f"r_{name}" for name in (*_WITH, *map("_".join, product(_WITH, _SIDES)))), "target_rule", "precision", "weights", "subset",
)  # fmt: skip
BEST = "weighted"  # what is compared with every other contrast
SIGNS = {"probability": "p_t", "accuracy": "accuracy", "logit": "y_t"}
MOST_OPEN = 36  # lines of a table that stands open at once
_NAMED = {column.name: column for column in opened.COLUMNS}
_KEYS = (
    Column("network", heading="dataset", folded=True),
    Column("model", "The network.", heading="network"),
    Column("contrast", "What the class is explained against."),
    Column("minus", "The contrast that weighted is compared with.", "weighted minus"),
    Column("iterations", "Steps of epsilon / iterations each."),
    Column("epsilon", "Largest change of a pixel, of 1.", format="g", folded=True),
    Column("target_rule", "Which class t is.", folded=True),
    Column("precision", "Of the computation.", folded=True),
    Column("weights", "Of the network.", folded=True),
    Column("conditions", "Contrasts times iteration counts.", format="d"),
    _NAMED["n"],
)


def tables(chart: Chart) -> list[Table]:
    """Return the tables of one chart: changes, weighted against the others, correlations."""
    makers = {_changes: HEADER, _paired: PAIRED, _correlation: CORRELATION}
    changes, pairs, correlations = (
        opened.framed(list(chain.from_iterable(map(make, chart.panels))), header) for make, header in makers.items()
    )
    means = tuple(_estimate("delta", name, "+.4f") for name in SIGNS)
    blocks = tuple(Span(column.name, ("iterations",)) for column in means)
    note = "Mean change after so many iterations."
    spread, networks = Spread(("network", "model", "weights", "contrast"), blocks), opened.networks(changes, "model")
    first = Table("fig3", chart.title, (*_KEYS, *means), changes, note, spread=spread, networks=networks, header=HEADER)
    differences = tuple(_estimate("difference", name, "+.4f") for name in SIGNS)
    title = f"Weighted against the others ({chart.title})"
    note = f"Weighted minus each other contrast, paired over images. {opened.INTERVALS}"
    keys, names = ("network", "model", "weights"), [column.name for column in differences]
    layout = {"shown": (*keys, "minus", "iterations", "n", *names), "is_main": len(pairs) <= MOST_OPEN}
    second = Table("fig3_paired", title, (*_KEYS, *differences), pairs, note, **layout, header=PAIRED)
    coefficients = tuple(_estimate("r", name, "+.3f", "r with ") for name in _WITH)
    title = f"Do changes of accuracy go with those of p_t, or of y_t? ({chart.title})"
    note = (
        "Pearson's r over the conditions (contrast x iterations) of one network; intervals over resampled images. -: not "
        "defined, one of the two is the same in every condition."
    )
    layout = {"shown": (*keys, "conditions", "n", *(column.name for column in coefficients))}
    columns = (*_KEYS, *coefficients)
    third = Table("fig3_correlation", title, columns, correlations, note, **layout, header=CORRELATION)
    return [first, second, third]


def pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Pearson's r over the last axis of a and b (..., k); NaN where one is constant or k < 3."""
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    norms = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    defined = (np.abs(a).max(-1) > _ZERO) & (np.abs(b).max(-1) > _ZERO) & (a.shape[-1] > 2)
    return np.divide((a * b).sum(-1), norms, out=np.full(norms.shape, np.nan), where=defined)


_ZERO = 1e-12  # changes that differ by less are the same: means of a few ones and zeros in another order


def _estimate(kind: str, name: str, form: str, before: str = "") -> Column:
    meaning = {"delta": "Mean change of ", "difference": "Mean difference in the change of "}.get(
        kind, "Correlation with "
    )
    ends = (f"{kind}_{name}_ci_low", f"{kind}_{name}_ci_high")
    return Column(f"{kind}_{name}", f"{meaning}{SIGNS[name]}.", f"{before}{SIGNS[name]}", form, interval=ends)


def _changes(panel: NetworkPanel) -> Iterator[dict[str, object]]:
    """Yield one row per (contrast, iteration count): mean changes with 95 % bootstrap intervals over images."""
    for contrast, cell in panel.cells.items():
        mean, (low, high) = cell.changes.mean(0), panel.interval(contrast)
        for i, count in enumerate(cell.iterations):
            row = cell.facts() | {"contrast": contrast, "iterations": count, "n": len(cell.rows)}
            row |= {"zero_gradients": cell.zero_gradients()[count]}
            yield row | _numbers("delta", mean[i], low[i], high[i])


def _paired(panel: NetworkPanel) -> Iterator[dict[str, object]]:
    """Yield one row per (other contrast, iteration count): weighted minus the other, paired over images."""
    for rival in panel.cells if BEST in panel.cells else ():
        if rival == BEST:
            continue
        n, counts, mean, resampled = panel.differences(BEST, rival)
        for i, count in enumerate(counts):
            low, high = np.quantile(resampled[:, i], [0.025, 0.975], axis=0)
            row = panel.cells[BEST].facts() | {"contrast": BEST, "minus": rival, "iterations": count, "n": n}
            yield row | _numbers("difference", mean[i], low, high)


def _correlation(panel: NetworkPanel) -> Iterator[dict[str, object]]:
    """Yield the row of a network: Pearson's r over the conditions (contrast x iteration count) of mean changes.

    r_probability is of the change of accuracy with that of p_t, r_logit with that of y_t; NaN where one of the two is the
    same in all conditions, or with fewer than three. The intervals are over resampled images, the conditions fixed.
    """
    means = np.concatenate([cell.changes.mean(0) for cell in panel.cells.values()])
    resampled = np.concatenate([panel.resampled[contrast] for contrast in panel.cells], axis=1)
    row = panel.first.facts() | {"contrasts": " ".join(panel.cells), "conditions": len(means)}
    row |= {"iterations": " ".join(map(str, panel.iterations)), "n": max(len(c.rows) for c in panel.cells.values())}
    for name, quantity in _WITH.items():
        row[f"r_{name}"] = r = float(pearson(means[:, ACCURACY], means[:, quantity]))
        over = pearson(resampled[..., ACCURACY], resampled[..., quantity])
        over = over[~np.isnan(over)]  # resamples in which accuracy changes alike in all conditions
        ends = np.quantile(over, [0.025, 0.975]) if len(over) and not np.isnan(r) else (np.nan, np.nan)
        row |= {f"r_{name}_ci_low": float(ends[0]), f"r_{name}_ci_high": float(ends[1])}
    yield row


def _numbers(of: str, mean: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, object]:
    row: dict[str, object] = {}
    for suffix, values in (("", mean), ("_ci_low", low), ("_ci_high", high)):
        row |= {f"{of}_{name}{suffix}": values[i] for i, name in enumerate(COLUMNS)}
    return row
