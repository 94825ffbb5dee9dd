"""The report of the masking experiment: Table 1 with its tests, and beside the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import pandas as pd

from wcx.records import Shard
from wcx.report import opened
from wcx.report.masking import cells, findings, main, paired, paper, scatter, seeds
from wcx.report.masking.cells import MaskedCell
from wcx.report.pictures import selected
from wcx.report.sections import Plot, Section, counted
from wcx.report.tables import Table

pictures = selected.write
IS_RANDOM_FIT = False  # networks of random weights stand in no Table 1 but that of their own command
_INTRO = (
    "Hide the pixels that speak against a class, and its relative probability should rise; hide those that speak for it, and it "
    "should fall. Each number is the relative probability of t_i, exp(y_ti) / (exp(y_t1) + exp(y_t2)), on average over the n "
    "images selected; t_1 and t_2 are the most and the second most probable class. Masked: share of the pixels hidden, the same "
    "for all baselines: who hides more, changes more."
)
_ALT = "Ours against the paper, cell by cell: a point a number on the left, weighted minus original on the right."


def protocol(shard: Shard) -> str:
    """Return what tells protocols apart: the settings in words."""
    settings = shard.parts["settings"]
    return cells.protocol(settings, settings["threshold"])


def section(
    shards: Sequence[Shard],
    refused: list[str] | None = None,
    *,
    threshold: float | None = None,
    published_dir: Path = paper.FOLDER,
) -> Section:
    """Return the section; see `sections.of`.

    Args:
        threshold: on p_t2; None is the records' own.
        published_dir: with the paper's numbers and the reproduction's.

    Raises:
        WcxError: as `cells.read`; or the published numbers are not there.
    """
    records = cells.read(shards, threshold, refused)
    parts = [_tables(members, name, published_dir) for name, members in cells.by_protocol(records).items()]
    tables = list(chain.from_iterable(parts))
    comparisons: list[paper.Comparison] = []
    for table in tables:
        if table.name == "table1_vs_published" and len(table.frame):
            comparisons += paper.comparisons(table.frame, table.frame["protocol"].iloc[0], published_dir)
    plots = [Plot("table1_vs_published", "Beside the paper", _ALT, partial(scatter.figure, comparisons))]
    networks = {(cell.network, cell.seed) for cell in records}
    numbers = sum(len(table.frame) for table in tables if table.name == "table1")
    differences = [table.frame for table in tables if table.name == "table1_paired"]
    sentences = [comparison.sentence for comparison in comparisons]
    return Section(
        name="masking",
        title="Table 1: masking",
        intro=_INTRO,
        tables=tables,
        plots=plots if comparisons else [],
        findings=[*_findings(tables), *sentences],
        problems=list(refused or ()),
        notes=opened.unchecked([cell.shard for cell in records]),
        state=f"{counted(numbers, 'number')}, {counted(len(networks), 'network')}" if numbers else "",
        headline=findings.headline(pd.concat(differences)) if differences else None,
        stale=("table1_vs_published",),
        document="table1",
    )


def _tables(members: list[MaskedCell], name: str, published_dir: Path) -> list[Table]:
    """Return the tables of one protocol; those that have no line stand in none."""
    pairs = cells.pairs(members)
    rows = paper.beside(main.frame(members), published_dir)
    differences = paper.with_differences(paired.frame(pairs), rows)
    differing, boxes = paired.tables(differences, paired.localisation(pairs), name)
    strata = main.strata_table(main.strata(members, published_dir), name)
    across = seeds.seeds_table(seeds.frame(members), name)
    return [*main.tables(rows, name), differing, strata, boxes, across, paper.published_table(rows, name)]


def _findings(tables: Sequence[Table]) -> list[str]:
    """Return what the tests found, protocol by protocol."""
    sentences: list[str] = []
    for table in tables:
        if len(table.frame) and table.name == "table1_paired":
            sentences += findings.paired(table.frame, table.frame["protocol"].iloc[0])
        if len(table.frame) and table.name == "table1_localisation":
            sentences += findings.localisation(table.frame)
    return sentences
