"""What a reader sees of a table: a grid of headings and lines, which every back end turns into text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from wcx.report.tables import NO_NUMBER, Column, Span, Spread, Table


@dataclass(frozen=True)
class Heading:
    """A cell of a grid's head: its text, its first column, how many columns and levels it spans, what it tells of."""

    text: str
    place: int
    width: int
    depth: int
    column: Column


@dataclass(frozen=True)
class GridEntry:
    """A cell of a grid's body.

    Attributes:
        text: as shown.
        value: the number or name behind it; None where there is none.
        interval: (low, high) as shown; None where there is none.
        best: whether it is the better of its rivals, as shown.
        row: the frame's row it comes from.
    """

    text: str
    value: Any = None
    interval: tuple[str, str] | None = None
    best: bool = False
    row: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GridLine:
    """A line of a grid: `labels` at its left, `entries` after them, `facts` of its first row; `beneath` another line."""

    labels: tuple[GridEntry, ...]
    entries: tuple[GridEntry, ...]
    facts: Mapping[str, Any]
    beneath: bool = False


@dataclass(frozen=True)
class TableGrid:
    """What a reader sees of a table.

    Attributes:
        head: levels of headings; those that span several levels stand in the uppermost.
        columns: the column behind each place of a line, the labels' first.
        labels: how many places are labels.
        lines: the body.
        shared: (title, text) of what is the same in all rows.
        is_spread: whether it is a spread; else a line is a row.
    """

    head: tuple[tuple[Heading, ...], ...]
    columns: tuple[Column, ...]
    labels: int
    lines: tuple[GridLine, ...]
    shared: tuple[tuple[str, str], ...] = ()
    is_spread: bool = False


def long(table: Table) -> TableGrid:
    """Return a grid of a line a row."""
    names = table.shown or tuple(column.name for column in table.columns)
    columns, shared = _folded(table, [name for name in names if table.frame[name].notna().any()])
    is_number = [bool(column.format) and not column.folded for column in columns]
    labels = [*is_number, True].index(True)
    lines = []
    for row in table.frame.to_dict("records"):
        entries = tuple(_entry(column, row) for column in columns)
        lines.append(GridLine(entries[:labels], entries[labels:], row))
    head = (tuple(Heading(column.title, place, 1, 1, column) for place, column in enumerate(columns)),)
    return TableGrid(head, tuple(columns), labels, tuple(lines), shared)


def _folded(table: Table, names: Sequence[str]) -> tuple[list[Column], tuple[tuple[str, str], ...]]:
    """Return the columns that are shown, and what the others have in all rows; what the table's networks say is left out."""
    columns = [table.column(name) for name in names]
    frame, named = table.frame, {network.name for network in table.networks}
    shared = [column for column in columns if column.folded and frame[column.name].nunique(dropna=False) == 1]
    pairs = [(column.title, column.show(frame[column.name].iloc[0])) for column in shared]
    shown = [column for column in columns if column not in shared]
    return shown, tuple(pair for pair in pairs if pair[1] not in named)


def spread(table: Table, layout: Spread) -> TableGrid:
    """Return a grid of the paper's kind."""
    frame = table.frame.reset_index(drop=True)
    keys, shared = _folded(table, layout.rows)
    places: list[tuple[Span, tuple[Any, ...]]] = []
    titles: list[tuple[str, ...]] = [(column.title,) for column in keys]
    for block in layout.blocks:
        column = table.column(block.name)
        for values in _combinations(frame.dropna(subset=block.name), block.across):
            names = [table.column(key).show(value) for key, value in zip(block.across, values, strict=True)]
            places.append((block, values))
            titles.append((*([column.title] if block.headed or not names else []), *names))
    columns = [*keys, *(table.column(block.name) for block, _ in places)]
    better = {block.name: _best(table, layout, block) for block in layout.blocks}
    lines: list[GridLine] = []
    for values in _combinations(frame, layout.rows):
        lines += _lines(table, layout, keys, places, _where(frame, layout.rows, values), better)
    return TableGrid(_head(titles, columns), tuple(columns), len(keys), tuple(lines), shared, is_spread=True)


