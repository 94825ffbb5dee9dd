"""A table as screen text, Markdown and LaTeX, each from the same grid (see `tables`); as HTML it stands in `page`."""

from __future__ import annotations

import html as escaping
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from wcx.report.grids import GridEntry, GridLine, TableGrid
from wcx.report.tables import Table, gathered

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$",
    "\u2212": "$-$", "\u00b1": r"$\pm$",
    "[": "{[}",  # at a line's start LaTeX would take it for an argument of the rule before
}  # fmt: skip
_MINUS = re.compile(r"(?:(?<=[ (\[])|^)-(?=[\d.])")  # a hyphen that is none
_FORMULA = r"\b([tpy])_(t?_?[\di]|t)\b"  # t_1, p_t2, y_t


def text(table: Table) -> str:
    """Return a table for a screen: title, what its rows share, columns; * marks the better."""
    grid = table.grid()
    cells = [*_matrix(grid), *(_texts(line, "*", grid) for line in grid.lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    sides = [str.ljust] * grid.labels + [str.rjust] * (len(widths) - grid.labels)
    lines = ["  ".join(side(*cell) for side, *cell in zip(sides, row, widths, strict=True)) for row in cells]
    notes = [table.title, *map(str, table.networks), *_shared(grid), table.note]
    return "\n".join([*filter(None, notes), *(line.rstrip() for line in lines)])


def markdown(table: Table) -> str:
    """Return a table as Markdown: a heading, its note, and a pipe table whose levels of headings stand in one line."""
    grid = table.grid()
    head = [" ".join(filter(None, names)) for names in zip(*_matrix(grid, is_repeated=True), strict=True)]
    rows = [_texts(line, "**", grid) for line in grid.lines]
    networks = "\n".join(f"- {network}" for network in table.networks)
    notes = map(markdown_text, filter(None, [networks, *_shared(grid), table.note]))
    return "\n\n".join([f"### {markdown_text(table.title)}", *notes, pipe_table(head, rows, grid.labels)])


def pipe_table(head: Sequence[str], rows: Sequence[Sequence[str]], labels: int) -> str:
    """Return a table of texts in Markdown; the first `labels` columns stand at the left, the others at the right."""
    rule = ["---"] * labels + ["---:"] * (len(head) - labels)
    return "\n".join(f"| {' | '.join(map(markdown_text, row))} |" for row in (head, rule, *rows))


def latex(table: Table) -> str:
    """Return a table environment for a document with booktabs and graphicx."""
    grid = table.grid()
    networks = gathered(table.networks) if len(table.networks) > 1 else map(str, table.networks)
    caption = ". ".join(
        latex_text(note.rstrip(".")) for note in (table.title, *networks, *_shared(grid), table.note) if note
    )
    alignment = "l" * grid.labels + "r" * (len(grid.columns) - grid.labels)
    before: tuple[str, ...] = ()
    body = [] if grid.is_spread else [r"\midrule"]
    for line in grid.lines:
        labels = tuple(latex_text(entry.text) for entry in line.labels)
        if grid.is_spread and not line.beneath:
            body += [r"\midrule"] if labels[:1] != before[:1] else []
            shared = [labels[: i + 1] == before[: i + 1] for i in range(len(labels))]
            before = labels
            labels = tuple("" if is_shared else label for is_shared, label in zip(shared, labels, strict=True))
        body.append(" & ".join([*labels, *(_latex_entry(entry, grid) for entry in line.entries)]) + r" \\")
    return "\n".join(
        [
            r"\begin{table*}",
            r"\centering\setlength{\tabcolsep}{3pt}\setlength{\belowcaptionskip}{4pt}",
            rf"\caption{{{caption}.}}",
            r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{alignment}}}",
            r"\toprule",
            *_latex_head(grid),
            *body,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table*}",
        ]
    )


def markdown_text(text: str) -> str:
    """Escape what Markdown would read as markup: underscores between letters are none, so that t_1 stays as it is."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def latex_text(text: str) -> str:
    """Return plain text as LaTeX shows it, with true minus signs; t_1, p_t2 and the like become formulas."""
    text, parts, position = _MINUS.sub("\u2212", text), [], 0
    for match in re.finditer(_FORMULA, text):
        parts += [*(_LATEX.get(letter, letter) for letter in text[position : match.start()])]
        index = re.sub(r"t_?([\di])$", r"t_\1", match[2])
        parts.append(f"${match[1]}_{{{index}}}$" if len(index) > 1 else f"${match[1]}_{index}$")
        position = match.end()
    return "".join([*parts, *(_LATEX.get(letter, letter) for letter in text[position:])])


def html_text(text: str) -> str:
    """Return a sentence as HTML, its formulas' indices set low and its minus signs long."""
    indexed = re.sub(_FORMULA, r"\1<sub>\2</sub>", escaping.escape(text))
    return _MINUS.sub("\u2212", indexed)


def _matrix(grid: TableGrid, is_repeated: bool = False) -> list[list[str]]:
    """Return the head as lines of texts: a heading in the lowest level that it spans, over the first or all of its columns."""
    matrix = [[""] * len(grid.columns) for _ in grid.head]
    for level, headings in enumerate(grid.head):
        for heading in headings:
            row, end = matrix[level + heading.depth - 1], heading.place + (heading.width if is_repeated else 1)
            row[heading.place : end] = [heading.text] * (end - heading.place)
    return matrix


def _latex_head(grid: TableGrid) -> Iterator[str]:
    """Yield the lines above the numbers, with a rule below what spans several columns."""
    for level, row in enumerate(_matrix(grid)):
        wide = {heading.place: heading.width for heading in grid.head[level] if heading.width > 1}
        covered = {place + i + 1 for place, width in wide.items() for i in range(width - 1)}
        cells = [
            rf"\multicolumn{{{wide[place]}}}{{c}}{{{latex_text(name)}}}" if place in wide else latex_text(name)
            for place, name in enumerate(row)
            if place not in covered
        ]
        yield " & ".join(cells) + r" \\"
        if wide:
            yield "".join(rf"\cmidrule(lr){{{place + 1}-{place + width}}}" for place, width in wide.items())


def _latex_entry(entry: GridEntry, grid: TableGrid) -> str:
    number = latex_text(_plain(replace(entry, best=False), "", grid))
    return rf"\textbf{{{number}}}" if entry.best else number


def _texts(line: GridLine, mark: str, grid: TableGrid) -> list[str]:
    return [_plain(entry, mark, grid) for entry in (*line.labels, *line.entries)]


def _plain(entry: GridEntry, mark: str, grid: TableGrid) -> str:
    """Return an entry as text; with its interval where a line is a row, for a spread has no room."""
    ends = f" [{entry.interval[0]}, {entry.interval[1]}]" if entry.interval and not grid.is_spread else ""
    before = mark if mark == "**" else ""
    return f"{before}{entry.text}{mark}{ends}" if entry.best else entry.text + ends


def _shared(grid: TableGrid) -> list[str]:
    return ["; ".join(f"{title}: {shown}" for title, shown in grid.shared)] if grid.shared else []
