"""A table described once: what its columns mean, how they are shown; CSV, screen text, Markdown, LaTeX and HTML come from it.

The frame is long, a row a number with all facts beside it, and is written whole. What a reader sees of it is a `Grid`, made
here: the columns that are shown, or a spread of the paper's kind (datasets and methods down, baselines and contrasts across).
A back end turns a grid into text; see `backends`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, product
from pathlib import Path
from typing import Any

import pandas as pd

from wcx.files import write as write_file

NO_NUMBER = "-"


@dataclass(frozen=True)
class Column:
    """One column of a frame.

    Attributes:
        name: in the frame and in CSV.
        meaning: a sentence, with unit and range.
        heading: what stands above it where it is shown; "" is the name.
        format: of its numbers, as for `format`; "p" for p-values; "" is text.
        better: "higher" or "lower"; or the name of the column that says so in every row.
        interval: the columns that hold the ends of its interval.
        words: how names in it are shown, by name.
        folded: left out where all rows have the same, and said once above the table.
    """

    name: str
    meaning: str = ""
    heading: str = ""
    format: str = ""
    better: str = ""
    interval: tuple[str, str] | None = None
    words: Mapping[str, str] = field(default_factory=dict)
    folded: bool = False

    @property
    def title(self) -> str:
        """What stands above it."""
        return self.heading or self.name.replace("_", " ")

    def show(self, value: object) -> str:
        """Return a value as text; "-" where there is none."""
        if value is None or (isinstance(value, float) and pd.isna(value)):
            return NO_NUMBER
        if self.format == "p":
            return f"{value:.1g}" if isinstance(value, float) and value < 0.001 else f"{value:.3f}"
        if not self.format:
            return self.words.get(str(value), str(value))
        return re.sub(r"^-(?=[0.]*%?$)", "", format(value, self.format))  # no negative zero


@dataclass(frozen=True)
class Block:
    """Columns of a spread: one for each combination of the values of some keys.

    Attributes:
        name: the column whose numbers stand in it.
        across: the keys; none for a number that a line has once.
        headed: whether the column's title stands above the keys' values.
    """

    name: str
    across: tuple[str, ...] = ()
    headed: bool = True


@dataclass(frozen=True)
class Spread:
    """How a long frame is laid out in lines.

    Attributes:
        rows: the keys of a line, shown at its left.
        blocks: what stands in it.
        rivals: the key among whose values the better number is marked; "" marks none.
        beneath: a column whose numbers stand in a line of their own below those of the blocks with the same keys: (the block's
            column, the column beneath, what the line is called).
    """

    rows: tuple[str, ...]
    blocks: tuple[Block, ...]
    rivals: str = ""
    beneath: tuple[tuple[str, str], ...] = ()
    beneath_title: str = ""


@dataclass(frozen=True)
class Heading:
    """A cell of a grid's head: its text, its first column, how many columns and levels it spans, what it tells of."""

    text: str
    place: int
    width: int
    depth: int
    column: Column


@dataclass(frozen=True)
class Entry:
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

    labels: tuple[Entry, ...]
    entries: tuple[Entry, ...]
    facts: Mapping[str, Any]
    beneath: bool = False


@dataclass(frozen=True)
class Grid:
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


@dataclass(frozen=True)
class Note:
    """Something to be said of numbers; a caution is what keeps them from being the paper's."""

    text: str
    is_caution: bool = False


@dataclass(frozen=True)
class Network:
    """A trained network whose numbers stand in a table: its name there, its images, and what is to be said of them."""

    name: str
    images: str
    notes: tuple[Note, ...]
    dataset: str = ""
    model: str = ""

    def __str__(self) -> str:
        return f"{self.name}: n = {self.images} images; {'; '.join(note.text for note in self.notes)}"