def _lines(
    table: Table,
    spread: Spread,
    keys: Sequence[Column],
    places: Sequence[tuple[Span, tuple[Any, ...]]],
    rows: pd.DataFrame,
    better: Mapping[str, pd.Series],
) -> Iterator[GridLine]:
    """Yield the line of some rows, and the one beneath it, where there are such numbers."""
    facts = rows.iloc[0].to_dict()
    labels = tuple(_entry(column, facts) for column in keys)
    below = dict(spread.beneath)
    entries, lower = [], []
    for block, values in places:
        column, cells = table.column(block.name), _where(rows, block.across, values)
        row = cells.iloc[0].to_dict() if len(cells) else {}
        number = row.get(below.get(block.name, ""))
        is_best = len(cells) > 0 and bool(better[block.name][cells.index[0]])
        entries.append(_entry(column, row, is_best) if row else GridEntry(NO_NUMBER))
        lower.append(
            GridEntry("") if number is None or pd.isna(number) else GridEntry(column.show(number), number, row=row)
        )
    yield GridLine(labels, tuple(entries), facts)
    if any(entry.text for entry in lower):
        title = (GridEntry(spread.beneath_title), *(GridEntry("") for _ in labels[1:]))
        yield GridLine(title, tuple(lower), facts, beneath=True)


def _combinations(frame: pd.DataFrame, keys: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return the combinations of the keys' values that there are, each key in its own order."""
    present = set(frame[list(keys)].itertuples(index=False, name=None)) if keys else {()} if len(frame) else set()
    orders = [dict.fromkeys(frame[key]) for key in keys]
    return [values for values in product(*orders) if values in present]


def _where(rows: pd.DataFrame, keys: Sequence[str], values: Sequence[Any]) -> pd.DataFrame:
    """Return the rows whose keys have these values."""
    found = np.ones(len(rows), dtype=bool)
    for key, value in zip(keys, values, strict=True):
        found &= (rows[key] == value).to_numpy(dtype=bool)
    return rows[found]


def _best(table: Table, spread: Spread, block: Span) -> pd.Series:
    """Return for each row whether its number, as shown, is the better among its rivals, where they differ."""
    column, frame = table.column(block.name), table.frame.reset_index(drop=True)
    if not (spread.rivals and column.better):
        return pd.Series(False, index=frame.index)
    keys = [frame[key] for key in (*spread.rows, *block.across) if key != spread.rivals]
    numbers = pd.to_numeric(frame[column.name].map(column.show).str.rstrip("%"), errors="coerce")
    direction = frame[column.better] if column.better in frame else pd.Series(column.better, index=frame.index)
    groups = numbers.where(direction == "higher", -numbers).groupby(keys, dropna=False)
    return (numbers.where(direction == "higher", -numbers) == groups.transform("max")) & (
        groups.transform("nunique") > 1
    )


def _entry(column: Column, row: Mapping[str, Any], best: bool = False) -> GridEntry:
    value = row.get(column.name)
    ends = [row.get(name) for name in column.interval or ()]
    plain = replace(column, format=column.format.removeprefix("+"))
    interval = (plain.show(ends[0]), plain.show(ends[1])) if ends and not pd.isna(ends[0]) else None
    return GridEntry(column.show(value), value, interval, best, row)


def _head(titles: Sequence[tuple[str, ...]], columns: Sequence[Column]) -> tuple[tuple[Heading, ...], ...]:
    """Return the levels of headings: neighbours that share theirs have one; a column's last one spans the levels below."""
    depth = max(map(len, titles))
    levels = []
    for level in range(depth):
        headings: list[Heading] = []
        for place, (names, column) in enumerate(zip(titles, columns, strict=True)):
            is_last = len(names) == level + 1
            left = titles[place - 1] if place else ()
            if len(names) <= level:
                continue
            if not is_last and headings and left[: level + 1] == names[: level + 1] and len(left) > level + 1:
                headings[-1] = replace(headings[-1], width=headings[-1].width + 1)
            else:
                headings.append(Heading(names[level], place, 1, depth - level if is_last else 1, column))
        levels.append(tuple(headings))
    return tuple(levels)
