"""Table 1 below the threshold beside above, where all images were recorded (select=all), and the reproduction's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from wcx.report import published
from wcx.report.recorded import Recorded

HEADER = (
    "dataset", "model", "method", "target", "baseline", "features_kept", "contrast", "mask", "stratum", "n",
    "relative_probability_unmasked", "relative_probability", "ci_low", "ci_high", "masked_fraction", "reproduction_unmasked",
    "reproduction", "reproduction_model", "n_skipped", "threshold", "foils", "weights", "subset",
)  # fmt: skip


def table(recorded: Sequence[Recorded], published_dir: Path) -> pd.DataFrame:
    """Return the rows of Table 1 for the stratum above the threshold and for the one below it.

    Args:
        recorded: of one protocol; what was not recorded with select=all is left out.
        published_dir: with the reproduction's numbers, for p_t2 above 0.1 and for those below.

    Returns:
        columns `HEADER`; `reproduction` is empty where there is no such number.
    """
    rows = []
    for one in recorded:
        if one.settings["select"] == "all":
            for stratum, images, more in (("above", one.selected, ()), ("below", one.below, ("below",))):
                rows += [row | {"stratum": stratum} | one.about() for row in one.summary(images, *more)]
    frame = pd.DataFrame(rows, columns=[name for name in HEADER if not name.startswith("reproduction")])
    theirs = [
        published.read(published_dir, name).assign(stratum=stratum)
        for name, stratum in ((published.REPRODUCTION, "above"), (published.REPRODUCTION_BELOW, "below"))
    ]
    names = {"model": "reproduction_model"}
    names |= {column: column.replace("relative_probability", "reproduction") for column in published.VALUES}
    both = frame.merge(pd.concat(theirs).rename(columns=names), how="left", on=[*published.CELL, "stratum"])
    return both[list(HEADER)]
