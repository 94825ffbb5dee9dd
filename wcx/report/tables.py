"""A table described once: what its columns mean, how they are shown; CSV, screen text, Markdown, LaTeX and HTML come from it.

The frame is long, a row a number with all facts beside it, and is written whole. What a reader sees of it is a grid (see
`grids`): the columns that are shown, or a spread of the paper's kind (datasets and methods down, baselines and contrasts across).
A back end turns a grid into text; see `backends`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from wcx.files import write as write_file

if TYPE_CHECKING:
    from wcx.report.grids import TableGrid

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
        return self.heading or re.sub(r"(?<!\b[py])_", " ", self.name)  # p_t and y_t are formulas

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
class Span:
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
    blocks: tuple[Span, ...]
    rivals: str = ""
    beneath: tuple[tuple[str, str], ...] = ()
    beneath_title: str = ""


@dataclass(frozen=True)
class Note:
    """Something to be said of numbers; a caution is what keeps them from being the paper's."""

    text: str
    is_caution: bool = False


@dataclass(frozen=True)
class NamedNetwork:
    """A trained network whose numbers stand in a table: its name there, its images, and what is to be said of them."""

    name: str
    images: str
    notes: tuple[Note, ...]
    dataset: str = ""
    model: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {'; '.join(self.texts)}"

    @property
    def texts(self) -> list[str]:
        """What is to be said."""
        return [f"n = {self.images} images", *(note.text for note in self.notes)]


def gathered(networks: Sequence[NamedNetwork]) -> list[str]:
    """Return what is to be said of networks, once: what is true of all, then what differs."""
    shared = [text for text in networks[0].texts if all(text in network.texts for network in networks)]
    groups: dict[str, list[str]] = {}
    for network in networks:
        groups.setdefault("; ".join(text for text in network.texts if text not in shared), []).append(network.name)
    differing = [f"{', '.join(names)}: {text}" for text, names in groups.items() if text]
    return [line for line in ("; ".join(shared), ". ".join(differing)) if line]


@dataclass(frozen=True, eq=False)
class Table:
    """A table.

    Attributes:
        name: of its files; several tables of one name share them.
        title: what it shows, in a line.
        columns: of the frame, described; what the frame has beyond them are facts.
        frame: a row a number, every fact kept.
        note: how it is to be read; "" for nothing.
        shown: names of the columns that are shown; () shows all that are described. Those before the first number tell what a
            row is of.
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
    spread: Spread | None = None
    networks: tuple[NamedNetwork, ...] = ()
    compared: tuple[str, ...] = ()
    is_main: bool = True
    is_shown: bool = True
    whole: pd.DataFrame | None = None
    header: tuple[str, ...] = ()
    digits: str = "%.6g"

    def column(self, name: str) -> Column:
        """Return the description of a column; one of the name alone, where there is none."""
        return next((column for column in self.columns if column.name == name), Column(name))

    def grid(self) -> TableGrid:
        """Return what a reader sees of it: laid out once, however many files and pages it is written to."""
        return self._grid

    @cached_property
    def _grid(self) -> TableGrid:
        from wcx.report import grids

        return grids.spread(self, self.spread) if self.spread else grids.long(self)

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
        from wcx.report import page

        return page.html(self)


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
