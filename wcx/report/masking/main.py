"""Table 1 itself: the relative probability of a class when features for it, or against it, are kept; a table a network's name."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from wcx.report import opened
from wcx.report.masking import paper
from wcx.report.masking.cells import COLUMNS, SIDE, MaskedCell
from wcx.report.tables import Column, Span, Spread, Table

HEADER = (
    "dataset", "model", "method", "target", "baseline", "features_kept", "contrast", "mask", "n",
    "relative_probability_unmasked", "relative_probability", "ci_low", "ci_high", "masked_fraction", "n_skipped", "threshold",
    "foils", "weights", "subset",
)  # fmt: skip
PROBABILITY = Column(
    "relative_probability",
    "p_ti / (p_t1 + p_t2) of the masked image, 0 to 1, on average over the images.",
    format=".3f",
    better="direction",
    interval=("ci_low", "ci_high"),
)
UNMASKED = Column("relative_probability_unmasked", "The same of the whole image.", "unmasked", ".3f")
_HIDDEN = Column("masked_fraction", "Share of the pixels that are hidden, the same for all baselines.", "masked", ".0%")
_PAPERS = (
    Column("published", "The paper's number.", format=".3f"),
    Column("published_unmasked", "The paper's number of the whole image.", format=".3f"),
    Column("direction", "Where the number should go: higher where positive features are kept."),
)
_MOST_BESIDE = 2  # contrasts side by side; more stand below one another


def frame(cells: Sequence[MaskedCell]) -> pd.DataFrame:
    """Return one row per (cell, target, baseline, features kept): means over the images above the threshold.

    Args:
        cells: of one protocol.

    Returns:
        columns `HEADER`, then the facts of `Opened.facts`; the values of the names shared with
        results/published/table1_published.csv are as there. Intervals are 95 % percentile bootstrap over images.
    """
    frames = [cell.summary(cell.selected) for cell in cells]
    rows = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*HEADER, "seed"])
    rows = opened.with_networks(rows.assign(direction=rows["features_kept"].map(SIDE)))
    return rows[[*HEADER, *(name for name in rows if name not in HEADER)]]


def tables(rows: pd.DataFrame, protocol: str) -> list[Table]:
    """Return a table a network's name, in the paper's layout.

    Args:
        rows: from `frame`, with the paper's numbers (see `paper.beside`).
        protocol: in words.
    """
    columns = (*COLUMNS, PROBABILITY, UNMASKED, _HIDDEN, *_PAPERS)
    tables = []
    for model, block in rows.groupby("model", sort=False):
        is_beside = block["contrast"].nunique() <= _MOST_BESIDE
        across = ("contrast",) if is_beside else ()
        blocks = (
            Span(UNMASKED.name),
            Span(PROBABILITY.name, ("baseline", "features_kept", *across), headed=False),
            Span(_HIDDEN.name, ("features_kept", *across)),
        )
        lines = ("network", "method", "target", *(() if is_beside else ("contrast",)))
        papers = ((PROBABILITY.name, "published"), (UNMASKED.name, "published_unmasked"))
        spread = Spread(lines, blocks, "contrast", papers, f"the paper's {paper.NETWORK}")
        width = (block["ci_high"] - block["ci_low"]).max() / 2
        widest = (
            "No image is above the threshold: lower it." if pd.isna(width) else f"The widest interval is ± {width:.3f}."
        )
        note = (
            "Pos. / Neg.: only positive / negative features are kept, which should raise / lower it; the better is marked. "
            f"{widest} {opened.INTERVALS}"
        )
        tables.append(
            Table(
                "table1",
                f"{model}, {protocol}",
                columns,
                block,
                note,
                spread=spread,
                networks=opened.networks(block),
                whole=rows,
                header=HEADER,
                digits="%.6f",
            )
        )
    return tables
