"""Weighted against original, image by image, with interval and corrected p: every cell of Table 1, and where the map lies.

The second is section 6's claim that explanations of y localise better: share of positive attribution inside the object's box.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from wcx import statistics
from wcx.report import opened
from wcx.report.masking.cells import COLUMNS, FACTS, KEYS, Pair, joined, table
from wcx.report.tables import Column, Table

HEADER = (
    *KEYS, "mask", "n", "original", "weighted", "difference", "ci_low", "ci_high", "p", "p_holm", "m", "better",
    "masked_original", "masked_weighted", *FACTS,
)  # fmt: skip
BOXES = (
    *KEYS[:4], "n", "box_fraction", "original", "weighted", "difference", "ci_low", "ci_high", "p", "p_holm", "m", *FACTS,
)  # fmt: skip
_COLUMNS = (
    *COLUMNS,
    Column("original", "Under the contrast original.", format=".3f"),
    Column("weighted", "Under the contrast weighted.", format=".3f"),
    Column("difference", "Paired over images.", "weighted − original", "+.3f", interval=("ci_low", "ci_high")),
    *opened.TESTS,
    Column("masked_original", "Share of the pixels hidden under original.", "masked ori.", ".0%"),
    Column("masked_weighted", "Share of the pixels hidden under weighted.", "masked wtd.", ".0%"),
    Column("published_difference", "The paper's weighted − original.", "the paper's", "+.3f"),
    Column("box_fraction", "The box's share of the image: what chance would give.", "box", ".3f"),
)
_COMPARED = ("original", "weighted", "difference")


def frame(pairs: Sequence[Pair]) -> pd.DataFrame:
    """Return one row per (dataset, model, method, target, baseline, features kept): mean of weighted - original.

    Args:
        pairs: (weighted, original), of one protocol.

    Returns:
        columns `HEADER`, then the facts of `Opened.facts`: `p` of the sign-flip test, `p_holm` corrected over the m rows;
        `better` names the contrast that moves the probability further in the direction of what is kept (up for positive
        features, down for negative).
    """
    return corrected([_cells(pair) for pair in pairs], HEADER)


def localisation(pairs: Sequence[Pair]) -> pd.DataFrame:
    """Return one row per (dataset with boxes, model, method, target), over the selected images.

    Args:
        pairs: (weighted, original), of one protocol.

    Returns:
        columns `BOXES`, then the facts of `Opened.facts`: mean share of the positive attribution inside the box, original and
        weighted, and the paired difference as in `frame`. `box_fraction` is the box's share of the image: what chance would
        give. Images where either map has no positive attribution have no such share, and are not among the n.
    """
    rows = list(chain.from_iterable(map(_boxes, pairs)))
    return corrected([pd.DataFrame(rows)] if rows else [], BOXES)


def tables(cells: pd.DataFrame, boxes: pd.DataFrame, protocol: str) -> list[Table]:
    """Return the tables of both frames; in the first, the paper's differences where it has them (`published_difference`)."""
    papers = ["published_difference"] if "published_difference" in cells else []
    names = (*("network", "model", *KEYS[2:], "mask", "threshold", "foils", "n"), *_COMPARED)
    names = (*names, "masked_original", "masked_weighted", *papers, "p", "p_holm")
    note = (
        "Paired over images: difference, 95 % interval, sign-flip p-value, and p corrected by Holm for the m cells of this "
        f"table. {opened.INTERVALS}"
    )
    title, compared = f"Weighted − original ({protocol})", ("original", "weighted")
    first = table("paired", title, _COLUMNS, cells, HEADER, note, shown=names, compared=compared)
    names = (
        "network",
        "model",
        "method",
        "target",
        "threshold",
        "foils",
        "n",
        "box_fraction",
        *_COMPARED,
        "p",
        "p_holm",
    )
    note = (
        "Share of the positive attribution inside the object's box, over the n images where both maps have any; box: the box's "
        f"share of the image, what chance would give. p corrected by Holm for the m rows. {opened.INTERVALS}"
    )
    title = f"Localisation ({protocol})"
    return [first, table("localisation", title, _COLUMNS, boxes, BOXES, note, shown=names)]


def corrected(frames: Sequence[pd.DataFrame], header: tuple[str, ...]) -> pd.DataFrame:
    """Return the rows of several pairs with `p_holm` and `m` filled in from their `p`: one family of tests."""
    rows = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*header, "seed"])
    return opened.framed(opened.corrected(rows), header)


def _cells(pair: Pair) -> pd.DataFrame:
    weighted, original = pair
    a, b = joined(pair)
    columns, places = weighted.places.index, weighted.places
    result = statistics.paired(a[columns], b[columns], [*original.key()[:3], "weighted - original"])
    gain = np.where(places["features_kept"] == "positive", result.difference, -result.difference)
    numbers = {"n": result.n, "original": b[columns].mean(), "weighted": a[columns].mean(), **result._asdict()}
    numbers |= {"better": np.select([gain > 0, gain < 0], ["weighted", "original"], "")}
    numbers |= {"masked_original": original.shares(b), "masked_weighted": weighted.shares(a)}
    return places.assign(**numbers, **weighted.facts())


def _boxes(pair: Pair) -> Iterator[dict[str, Any]]:
    weighted, original = pair
    a, b = joined(pair)
    for target in weighted.ranks:
        column = f"inside_box/{target}"
        if column in a and column in b:
            is_defined = a[column].notna() & b[column].notna()
            a_share, b_share = a.loc[is_defined, column], b.loc[is_defined, column]
            result = statistics.paired(a_share, b_share, [*original.key()[:3], "inside_box", target])
            numbers = {"box_fraction": a.loc[is_defined, "box_fraction"].mean()}
            numbers |= {"original": b_share.mean(), "weighted": a_share.mean()}
            yield weighted.facts() | {"target": target} | numbers | result._asdict() | {"p": float(result.p)}
