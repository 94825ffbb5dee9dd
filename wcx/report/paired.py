"""Weighted against original, image by image: the difference of every cell of Table 1 with interval and corrected p."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from wcx import statistics
from wcx.report.recorded import Recorded

HEADER = (
    "dataset", "model", "method", "target", "baseline", "features_kept", "mask", "n", "original", "weighted", "difference",
    "ci_low", "ci_high", "p", "p_holm", "m", "better", "masked_original", "masked_weighted", "n_skipped", "threshold", "foils",
    "weights", "subset",
)  # fmt: skip


def table(pairs: Sequence[tuple[Recorded, Recorded]]) -> pd.DataFrame:
    """Return one row per (dataset, model, method, target, baseline, features kept): mean of weighted - original.

    Args:
        pairs: (weighted, original), of one protocol.

    Returns:
        columns `HEADER`: `p` of the sign-flip test, `p_holm` corrected over the m rows; `better` names the contrast that
        moves the probability further in the direction of what is kept (up for positive features, down for negative).
    """
    rows = [row for weighted, original in pairs for row in _rows(weighted, original)]
    return corrected(pd.DataFrame(rows, columns=list(HEADER)))


def corrected(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table with `p_holm` and `m` filled in from its `p`: one family of tests."""
    return frame.assign(p_holm=statistics.holm(frame["p"].to_numpy(dtype=float)), m=int(frame["p"].notna().sum()))


def joined(weighted: Recorded, original: Recorded) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the selected rows of both for the images that both have, in one order."""
    a, b = (one.selected.set_index("index") for one in (weighted, original))
    common = a.index.intersection(b.index)
    return a.loc[common], b.loc[common]


def _rows(weighted: Recorded, original: Recorded) -> list[dict[str, object]]:
    a, b = joined(weighted, original)
    key = original.key()[:3]
    result = statistics.paired(a[weighted.values], b[weighted.values], [*key, "weighted - original"])
    rows = []
    for i, ((target, baseline, kept), column) in enumerate(zip(weighted.cells, weighted.values, strict=True)):
        gain = result.difference[i] if kept == "positive" else -result.difference[i]
        masked = f"masked_fraction/{target}/{kept}"
        row = {
            "dataset": weighted.shard.labels["dataset"],
            "model": key[1],
            "method": key[2],
            "target": target,
            "baseline": baseline,
            "features_kept": kept,
            "mask": weighted.settings["mask"],
            "n": result.n,
            "original": b[column].mean(),
            "weighted": a[column].mean(),
            "difference": result.difference[i],
            "ci_low": result.low[i],
            "ci_high": result.high[i],
            "p": result.p[i],
            "better": "weighted" if gain > 0 else "original" if gain < 0 else "",
            "masked_original": b[masked].mean(),
            "masked_weighted": a[masked].mean(),
        }
        rows.append(row | weighted.about())
    return rows