@dataclass(frozen=True, eq=False)
class Table:
    """A table.

    Attributes:
        name: of its files; several tables of one name share them.
        title: what it shows, in a line.
        columns: of the frame, described; what the frame has beyond them are facts.
        frame: a row a number, every fact kept.
        note: how it is to be read; "" for nothing.
        shown: names of the columns that are shown; () shows all that are described.
        labels: how many of the shown ones tell what a row is of.
        spread: the layout; None shows a line a row.
        networks: what is to be said of those in it, where no other table says it.
        compared: columns whose numbers, 0 to 1, the page draws on one line in every row.
        is_main: whether it stands open at once and on the screen, and not on request.
        is_shown: whether it is shown at all; else it is a file.
        whole: the frame that its own is a part of, where one is divided for the eye; files hold it.
        header: the columns of ``<name>.csv``, a projection of the frame; () writes none.
        digits: of the numbers in it.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    frame: pd.DataFrame
    note: str = ""
    shown: tuple[str, ...] = ()
    labels: int = 1
    spread: Spread | None = None
    networks: tuple[Network, ...] = ()
    compared: tuple[str, ...] = ()
    is_main: bool = True
    is_shown: bool = True
    whole: pd.DataFrame | None = None
    header: tuple[str, ...] = ()
    digits: str = "%.6g"

    def column(self, name: str) -> Column:
        """Return the description of a column; one of the name alone, where there is none."""
        return next((column for column in self.columns if column.name == name), Column(name))

    def grid(self) -> Grid:
        """Return what a reader sees of it."""
        return _spread(self, self.spread) if self.spread else _long(self)

    @property
    def complete(self) -> pd.DataFrame:
        """The frame that files hold."""
        return self.frame if self.whole is None else self.whole

    def to_csv(self, columns: Sequence[str] | None = None, digits: str = "%.9g") -> str:
        """Return the whole frame, or some of its columns, as CSV."""
        return self.complete.to_csv(index=False, columns=columns, float_format=digits)

    def to_text(self) -> str:
        """Return it for a screen."""
        from wcx.report import backends

        return backends.text(self)

    def to_markdown(self) -> str:
        """Return it as Markdown with a pipe table."""
        from wcx.report import backends

        return backends.markdown(self)

    def to_latex(self) -> str:
        """Return it as a table environment; needs the packages booktabs and graphicx."""
        from wcx.report import backends

        return backends.latex(self)

    def to_html(self) -> str:
        """Return a ``<table>`` with its caption.

        Every line has data-dataset, data-model and data-method where its facts tell them; every number has data-value.
        """
        from wcx.report import backends

        return backends.html(self)


def write(tables: Sequence[Table], folder: Path) -> list[Path]:
    """Write ``tables/<name>_full.csv``, the whole frame, and ``<name>.csv``, its projection; tables of one name share them.

    Files of an earlier run that nothing stands in now are removed: they would seem to belong to this one.

    Returns:
        the projections that were written.
    """
    files = []
    for name, group in groupby(sorted(tables, key=lambda table: table.name), lambda table: table.name):
        members = list(group)
        frames = {id(table.complete): table.complete for table in members if len(table.complete)}
        frame = pd.concat(list(frames.values()) or [members[0].complete], ignore_index=True)
        first = replace(members[0], frame=frame, whole=None)
        texts = {folder / "tables" / f"{name}_full.csv": first.to_csv()}
        if first.header:
            texts[folder / f"{name}.csv"] = first.to_csv(first.header, first.digits)
        for path, text in texts.items():
            if frames:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_file(path, text)
            else:
                path.unlink(missing_ok=True)
        files += list(texts)[1:] if frames else []
    return files


def _long(table: Table) -> Grid:
    """Return a grid of a line a row."""
    names = table.shown or tuple(column.name for column in table.columns)
    columns, shared = _folded(table, [name for name in names if table.frame[name].notna().any()])
    labels = sum(column.name in names[: table.labels] for column in columns)
    lines = []
    for row in table.frame.to_dict("records"):
        entries = tuple(_entry(column, row) for column in columns)
        lines.append(GridLine(entries[:labels], entries[labels:], row))
    head = (tuple(Heading(column.title, place, 1, 1, column) for place, column in enumerate(columns)),)
    return Grid(head, tuple(columns), labels, tuple(lines), shared)


def _folded(table: Table, names: Sequence[str]) -> tuple[list[Column], tuple[tuple[str, str], ...]]:
    """Return the columns that are shown, and what the others have in all rows; what the table's networks say is left out."""
    columns = [table.column(name) for name in names]
    frame, named = table.frame, {network.name for network in table.networks}
    shared = [column for column in columns if column.folded and frame[column.name].nunique(dropna=False) == 1]
    pairs = [(column.title, column.show(frame[column.name].iloc[0])) for column in shared]
    shown = [column for column in columns if column not in shared]
    return shown, tuple(pair for pair in pairs if pair[1] not in named)


def _spread(table: Table, spread: Spread) -> Grid:
    """Return a grid of the paper's kind."""
    frame = table.frame.reset_index(drop=True)
    keys, shared = _folded(table, spread.rows)
    places: list[tuple[Block, tuple[Any, ...]]] = []
    titles: list[tuple[str, ...]] = [(column.title,) for column in keys]
    for block in spread.blocks:
        column = table.column(block.name)
        for values in _combinations(frame.dropna(subset=block.name), block.across):
            names = [table.column(key).show(value) for key, value in zip(block.across, values, strict=True)]
            places.append((block, values))
            titles.append((*([column.title] if block.headed or not names else []), *names))
    columns = [*keys, *(table.column(block.name) for block, _ in places)]
    better = {block.name: _best(table, spread, block) for block in spread.blocks}
    lines: list[GridLine] = []
    for values in _combinations(frame, spread.rows):
        lines += _lines(table, spread, keys, places, _where(frame, spread.rows, values), better)
    return Grid(_head(titles, columns), tuple(columns), len(keys), tuple(lines), shared, is_spread=True)


def _lines(
    table: Table,
    spread: Spread,
    keys: Sequence[Column],
    places: Sequence[tuple[Block, tuple[Any, ...]]],
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
        entries.append(_entry(column, row, is_best) if row else Entry(NO_NUMBER))
        lower.append(Entry("") if number is None or pd.isna(number) else Entry(column.show(number), number, row=row))
    yield GridLine(labels, tuple(entries), facts)
    if any(entry.text for entry in lower):
        title = (Entry(spread.beneath_title), *(Entry("") for _ in labels[1:]))
        yield GridLine(title, tuple(lower), facts, beneath=True)


def _combinations(frame: pd.DataFrame, keys: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return the combinations of the keys' values that there are, each key in its own order."""
    present = set(frame[list(keys)].itertuples(index=False, name=None)) if keys else {()} if len(frame) else set()
    return [values for values in product(*(dict.fromkeys(frame[key]) for key in keys)) if values in present]


def _where(rows: pd.DataFrame, keys: Sequence[str], values: Sequence[Any]) -> pd.DataFrame:
    """Return the rows whose keys have these values."""
    for key, value in zip(keys, values, strict=True):
        rows = rows[rows[key] == value]
    return rows


def _best(table: Table, spread: Spread, block: Block) -> pd.Series:
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


def _entry(column: Column, row: Mapping[str, Any], best: bool = False) -> Entry:
    value = row.get(column.name)
    ends = [row.get(name) for name in column.interval or ()]
    plain = replace(column, format=column.format.removeprefix("+"))
    interval = (plain.show(ends[0]), plain.show(ends[1])) if ends and not pd.isna(ends[0]) else None
    return Entry(column.show(value), value, interval, best, row)


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
