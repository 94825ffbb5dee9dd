"""The report of an experiment that has no module of its own here: a number for each quantity that it records."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from wcx import experiments, statistics
from wcx.records import Shard
from wcx.report import opened
from wcx.report.opened import Opened
from wcx.report.sections import Section, counted
from wcx.report.tables import Column, Span, Spread, Table

HEADER = (
    *("dataset", "model", "method", "contrast", "quantity", "n", "mean", "ci_low", "ci_high", "n_skipped"),
    *("weights", "subset"),
)
_FACTS = ("index", "id", "label", "skipped", "above_threshold")  # of an image: no quantities
_MEAN = Column("mean", "Over the images where it is defined.", format=".4g", interval=("ci_low", "ci_high"))
_QUANTITY = Column("quantity", "What was recorded of each image.")


def protocol(shard: Shard) -> str:
    """Return what tells protocols apart: the settings but the seed."""
    settings = {key: value for key, value in shard.parts.get("settings", {}).items() if key != "seed"}
    return json.dumps(settings, sort_keys=True)


def section(shards: Sequence[Shard], refused: list[str] | None = None) -> Section:
    """Return the section of an experiment's records: its quantities, divided by how many parts their names have.

    Args:
        shards: of one experiment.
        refused: where a line goes for each shard that is not what was written; None raises.
    """
    name = shards[0].experiment
    cells = [Opened(shard, rows) for shard in shards if (rows := opened.rows(shard, refused)) is not None]
    rows = [row for cell in cells for row in _quantities(cell)]
    frame = opened.with_networks(pd.DataFrame(rows)) if rows else pd.DataFrame(columns=list(HEADER))
    title = name.replace("_", " ").capitalize()
    tables = [
        _table(name, title, group, int(parts), frame)
        for _, block in (frame.groupby(["model", "protocol"], sort=False) if rows else ())
        for parts, group in block.groupby("parts")
    ]
    state = f"{counted(len(cells), 'cell')}, {counted(len(frame), 'number')}" if rows else ""
    notes = [opened.INTERVALS, *opened.unchecked([cell.shard for cell in cells])]
    return Section(name, title, "", tables, problems=list(refused or ()), notes=notes, state=state)


def _quantities(cell: Opened) -> Iterator[dict[str, Any]]:
    """Yield a row a quantity: its mean over the images above the threshold, where there is one.

    Columns `HEADER`, then the parts of the quantity's name and the facts of `Opened.facts`; intervals are 95 % percentile
    bootstrap over images. An image where a quantity is not defined is left out of its mean and of n.
    """
    measured = cell.rows[~cell.rows["skipped"]]
    if "above_threshold" in measured:
        measured = measured[measured["above_threshold"]]
    key = {"weights": cell.weights, "subset": cell.subset, "foils": cell.foils, "protocol": protocol(cell.shard)}
    names = cell.names | {"contrast": cell.shard.key[3]}
    for name in measured.select_dtypes("number"):
        if name in _FACTS or name.startswith("t_"):
            continue
        values, parts = measured[name].dropna(), name.split("/")
        low, high = statistics.bootstrap(values, cell.key(name))
        numbers = {"quantity": name, "n": len(values), "mean": values.mean(), "ci_low": low, "ci_high": high}
        numbers |= {"n_skipped": cell.n_skipped, "parts": len(parts)}
        numbers |= dict(zip(_axes(cell.shard.experiment, len(parts)), parts, strict=True))
        yield names | numbers | key | cell.facts()


def _table(name: str, title: str, frame: pd.DataFrame, parts: int, whole: pd.DataFrame) -> Table:
    """Return the quantities of so many parts: contrasts side by side, and the first part; the other parts down."""
    axes = _axes(name, parts)
    spread = Spread(("network", "method", *axes[1:]), (Span("mean", (axes[0], "contrast"), headed=False),))
    columns = (*opened.COLUMNS, _QUANTITY, *map(Column, axes), _MEAN)
    heading = f"{title}: {', '.join(dict.fromkeys(frame['model']))}"
    return Table(
        name, heading, columns, frame, spread=spread, networks=opened.networks(frame), whole=whole, header=HEADER
    )


def _axes(experiment: str, parts: int) -> tuple[str, ...]:
    """Return what the parts of a quantity's name tell, as the experiment names them."""
    names: tuple[str, ...] = experiments.get(experiment).axes if experiment in experiments.names() else ()
    return names if len(names) == parts else tuple(f"part {i + 1}" for i in range(parts))
