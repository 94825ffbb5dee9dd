"""All results there are, in one HTML file: no network, and no script needed to read it.

`page.html.j2` is the page, `style.css` and `script.js` go into it. An experiment's section comes from its records (see
`wcx.report.sections`); `contents` reads what else lies in the folder, `embedded` puts pictures in, `provenance` says how it was made.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import sys

sys.path.insert(0, "/tmp")
from fake import sections as make_sections, S as Section
import jinja2
from markupsafe import Markup

from wcx.files import write as write_file
from wcx.report.page import provenance
from wcx.report.page.contents import Contents, Drawn, counted
from wcx.report.page.embedded import Album

NAME = "report.html"
MOST_SWITCHED = 6  # images of a switch that are embedded
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
    lines = [] if refused is not None else damaged
    if refused is not None:
        refused += damaged
    return [*lines, *album.notes, f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)"]


@dataclass(frozen=True)
class Chapter:
    """A section of the page, and its line in the list of contents.

    Attributes:
        name: in the page's addresses.
        title: its heading.
        intro: a few sentences below it.
        fills: the commands that fill it, said where nothing is there yet.
        state: what is there, in a few words; "" where nothing is.
        headline: its first number, and what it is of.
        section: of an experiment.
        drawings: pictures.
    """

    name: str
    title: str
    intro: str = ""
    fills: tuple[str, ...] = ()
    state: str = ""
    headline: tuple[str, str] | None = None
    section: Section | None = None
    drawings: Sequence[Drawn] = ()


def document(contents: Contents, album: Album) -> str:
    """Return the page."""
    sections = make_sections(contents.folder, contents.refused)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"formula": formula, "embed": album.embed, "dataset": contents.label}
    style, script = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    steps = provenance.steps(contents, {section.name: section.title for section in sections})
    return environment.get_template("page.html.j2").render(
        contents=contents,
        chapters=_chapters(contents, sections, steps),
        steps=steps,
        machines=provenance.machines(contents.sets),
        records=[],
        policy=_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        most_switched=MOST_SWITCHED,
    )


def _chapters(contents: Contents, sections: Sequence[Section], steps: Sequence[tuple[str, str, list[str]]]) -> list[Chapter]:
    """Return the page's sections: those of experiments first; the paper's, and those of pictures, even if they are empty."""
    experiments = [
        Chapter(each.name, each.title, each.intro, state=each.state, headline=each.headline, section=each)
        for each in sections
    ]
    there = {chapter.name: chapter for chapter in experiments}
    paper = [there.pop(chapter.name, chapter) for chapter in _PAPER]
    galleries = [*contents.switches, *contents.pictures("gallery"), *contents.pictures("figures")]
    photographs = contents.pictures("images")
    commands = sum(len(lines) for _, _, lines in steps)
    commits = len({str(each.manifest.get("git_commit")) for each in contents.sets})
    state = f"{counted(len(contents.sets), 'set')} of records, {counted(commits, 'commit')}" if contents.sets else ""
    return [
        *paper,
        *there.values(),
        replace(_GALLERIES, state=counted(len(galleries), "picture") if galleries else "", drawings=galleries),
        replace(_PHOTOGRAPHS, state=counted(len(photographs), "photograph") if photographs else "", drawings=photographs),
        replace(_REPRODUCE, state=counted(commands, "command")),
        replace(_MANIFEST, state=state),
    ]


def formula(text: str) -> Markup:
    """Return a sentence with its formulas' indices set low and its minus signs long.

    Example:
        >>> str(formula("p_t2 of t_1: -0.1 & more"))
        'p<sub>t2</sub> of t<sub>1</sub>: −0.1 &amp; more'
    """
    escaped = re.sub(r"\b([tpy])_(t?_?[\di]|t)\b", r"\1<sub>\2</sub>", html.escape(text))
    return Markup(re.sub(r"(?<=[ (\[])-(?=[\d. ])", "−", escaped))


def _policy(style: str, script: str) -> str:
    """Return a policy under which nothing is loaded, and nothing runs but this page's own style and script."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    return "default-src 'none'; img-src data:; style-src 'sha256-{}'; script-src 'sha256-{}'".format(*hashes)


_PAPER = (
    Chapter(
        "masking", "Table 1: masking", fills=("make table1 DATASETS=cub MODELS=vgg16", "make demo    # drawn birds: two minutes, no data needed")
    ),
    Chapter("sign_perturbation", "Fig. 3: perturbation", fills=("make fig3 MODELS=alexnet LIMIT=100",)),
)
_GALLERIES = Chapter(
    "gallery",
    "Galleries",
    "Red speaks for the class and blue against it; white is zero. The images are chosen by the rule that stands with them, never "
    "by hand.",
    ("make gallery DATASETS=cub MODELS=vgg16", "make table1    # draws the first selected images, too"),
)
_PHOTOGRAPHS = Chapter(
    "photographs",
    "Photographs",
    "Why this class, and not that one? Each class against the other, against all others, and alone.",
    ("python run.py image=photo.jpg model=squeezenet1_1",),
)
_REPRODUCE = Chapter(
    "reproduce",
    "How to reproduce",
    "Run in the repository, in this order. The commands are those that made the numbers, as recorded with them; one that was run "
    "from elsewhere is written anew from its records.",
)
_MANIFEST = Chapter(
    "manifest",
    "Manifest",
    "Records are one row an image; every number above is computed from them. + behind a commit: files were changed.",
    ("make table1", "make fig3", "python run.py"),
)
