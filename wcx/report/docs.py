"""Pages of docs/ from their templates: the prose of results.md stands in results.md.j2, every table in docs/tables/<name>.csv.

Such a file is long, a line a number, and `value` is the number. All other columns are labels: those that name its line, `column`
(its heading), `part` (which of a cell's numbers it is), and what it was measured with (`setting`, `command`). How the numbers of a
cell are written stands in the template, by their parts: "a / b", where it says nothing.
figures.csv holds the numbers of sentences that no table shows, by `quantity`; its n, setting and command are labels, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jinja2
import pandas as pd

from wcx.errors import WcxError
from wcx.files import write as write_file
from wcx.report.backends import pipe_table

SUFFIX = ".md.j2"
_NUMBERS = ("column", "part", "value", "setting", "command")


def write(folder: Path) -> list[Path]:
    """Write the pages of a folder of documents that have a template; return their paths.

    Raises:
        WcxError: there is no template, as in an installed package.
    """
    templates = sorted(folder.glob(f"*{SUFFIX}"))
    if not templates:
        raise WcxError(f"no template {folder / '*'}{SUFFIX}: docs=true is for a checkout of the repository.")
    pages = {template.with_suffix(""): document(template) for template in templates}
    for path, page in pages.items():
        write_file(path, page)
    return list(pages)


def document(template: Path) -> str:
    """Return the page that a template and the tables beside it make.

    Raises:
        WcxError: a table that is not there, or has not the columns; or a number that a sentence asks for and no table has.
    """
    folder = template.parent
    loader = jinja2.FileSystemLoader(folder)
    environment = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    tables = _Tables(folder / "tables")
    environment.globals |= {"table": tables.markdown, "value": tables.value, "figures": tables.figures()}
    try:
        return environment.get_template(template.name).render()
    except jinja2.TemplateError as error:
        raise WcxError(f"{template}: {error}; a sentence's numbers stand in tables/figures.csv.") from error


class _Tables:
    """The tables of a folder, as the template asks for them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def frame(self, name: str) -> pd.DataFrame:
        """Return a table as it was written: numbers keep their digits."""
        path = self._folder / f"{name}.csv"
        if not path.is_file():
            raise WcxError(
                f"no table {path}; there are {', '.join(sorted(file.stem for file in self._folder.glob('*.csv')))}."
            )
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        if absent := set(_NUMBERS) - set(frame):
            raise WcxError(f"{path} has no column {', '.join(sorted(absent))}.")
        return frame

    def markdown(self, name: str, cells: Mapping[str, str] | None = None) -> str:
        """Return a table in Markdown: a line for each combination of its labels, a cell of all numbers of one column.

        Args:
            cells: how numbers are written, a {} for each, by their parts or their column: ``{"mean, least": "{} (from {})"}``.
        """
        frame = self.frame(name)
        labels = [column for column in frame if column not in _NUMBERS]
        headings = list(dict.fromkeys(frame["column"]))
        lines = []
        for names, rows in frame.groupby(labels, sort=False):
            texts = {heading: _cell(numbers, cells or {}) for heading, numbers in rows.groupby("column", sort=False)}
            lines.append([*names, *(texts.get(heading, "") for heading in headings)])
        return pipe_table(["" if label == "of" else label for label in labels] + headings, lines, len(labels))

    def value(self, name: str, *labels: str, column: str, part: str = "") -> str:
        """Return one number of a table, for a sentence that restates it."""
        frame = self.frame(name)
        keys = [key for key in frame if key not in _NUMBERS]
        asked = dict(zip(keys, labels, strict=True)) | {"column": column, "part": part}
        rows = frame
        for key, text in asked.items():
            rows = rows[rows[key] == text]
        if len(rows) != 1:
            raise WcxError(f"{name}: {len(rows)} numbers for {asked}; a sentence takes one.")
        return str(rows["value"].iloc[0])

    def figures(self) -> dict[str, str]:
        """Return the numbers of sentences by their quantity."""
        path = self._folder / "figures.csv"
        frame = pd.read_csv(path, dtype=str, keep_default_na=False) if path.is_file() else pd.DataFrame()
        return dict(zip(frame["quantity"], frame["value"], strict=True)) if len(frame) else {}


def _cell(numbers: pd.DataFrame, cells: Mapping[str, str]) -> str:
    """Return a cell's text."""
    names = ", ".join(numbers["part"]), numbers["column"].iloc[0]
    text = next((cells[name] for name in names if name in cells), " / ".join(["{}"] * len(numbers)))
    return text.format(*numbers["value"])
