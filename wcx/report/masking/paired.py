"""Weighted against original, image by image: the difference of every cell of Table 1 with interval and corrected p."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from wcx import statistics
from wcx.report import opened
from wcx.report.masking.cells import COLUMNS, Pair, joined
from wcx.report.tables import Column, Table

HEADER = (
    "dataset", "model", "method", "target", "baseline", "features_kept", "mask", "n", "original", "weighted", "difference",
    "ci_low", "ci_high", "p", "p_holm", "m", "better", "masked_original", "masked_weighted", "n_skipped", "threshold", "foils",
    "weights", "subset",
)  # fmt: skip
DIFFERENCE = (
    Column("original", "Under the contrast original.", format=".3f"),
    Column("weighted", "Under the contrast weighted.", format=".3f"),
    Column("difference", "Paired over images.", "weighted − original", "+.3f", interval=("ci_low", "ci_high")),
    Column("p", "Two-sided, of the sign-flip test.", format="p"),
    Column("p_holm", "Corrected by Holm for the m tests of this table.", "p Holm", "p"),
    Column("m", "Tests that p is corrected for.", format="d"),
)
_HIDDEN = (
    Column("masked_original", "Share of the pixels hidden under original.", "masked ori.", ".0%"),
    Column("masked_weighted", "Share of the pixels hidden under weighted.", "masked wtd.", ".0%"),
)
_PAPERS = Column("published_difference", "The paper's weighted − original.", "the paper's", "+.3f")
_SHOWN = ("network", "model", "method", "target", "baseline", "features_kept", "mask", "threshold", "foils", "n")


def frame(pairs: Sequence[Pair]) -> pd.DataFrame:
    """Return one row per (dataset, model, method, target, baseline, features kept): mean of weighted - original.

    Args:
        pairs: (weighted, original), of one protocol.

    Returns:
        columns `HEADER`, then the facts of `Opened.facts`: `p` of the sign-flip test, `p_holm` corrected over the m rows;
        `better` names the contrast that moves the probability further in the direction of what is kept (up for positive
        features, down for negative).
    """
    return corrected([_rows(pair) for pair in pairs], HEADER)


def table(rows: pd.DataFrame, protocol: str) -> Table:
    """Return the table of a frame, and of the paper's numbers, if it has them in `published_difference`."""
    note = (
        f"Paired over images: difference, 95 % interval, sign-flip p-value, and p corrected by Holm for the m cells of this "
        f"table. {opened.INTERVALS}"
    )
    columns = (*COLUMNS, *DIFFERENCE, *_HIDDEN, _PAPERS)
    papers = [_PAPERS.name] if _PAPERS.name in rows else []
    names = (*_SHOWN, *(column.name for column in (*DIFFERENCE[:3], *_HIDDEN)), *papers, "p", "p_holm")
    title = f"Weighted − original ({protocol})"
    return Table(
        "table1_paired",
        title,
        columns,
        rows,
        note,
        names,
        9,
        compared=("original", "weighted"),
        is_main=False,
        header=HEADER,
        digits="%.6f",
    )


def corrected(frames: Sequence[pd.DataFrame], header: tuple[str, ...]) -> pd.DataFrame:
    """Return the rows of several pairs with `p_holm` and `m` filled in from their `p`: one family of tests."""
    rows = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*header, "seed"])
    rows = rows.assign(p_holm=statistics.holm(rows["p"].to_numpy(dtype=float)), m=int(rows["p"].notna().sum()))
    rows = opened.with_networks(rows) if len(rows) else rows
    return rows[[*header, *(name for name in rows if name not in header)]]


def _rows(pair: Pair) -> pd.DataFrame:
    weighted, original = pair
    a, b = joined(pair)
    columns, places = weighted.places.index, weighted.places
    result = statistics.paired(a[columns], b[columns], [*original.key()[:3], "weighted - original"])
    gain = np.where(places["features_kept"] == "positive", result.difference, -result.difference)
    return places.assign(
        n=result.n,
        original=b[columns].mean(),
        weighted=a[columns].mean(),
        difference=result.difference,
        ci_low=result.low,
        ci_high=result.high,
        p=result.p,
        better=np.select([gain > 0, gain < 0], ["weighted", "original"], ""),
        masked_original=original.shares(b),
        masked_weighted=weighted.shares(a),
        **weighted.facts(),
    )
