"""Table 1 itself: the relative probability of a class when features for it, or against it, are kept; a table a network's name.

And the same below the threshold beside above, where all images were recorded (select=all), with the reproduction's numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from wcx.report import opened
from wcx.report.masking import paper
from wcx.report.masking.cells import COLUMNS, FACTS, KEYS, SIDE, MaskedCell, table
from wcx.report.tables import Column, Span, Spread, Table

_NUMBERS = ("n", "relative_probability_unmasked", "relative_probability", "ci_low", "ci_high", "masked_fraction")
HEADER = (*KEYS, "contrast", "mask", *_NUMBERS, *FACTS)
STRATA = (
    *KEYS, "contrast", "mask", "stratum", *_NUMBERS, "reproduction_unmasked", "reproduction", "reproduction_model", *FACTS,
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
_STRATA = (
    Column("stratum", "Images above or below the threshold on p_t2."),
    Column("reproduction", "The independent reproduction's.", "the reproduction's", ".3f"),
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
    rows = pd.concat([cell.summary(cell.selected) for cell in cells], ignore_index=True)
    return opened.framed(rows.assign(direction=rows["features_kept"].map(SIDE)), HEADER)


def strata(cells: Sequence[MaskedCell], published_dir: Path = paper.FOLDER) -> pd.DataFrame:
    """Return the rows of Table 1 for the stratum above the threshold and for the one below it.

    Args:
        cells: of one protocol; what was not recorded with select=all is left out.
        published_dir: with the reproduction's numbers, for p_t2 above 0.1 and for those below.

    Returns:
        columns `STRATA`, then the facts of `Opened.facts`; `reproduction` is empty where there is no such number.
    """
    frames = []
    for cell in (cell for cell in cells if cell.settings["select"] == "all"):
        frames.append(cell.summary(cell.selected).assign(stratum="above"))
        frames.append(cell.summary(cell.below, "below").assign(stratum="below"))
    if not frames:
        return pd.DataFrame(columns=list(STRATA))
    names = {"model": "reproduction_model"}
    names |= {column: column.replace("relative_probability", "reproduction") for column in paper.VALUES}
    files = {"above": paper.REPRODUCTION, "below": paper.REPRODUCTION_BELOW}
    reproduction = [paper.read(published_dir, file).assign(stratum=stratum) for stratum, file in files.items()]
    rows = pd.concat(frames, ignore_index=True)
    rows = rows.merge(pd.concat(reproduction).rename(columns=names), how="left", on=[*paper.CELL, "stratum"])
    return opened.framed(rows, STRATA)


def tables(rows: pd.DataFrame, protocol: str) -> list[Table]:
    """Return a table a network's name, in the paper's layout.

    Args:
        rows: from `frame`, with the paper's numbers (see `paper.beside`).
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
        title, files = f"{model}, {protocol}", {"whole": rows, "header": HEADER, "digits": "%.6f"}
        networks = opened.networks(block)
        tables.append(Table("table1", title, columns, block, note, spread=spread, networks=networks, **files))
    return tables


def strata_table(rows: pd.DataFrame, protocol: str) -> Table:
    """Return the table of the strata."""
    note = (
        "Strata of p_t2. The reproduction's numbers are of its own network, vgg16_bn, with a threshold of 0.1. "
        f"{opened.INTERVALS}"
    )
    blocks = (
        *(Span(name, ("stratum",)) for name in ("n", UNMASKED.name)),
        Span(PROBABILITY.name, ("stratum", "contrast"), headed=False),
        Span("reproduction", ("stratum", "contrast")),
    )
    columns, title = (*COLUMNS, PROBABILITY, UNMASKED, *_STRATA), f"Above and below the threshold ({protocol})"
    return table("strata", title, columns, rows, STRATA, note, spread=Spread(("network", *KEYS[1:]), blocks))
