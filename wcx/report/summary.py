"""The report of an experiment that has no module of its own here: a number for each quantity that it records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
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
_FACTS = ("index", "id", "label", "skipped", "above_threshold", "predicted")  # of an image: no quantities
_MEAN = Column("mean", "Over the images where it is defined.", format=".4g", interval=("ci_low", "ci_high"))
_QUANTITY = Column("quantity", "What was recorded of each image.")


def protocol(shard: Shard) -> str:
    """Return what tells protocols apart: the settings but the seed."""
    settings = {key: value for key, value in shard.parts.get("settings", {}).items() if key != "seed"}
    return json.dumps(settings, sort_keys=True)


def section(shards: Sequence[Shard], refused: list[str] | None = None) -> Section:
    """Return the section of an experiment's records: its quantities, divided by how many parts their names have.

    See `sections.of`.
    """
    name = shards[0].experiment
    cells = [Opened(shard, rows) for shard in shards if (rows := opened.rows(shard, refused)) is not None]
    axes = _axes(name, dict.fromkeys(chain.from_iterable(map(measured, cells))))
    rows = list(chain.from_iterable(_quantities(cell, axes) for cell in cells))
    frame = opened.framed(rows, HEADER)
    title = name.replace("_", " ").capitalize()
    tables: list[Table] = []
    for _, block in frame.groupby(["model", "protocol"], sort=False) if rows else ():
        tables += [_table(name, title, group, axes[int(parts)], frame) for parts, group in block.groupby("parts")]
    state = f"{counted(len(cells), 'cell')}, {counted(len(frame), 'number')}" if rows else ""
    notes = [opened.INTERVALS, *opened.unchecked([cell.shard for cell in cells])]
    return Section(name, title, "", tables, problems=list(refused or ()), notes=notes, state=state)


def measured(cell: Opened) -> pd.DataFrame:
    """Return the quantities of a cell, a column each, of the images above the threshold, where there is one."""
    measured = cell.rows[~cell.rows["skipped"]]
    if "above_threshold" in measured:
        measured = measured[measured["above_threshold"]]
    numbers = measured.select_dtypes("number")
    return numbers[[name for name in numbers if name not in _FACTS and not name.startswith("t_")]]


def _quantities(cell: Opened, axes: Mapping[int, Sequence[str]]) -> Iterator[dict[str, Any]]:
    """Yield a row a quantity: its mean over the images.

    Columns `HEADER`, then the parts of the quantity's name and the facts of `Opened.facts`; intervals are 95 % percentile
    bootstrap over images. An image where a quantity is not defined is left out of its mean and of n.
    """
    key = {"weights": cell.weights, "subset": cell.subset, "foils": cell.foils, "protocol": protocol(cell.shard)}
    names = cell.names | {"contrast": cell.shard.key[3]}
    for name, column in measured(cell).items():
        values, parts = column.dropna(), str(name).split("/")
        low, high = statistics.bootstrap(values, cell.key(name))
        numbers = {"quantity": name, "n": len(values), "mean": values.mean(), "ci_low": low, "ci_high": high}
        numbers |= {"n_skipped": cell.n_skipped, "parts": len(parts)}
        numbers |= dict(zip(axes[len(parts)], parts, strict=True))
        yield names | numbers | key | cell.facts()


def _table(name: str, title: str, frame: pd.DataFrame, axes: Sequence[str], whole: pd.DataFrame) -> Table:
    """Return quantities whose parts tell `axes`: contrasts side by side, and the first part; the other parts down."""
    spread = Spread(("network", "method", *axes[1:]), (Span("mean", (axes[0], "contrast"), headed=False),))
    columns = (*opened.COLUMNS, _QUANTITY, *map(Column, axes), _MEAN)
    heading = f"{title}: {', '.join(dict.fromkeys(frame['model']))}"
    return Table(
        name, heading, columns, frame, spread=spread, networks=opened.networks(frame), whole=whole, header=HEADER
    )


def _axes(experiment: str, quantities: Iterable[str]) -> dict[int, tuple[str, ...]]:
    """Return what the parts of quantities tell, by how many there are: what the experiment says of as many as it names.

    In a shorter or longer name, a part of the values of one of those axes tells the same.
    """
    named: tuple[str, ...] = experiments.get(experiment).axes if experiment in experiments.names() else ()
    columns: dict[int, list[set[str]]] = {}
    for parts in (quantity.split("/") for quantity in quantities):
        for values, part in zip(columns.setdefault(len(parts), [set() for _ in parts]), parts, strict=True):
            values.add(part)
    known = dict(zip(named, columns.get(len(named), ()), strict=False))

    def title(place: int, values: set[str]) -> str:
        return next((axis for axis in known if values <= known[axis]), f"part {place}")

    titles = {n: tuple(title(i, values) for i, values in enumerate(each, 1)) for n, each in columns.items()}
    return titles | ({len(named): named} if named else {})
