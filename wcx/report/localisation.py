"""Section 6's claim that explanations of y localise better: share of positive attribution inside the object's box."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from wcx import statistics
from wcx.report import paired
from wcx.report.recorded import Recorded

HEADER = (
    "dataset", "model", "method", "target", "n", "box_fraction", "original", "weighted", "difference", "ci_low", "ci_high",
    "p", "p_holm", "m", "n_skipped", "threshold", "foils", "weights", "subset",
)  # fmt: skip


def table(pairs: Sequence[tuple[Recorded, Recorded]]) -> pd.DataFrame:
    """Return one row per (dataset with boxes, model, method, target), over the selected images.

    Args:
        pairs: (weighted, original), of one protocol.

    Returns:
        columns `HEADER`: mean share of the positive attribution inside the box, original and weighted, and the paired
        difference as in `paired.table`. `box_fraction` is the box's share of the image: what chance would give. Images
        where either map has no positive attribution have no such share, and are not among the n.
    """
    rows = []
    for weighted, original in pairs:
        a, b = paired.joined(weighted, original)
        for target in weighted.ranks:
            column = f"inside_box/{target}"
            if column in a and column in b:
                there = a[column].notna() & b[column].notna()
                rows.append(_row(weighted, original, target, a.loc[there], b.loc[there]))
    return paired.corrected(pd.DataFrame(rows, columns=list(HEADER)))


def _row(weighted: Recorded, original: Recorded, target: str, a: pd.DataFrame, b: pd.DataFrame) -> dict[str, object]:
    column, key = f"inside_box/{target}", original.key()[:3]
    result = statistics.paired(a[column], b[column], [*key, "inside_box", target])
    row = {
        "dataset": weighted.shard.labels["dataset"],
        "model": key[1],
        "method": key[2],
        "target": target,
        "n": result.n,
        "box_fraction": a["box_fraction"].mean(),
        "original": b[column].mean(),
        "weighted": a[column].mean(),
        "difference": float(result.difference),
        "ci_low": float(result.low),
        "ci_high": float(result.high),
        "p": float(result.p),
    }
    return row | weighted.about()
