"""Table 1 below the threshold beside above, where all images were recorded (select=all), and the reproduction's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from wcx.report import opened
from wcx.report.masking import paper
from wcx.report.masking.cells import COLUMNS, MaskedCell
from wcx.report.masking.main import PROBABILITY, UNMASKED
from wcx.report.tables import Column, Span, Spread, Table

HEADER = (
    "dataset", "model", "method", "target", "baseline", "features_kept", "contrast", "mask", "stratum", "n",
    "relative_probability_unmasked", "relative_probability", "ci_low", "ci_high", "masked_fraction", "reproduction_unmasked",
    "reproduction", "reproduction_model", "n_skipped", "threshold", "foils", "weights", "subset",
)  # fmt: skip
_COLUMNS = (
    Column("stratum", "Images above or below the threshold on p_t2."),
    Column("reproduction", "The independent reproduction's.", "the reproduction's", ".3f"),
)


def frame(cells: Sequence[MaskedCell], published_dir: Path = paper.FOLDER) -> pd.DataFrame:
    """Return the rows of Table 1 for the stratum above the threshold and for the one below it.

    Args:
        cells: of one protocol; what was not recorded with select=all is left out.
        published_dir: with the reproduction's numbers, for p_t2 above 0.1 and for those below.

    Returns:
        columns `HEADER`, then the facts of `Opened.facts`; `reproduction` is empty where there is no such number.
    """
    frames = []
    for cell in cells:
        if cell.settings["select"] == "all":
            frames.append(cell.summary(cell.selected).assign(stratum="above"))
            frames.append(cell.summary(cell.below, "below").assign(stratum="below"))
    if not frames:
        return pd.DataFrame(columns=list(HEADER))
    rows = opened.with_networks(pd.concat(frames, ignore_index=True))
    names = {"model": "reproduction_model"}
    names |= {column: column.replace("relative_probability", "reproduction") for column in paper.VALUES}
    above = paper.read(published_dir, paper.REPRODUCTION).assign(stratum="above")
    below = paper.read(published_dir, paper.REPRODUCTION_BELOW).assign(stratum="below")
    reproduction = pd.concat([above, below]).rename(columns=names)
    rows = rows.merge(reproduction, how="left", on=[*paper.CELL, "stratum"])
    return rows[[*HEADER, *(name for name in rows if name not in HEADER)]]


def table(rows: pd.DataFrame, protocol: str) -> Table:
    """Return the table of a frame."""
    note = (
        "Strata of p_t2. The reproduction's numbers are of its own network, vgg16_bn, with a threshold of 0.1. "
        f"{opened.INTERVALS}"
    )
    blocks = (
        Span("n", ("stratum",)),
        Span(UNMASKED.name, ("stratum",)),
        Span(PROBABILITY.name, ("stratum", "contrast"), headed=False),
        Span("reproduction", ("stratum", "contrast")),
    )
    keys = ("network", "model", "method", "target", "baseline", "features_kept")
    columns = (*COLUMNS, PROBABILITY, UNMASKED, *_COLUMNS)
    title, spread = f"Above and below the threshold ({protocol})", Spread(keys, blocks)
    return Table(
        "table1_strata", title, columns, rows, note, spread=spread, is_main=False, header=HEADER, digits="%.6f"
    )
