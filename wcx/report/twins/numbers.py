"""The numbers of the experiment twins: a row for each score, question and reading of a cell, with its interval."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from wcx import methods, statistics
from wcx.report import opened
from wcx.report.opened import Opened
from wcx.report.tables import Column

RESAMPLES = 2000  # of the bootstrap: thousands of numbers a network
HEADER = (
    "dataset", "model", "method", "layer", "contrast", "score", "question", "reading", "n", "mean", "ci_low", "ci_high",
    "n_skipped", "weights", "subset",
)  # fmt: skip
# Readings that are the same whatever the map stand in lines of their own.
LINES = {"chance": "random maps", "centre": "centred Gaussian", "edges": "Sobel edges", "ceiling": "painted truth"}
COLUMNS = (
    *opened.COLUMNS,
    Column("layer", "Of the methods in activation space.", folded=True),
    Column("score", "What is compared with the known answer, see wcx.measures.truth."),
    Column(
        "question",
        "q1: the foil differs in one part; q2: in two or three; q3: two foils in turn; q4: several; q5: a mistake.",
    ),
    Column("reading", "Which maps and questions, see wcx.experiments.twins."),
    Column("mean", "Over images, of the means over their questions.", format=".3f", interval=("ci_low", "ci_high")),
)


def values(cell: Opened) -> pd.DataFrame:
    """Return the numbers ``score/question/reading`` of a cell, a row an image, NaN where a question was not asked."""
    names = [name for name in cell.rows if name.count("/") == 2]
    return cell.rows.set_index("index")[names].astype(float)


def facts(cell: Opened) -> pd.DataFrame:
    """Return the numbers ``fact/question`` of a cell, a row an image: they are the same for all cells of a network."""
    names = [name for name in cell.rows if name.count("/") == 1]
    return cell.rows.set_index("index")[names].astype(float)


def networks(cells: Sequence[Opened]) -> list[list[Opened]]:
    """Return the cells network by network (dataset, model, weights) and protocol."""
    groups: dict[object, list[Opened]] = {}
    for cell in cells:
        groups.setdefault((*cell.network, protocol(cell)), []).append(cell)
    return list(groups.values())


def protocol(cell: Opened) -> str:
    """Return what tells protocols apart: the settings but the seed."""
    return str(sorted((key, value) for key, value in cell.settings.items() if key != "seed"))


def frame(cells: Sequence[Opened]) -> pd.DataFrame:
    """Return a row a number: columns `HEADER`, then the facts of `Opened.facts`."""
    return opened.framed([row for group in networks(cells) for row in _rows(group)], HEADER)


def labels(cell: Opened) -> dict[str, Any]:
    """Return what every table of twins says of a cell."""
    facts = {"n_skipped": cell.n_skipped, "weights": cell.weights, "subset": cell.subset, "foils": "others"}
    return cell.names | facts


def _rows(cells: Sequence[Opened]) -> Iterator[dict[str, Any]]:
    """Yield the rows of one network's cells; their intervals are of the same resamples."""
    tables = [values(cell) for cell in cells]
    stacked = pd.concat(tables, axis=1, keys=range(len(cells)))
    low, high = intervals(stacked, cells[0].key("twins")[:2])
    lines: set[tuple[object, ...]] = set()
    for number, (cell, table) in enumerate(zip(cells, tables, strict=True)):
        for name, mean in table.mean().items():
            score, question, reading = str(name).split("/")
            count = int(table[name].notna().sum())
            if not count:
                continue
            numbers = {"score": score, "question": question, "reading": reading, "n": count, "mean": mean}
            numbers |= {"ci_low": low[number, name], "ci_high": high[number, name]}
            row = cell.facts() | labels(cell) | {"contrast": cell.shard.key[3], "layer": layer(cell)} | numbers
            if reading in LINES:
                grid = layer(cell) or "input"  # of random maps
                row |= {"method": LINES[reading], "contrast": "", "layer": grid if reading == "chance" else ""}
                line = (*(row[key] for key in ("method", "layer", "score", "question")),)
                if line in lines:
                    continue
                lines.add(line)
            yield row


def layer(cell: Opened) -> str:
    """Return the layer of a cell's maps; "" of those of the input."""
    names = methods.names()
    is_input = cell.names["method"] in names and methods.get(cell.names["method"]).space == "input"
    return "" if is_input else str(cell.shard.parts.get("layer") or "")


def intervals(table: pd.DataFrame, key: Sequence[object]) -> tuple[pd.Series, pd.Series]:
    """Return the ends of the 95 % intervals of a table's columns, a row an image; columns of the same images together."""
    low, high = (pd.Series(np.nan, index=table.columns) for _ in range(2))
    for mask, columns in opened.same_images(table):
        for start in range(0, len(columns), 500):
            batch = columns[start : start + 500]
            ends = statistics.bootstrap(table.loc[mask, batch].to_numpy(), [*key, int(mask.sum())], resamples=RESAMPLES)
            low[batch], high[batch] = ends
    return low, high
