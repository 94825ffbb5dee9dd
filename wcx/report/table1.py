"""Table 1 from the records of the masking experiment: every file of it, and the lines for the screen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from wcx import records
from wcx.errors import WcxError
from wcx.records import Shard
from wcx.report import latex, layout, localisation, markdown, paired, published, recorded, scatter, seeds, strata
from wcx.report.recorded import Recorded

HEADER = (
    "dataset", "model", "method", "target", "baseline", "features_kept", "contrast", "mask", "n",
    "relative_probability_unmasked", "relative_probability", "ci_low", "ci_high", "masked_fraction", "n_skipped", "threshold",
    "foils", "weights", "subset",
)  # fmt: skip
_INNER = ["seed", "stand_in"]  # told by `weights`; kept apart while tables are made


def table(shards: Sequence[Shard], threshold: float | None = None) -> pd.DataFrame:
    """Return one row per (cell, target, baseline, features kept): means over the images above the threshold.

    Args:
        shards: of the masking experiment.
        threshold: on p_t2; None is the records' own.

    Returns:
        columns `HEADER`; the values of the names shared with results/published/table1_published.csv are as there.
        Intervals are 95 % percentile bootstrap over images.

    Raises:
        WcxError: a threshold below the records' own, where masked passes were spent above it only; or two sets of records
            that would be the same line.
    """
    return _table(recorded.read(shards, threshold))[list(HEADER)]


def text(table: pd.DataFrame) -> str:
    """Return the table for a screen, in the paper's layout: original beside weighted; * marks the better."""
    if table.empty:
        return "no records"
    return "\n\n".join(layout.plain(grid) for grid in layout.grids(table))


def write_all(
    shards: Sequence[Shard],
    results_dir: Path,
    threshold: float | None = None,
    published_dir: Path = published.FOLDER,
    refused: list[str] | None = None,
) -> list[str]:
    """Write every table and figure of Table 1 that the records allow.

    Args:
        shards: of the masking experiment.
        results_dir: where table1.csv, .md and .tex, and table1_*.csv and .png go.
        threshold: on p_t2; None is the records' own.
        published_dir: with the paper's numbers and the reproduction's.
        refused: where a line goes for each shard that is not what was written; None raises.

    Returns:
        lines for the screen: the tables, what was found, the files.

    Raises:
        WcxError: as `table`; or the published numbers are not there; or all shards are refused.
    """
    results_dir.mkdir(parents=True, exist_ok=True)
    opened = recorded.read(shards, threshold, refused)
    if refused and not opened:
        raise WcxError(f"no table: none of the {len(shards)} sets of records is what was written. {refused[0]}")
    parts = [_part(name, members, published_dir) for name, members in recorded.by_protocol(opened).items()]
    files = [_csv(parts, name, results_dir) for name in parts[0].frames] if parts else []
    files = [file for file in files if file is not None]
    comparisons = [
        one for part in parts for one in published.comparisons(part.frames["vs_published"], part.name, published_dir)
    ]
    picture = results_dir / "table1_vs_published.png"
    picture.unlink(missing_ok=True)
    files += [scatter.figure(comparisons, picture)] if comparisons else []
    for name, render in (("table1.md", markdown.document), ("table1.tex", latex.document)):
        records.write(results_dir / name, render(parts, comparisons))
        files.append(results_dir / name)
    lines = [line for part in parts for line in layout.lines(part)]
    lines += [one.sentence for one in comparisons] + recorded.unchecked([one.shard for one in opened])
    return [*lines, "tables: " + ", ".join(map(str, files))]


def _part(name: str, members: list[Recorded], published_dir: Path) -> layout.Part:
    both = recorded.pairs(members)
    main, differences = _table(members), paired.table(both)
    frames = {
        "": main,
        "paired": differences,
        "strata": strata.table(members, published_dir),
        "localisation": localisation.table(both),
        "seeds": seeds.table(members),
        "vs_published": published.table(main, published_dir),
    }
    return layout.Part(name, members, frames)


def _csv(parts: Sequence[layout.Part], name: str, folder: Path) -> Path | None:
    """Write one table of all protocols; nothing, if it has no line."""
    whole = pd.concat([part.frames[name] for part in parts], ignore_index=True)
    path = folder / ("table1.csv" if not name else f"table1_{name}.csv")
    if whole.empty:
        path.unlink(missing_ok=True)  # of an earlier run: it would seem to belong to this one
        return None
    records.write(path, whole.drop(columns=_INNER, errors="ignore").to_csv(index=False, float_format="%.6f"))
    return path


def _table(members: Sequence[Recorded]) -> pd.DataFrame:
    rows = [
        row | one.about() | {"seed": one.seed, "stand_in": one.shard.labels.get("stand_in", False)}
        for one in members
        for row in one.summary(one.selected)
    ]
    return pd.DataFrame(rows, columns=[*HEADER, *_INNER])
