"""Section 6's claim that explanations of y localise better: share of positive attribution inside the object's box."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import pandas as pd

from wcx import statistics
from wcx.report import opened
from wcx.report.masking.cells import COLUMNS, Pair, joined
from wcx.report.masking.paired import DIFFERENCE, corrected
from wcx.report.tables import Column, Table

HEADER = (
    "dataset", "model", "method", "target", "n", "box_fraction", "original", "weighted", "difference", "ci_low", "ci_high",
    "p", "p_holm", "m", "n_skipped", "threshold", "foils", "weights", "subset",
)  # fmt: skip
_BOX = Column("box_fraction", "The box's share of the image: what chance would give.", "box", ".3f")
_SHOWN = ("network", "model", "method", "target", "threshold", "foils", "n", "box_fraction")


def frame(pairs: Sequence[Pair]) -> pd.DataFrame:
    """Return one row per (dataset with boxes, model, method, target), over the selected images.

    Args:
        pairs: (weighted, original), of one protocol.

    Returns:
        columns `HEADER`, then the facts of `Opened.facts`: mean share of the positive attribution inside the box, original
        and weighted, and the paired difference as in `paired.frame`. `box_fraction` is the box's share of the image: what
        chance would give. Images where either map has no positive attribution have no such share, and are not among the n.
    """
    rows = list(chain.from_iterable(map(_rows, pairs)))
    return corrected([pd.DataFrame(rows)] if rows else [], HEADER)


def table(rows: pd.DataFrame, protocol: str) -> Table:
    """Return the table of a frame."""
    note = (
        "Share of the positive attribution inside the object's box, over the n images where both maps have any; box: the box's "
        f"share of the image, what chance would give. p corrected by Holm for the m rows. {opened.INTERVALS}"
    )
    names = (*_SHOWN, *(column.name for column in DIFFERENCE[:5]))
    columns, title = (*COLUMNS, *DIFFERENCE, _BOX), f"Localisation ({protocol})"
    return Table(
        "table1_localisation", title, columns, rows, note, names, 7, is_main=False, header=HEADER, digits="%.6f"
    )


def _rows(pair: Pair) -> Iterator[dict[str, Any]]:
    weighted, original = pair
    a, b = joined(pair)
    for target in weighted.ranks:
        column = f"inside_box/{target}"
        if column in a and column in b:
            is_defined = a[column].notna() & b[column].notna()
            with_box, original_box = a.loc[is_defined], b.loc[is_defined]
            result = statistics.paired(
                with_box[column], original_box[column], [*original.key()[:3], "inside_box", target]
            )
            numbers = {"n": result.n, "box_fraction": with_box["box_fraction"].mean()}
            numbers |= {
                "original": original_box[column].mean(),
                "weighted": with_box[column].mean(),
                "p": float(result.p),
            }
            ends = {"difference": result.difference, "ci_low": result.low, "ci_high": result.high}
            yield weighted.facts() | {"target": target} | numbers | {name: float(value) for name, value in ends.items()}
