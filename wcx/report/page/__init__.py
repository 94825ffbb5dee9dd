"""All results there are, in one HTML file: no network, and no script needed to read it.

`page.html.j2` is the page and `table.html.j2` a table in it; `style.css` and `script.js` go into it. An experiment's section comes
from its records (see `wcx.report.sections`); `contents` reads what else lies in the folder, `embedded` puts pictures in,
`grouped` lays out the paper's kind of table, `provenance` says how results are made again.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from numbers import Real
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jinja2
from markupsafe import Markup

from wcx.files import write as write_file
from wcx.report import sections
from wcx.report.backends import html_text
from wcx.report.grids import GridEntry
from wcx.report.page import provenance
from wcx.report.page.contents import Contents, Drawn
from wcx.report.page.embedded import Album
from wcx.report.page.grouped import grouped
from wcx.report.sections import Section, counted
from wcx.report.tables import Table

NAME = "report.html"
MOST_SWITCHED = 6  # images of a switch that are embedded
MOST_OPEN = 48  # rows of a table that is open from the start
MOST_TOLD = 3  # lines on what was left out, likewise
_FOLDER = Path(__file__).parent


def write(results_dir: Path, refused: list[str] | None = None) -> list[str]:
    """Write `report.html` into a results folder, from whatever lies there.

    Args:
        results_dir: need not exist: the page then says which commands fill it.
        refused: where a line goes for each file that is damaged or foreign; None puts them among the result.

    Returns:
        lines for the screen: pictures that are shown smaller, what was left out, the file and its size.
    """
    contents, album = Contents(Path(results_dir)), Album(Path(results_dir))
    page = document(contents, album)
    contents.folder.mkdir(parents=True, exist_ok=True)
    path = contents.folder / NAME
    write_file(path, page)
    damaged = [*contents.refused, *album.damaged]
    if refused is not None:
        refused += damaged
    left_out = damaged if refused is None else []
    return [*left_out, *album.notes, f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)"]


def document(contents: Contents, album: Album) -> str:
    """Return the page."""
    reported = sections.of_folder(contents.folder)
    contents.refused += chain.from_iterable(section.problems for section in reported)
    steps = provenance.steps(contents, {section.name: section.title for section in reported})
    style, script = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    environment = _environment()
    with TemporaryDirectory() as scratch:  # drawings come from records, too: files of an earlier run may be of others
        environment.filters |= {"drawn": lambda plot: plot.write(Path(scratch))[0], "embed": album.embed}
        environment.filters |= {"dataset": contents.label}
        return environment.get_template("page.html.j2").render(
            contents=contents,
            chapters=_chapters(contents, reported, sum(len(lines) for _, _, lines in steps)),
            steps=steps,
            machines=provenance.machines(contents.sets),
            policy=_policy(style, script),
            style=Markup(style),
            script=Markup(script),
            most_switched=MOST_SWITCHED,
            most_open=MOST_OPEN,
            most_told=MOST_TOLD,
        )


def _chapters(contents: Contents, reported: Sequence[Section], commands: int) -> list[tuple[Section, Sequence[Drawn]]]:
    """Return the page's sections, with pictures: experiments first, the paper's even if they are empty."""
    by_name = {section.name: section for section in reported}
    paper = [replace(by_name.pop(empty.name, empty), commands=empty.commands) for empty in _PAPER]
    galleries, photographs = contents.galleries, contents.photographs
    commits = len({str(each.manifest.get("git_commit")) for each in contents.sets})
    state = f"{counted(len(contents.sets), 'set')} of records, {counted(commits, 'commit')}" if contents.sets else ""
    table = [provenance.table(contents.sets)] if contents.sets else []
    return [
        *((section, ()) for section in [*paper, *by_name.values()]),
        (replace(_GALLERIES, state=counted(len(galleries), "picture") if galleries else ""), galleries),
        (replace(_PHOTOGRAPHS, state=counted(len(photographs), "photograph") if photographs else ""), photographs),
        (replace(_REPRODUCE, state=counted(commands, "command")), ()),
        (replace(_MANIFEST, state=state, tables=table), ()),
    ]


def html(table: Table) -> str:
    """Return a table as HTML in a box that scrolls on its own; see `Table.to_html`."""
    module: Any = _environment().get_template("table.html.j2").module
    return str(module.html(table))


def _environment() -> jinja2.Environment:
    """Return what templates are rendered with: whatever is not markup already is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"formula": lambda text: Markup(html_text(text)), "grouped": grouped}
    environment.filters |= {"value": _value, "short": lambda number: number.removeprefix("0")}
    return environment


def _value(entry: GridEntry) -> str:
    """Return the number behind a cell, to sort by; "" where there is none."""
    is_number = isinstance(entry.value, Real) and not math.isnan(entry.value)
    return f"{entry.value:.9g}" if is_number else ""


def _policy(style: str, script: str) -> str:
    """Return a policy under which nothing is loaded, and nothing runs but this page's own style and script."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    return "default-src 'none'; img-src data:; style-src 'sha256-{}'; script-src 'sha256-{}'".format(*hashes)


_PAPER = (
    Section(
        "masking",
        "Table 1: masking",
        commands=("wcx table1 datasets=[cub] models=[vgg16]", "wcx demo    # drawn birds: two minutes, no data needed"),
    ),
    Section("sign_perturbation", "Fig. 3: perturbation", commands=("wcx fig3 models=[alexnet] limit=100",)),
)
_GALLERIES = Section(
    "gallery",
    "Galleries",
    "Red speaks for the class and blue against it; white is zero. The images are chosen by the rule that stands with them, never "
    "by hand.",
    commands=("wcx gallery datasets=[cub] models=[vgg16]", "wcx table1    # draws the first selected images, too"),
)
_PHOTOGRAPHS = Section(
    "photographs",
    "Photographs",
    "Why this class, and not that one? Each class against the other, against all others, and alone.",
    commands=("wcx image=photo.jpg model=squeezenet1_1",),
)
_REPRODUCE = Section(
    "reproduce",
    "How to reproduce",
    "Run in the repository, in this order. The commands are those that made the numbers, as recorded with them.",
)
_MANIFEST = Section(
    "manifest",
    "Manifest",
    "Records are one row an image; every number above is computed from them. + behind a commit: files were changed.",
    commands=("wcx table1", "wcx fig3", "wcx run"),
)
