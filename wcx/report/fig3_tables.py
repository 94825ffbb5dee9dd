"""The tables beside Fig. 3: every change with its interval, weighted against the others, the paper's claim as correlations."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from wcx.report.fig3_cells import ACCURACY, COLUMNS, LOGIT, PROBABILITY, Cell, Panel, Part

_CI = tuple(f"{end}_{side}" for end in COLUMNS for side in ("ci_low", "ci_high"))
HEADER = (
    "dataset", "model", "method", "contrast", "epsilon", "iterations", "n", *(f"delta_{name}" for name in COLUMNS),
    *(f"delta_{name}" for name in _CI), "target_rule", "precision", "weights", "subset",
)  # fmt: skip
PAIRED = (
    "dataset", "model", "method", "contrast", "minus", "epsilon", "iterations", "n",
    *(f"difference_{name}" for name in COLUMNS), *(f"difference_{name}" for name in _CI), "target_rule", "precision",
    "weights", "subset",
)  # fmt: skip
_WITH = {"probability": PROBABILITY, "logit": LOGIT}
CORRELATION = (
    "dataset", "model", "method", "epsilon", "contrasts", "iterations", "conditions", "n",
    *(f"r_{name}" for name in _WITH), *(f"r_{name}_{side}" for name in _WITH for side in ("ci_low", "ci_high")),
    "target_rule", "precision", "weights", "subset",
)  # fmt: skip
BEST = "weighted"  # what is compared with every other contrast


def changes(part: Part) -> pd.DataFrame:
    """Return one row per (network, contrast, iteration count): mean changes with 95 % bootstrap intervals over images."""
    return pd.DataFrame([row for panel in part.panels for row in _changes(panel)], columns=list(HEADER))


def paired(part: Part) -> pd.DataFrame:
    """Return one row per (network, other contrast, iteration count): weighted minus the other, paired over images."""
    return pd.DataFrame([row for panel in part.panels for row in _paired(panel)], columns=list(PAIRED))


def correlations(part: Part) -> pd.DataFrame:
    """Return one row a network: Pearson's r over the conditions (contrast x iteration count) of mean changes.

    r_probability is of the change of accuracy with that of p_t, r_logit with that of y_t; NaN where one of the two is the
    same in all conditions, or with fewer than three. The intervals are over resampled images, the conditions fixed.
    """
    return pd.DataFrame([_correlation(panel) for panel in part.panels], columns=list(CORRELATION))


def pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Pearson's r over the last axis of a and b (..., k); NaN where one is constant or k < 3."""
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    norms = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    defined = (np.abs(a).max(-1) > _ZERO) & (np.abs(b).max(-1) > _ZERO) & (a.shape[-1] > 2)
    return np.divide((a * b).sum(-1), norms, out=np.full(norms.shape, np.nan), where=defined)


_ZERO = 1e-12  # changes that differ by less are the same: means of a few ones and zeros in another order


def _changes(panel: Panel) -> Iterator[dict[str, object]]:
    for contrast, cell in panel.cells.items():
        mean, (low, high) = cell.changes.mean(0), panel.interval(contrast)
        for i, count in enumerate(cell.iterations):
            row = _about(cell) | {"contrast": contrast, "iterations": count, "n": len(cell.rows)}
            yield row | _numbers("delta", mean[i], low[i], high[i])


def _paired(panel: Panel) -> Iterator[dict[str, object]]:
    for other in panel.cells if BEST in panel.cells else ():
        if other == BEST:
            continue
        n, counts, mean, resampled = panel.differences(BEST, other)
        for i, count in enumerate(counts):
            low, high = np.quantile(resampled[:, i], [0.025, 0.975], axis=0)
            row = _about(panel.cells[BEST]) | {"contrast": BEST, "minus": other, "iterations": count, "n": n}
            yield row | _numbers("difference", mean[i], low, high)


def _correlation(panel: Panel) -> dict[str, object]:
    means = np.concatenate([cell.changes.mean(0) for cell in panel.cells.values()])
    resampled = np.concatenate([panel.resampled[contrast] for contrast in panel.cells], axis=1)
    row = _about(panel.first) | {"contrasts": " ".join(panel.cells), "conditions": len(means)}
    row |= {"iterations": " ".join(map(str, panel.iterations)), "n": max(len(c.rows) for c in panel.cells.values())}
    for name, quantity in _WITH.items():
        row[f"r_{name}"] = float(pearson(means[:, ACCURACY], means[:, quantity]))
        over = pearson(resampled[..., ACCURACY], resampled[..., quantity])
        over = over[~np.isnan(over)]  # resamples in which accuracy changes alike in all conditions
        ends = np.quantile(over, [0.025, 0.975]) if len(over) and not np.isnan(row[f"r_{name}"]) else (np.nan, np.nan)
        row |= dict(zip((f"r_{name}_ci_low", f"r_{name}_ci_high"), map(float, ends), strict=True))
    return row


def _about(cell: Cell) -> dict[str, object]:
    _, model, method, _ = cell.shard.key
    about = {"dataset": cell.shard.labels["dataset"], "model": model, "method": method}
    return about | {"epsilon": cell.settings["epsilon"]} | cell.about()


def _numbers(of: str, mean: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, object]:
    row = {f"{of}_{name}": mean[i] for i, name in enumerate(COLUMNS)}
    row |= {f"{of}_{name}_ci_low": low[i] for i, name in enumerate(COLUMNS)}
    return row | {f"{of}_{name}_ci_high": high[i] for i, name in enumerate(COLUMNS)}
