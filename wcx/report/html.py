"""All results there are, in one HTML file: no network, and no script needed to read it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from wcx import records
from wcx.report import html_fig3, html_figures, html_plain, html_provenance, html_table1
from wcx.report.html_elements import Markup, join, tag, words
from wcx.report.html_images import Pictures
from wcx.report.html_results import Results, gather
from wcx.report.html_section import Section

NAME = "report.html"
_ASSETS = Path(__file__).parent
_TITLE = "Why this class, and not that one?"
_LEAD = (
    "Class-contrastive back-propagation explanations, as Wang and Wang describe them (NeurIPS 2022): an explanation of the "
    "logit y_t tells what speaks for a class; its contrastive counterpart, weighted by the other classes' probabilities, tells "
    "what speaks for it against those others."
)


def write(results_dir: Path) -> list[str]:
    """Write `report.html` into a results folder, from whatever lies there.

    Args:
        results_dir: need not exist: the page then says which commands fill it.

    Returns:
        lines for the screen: the file and its size, what was left out or shown smaller.
    """
    results = gather(results_dir)
    pictures = Pictures(results.folder)
    page = document(results, pictures)
    results.folder.mkdir(parents=True, exist_ok=True)
    path = results.folder / NAME
    records.write(path, page)
    return [*results.problems, *pictures.notes, f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)"]


def document(results: Results, pictures: Pictures) -> str:
    """Return the page."""
    sections = [
        html_table1.section(results, pictures),
        html_fig3.section(results, pictures),
        *html_plain.sections(results),
        html_figures.gallery(results, pictures),
        html_figures.photographs(results, pictures),
        html_provenance.reproduce(results),
        html_provenance.made_with(results),
    ]
    style, script = (Markup((_ASSETS / f"html.{kind}").read_text(encoding="utf-8")) for kind in ("css", "js"))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(style, script)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"wcx: results in {results.folder.name}"),
        tag("style", style),
    )
    body = tag(
        "body",
        tag("a", "Skip to the results", href="#table1", class_="skip"),
        _header(sections),
        tag("div", id="filters", class_="filters", hidden=True),
        tag("main", _problems(results.problems), [section.html for section in sections]),
        tag("footer", words("Written by make report, from the records in the results folder and from nothing else.")),
        tag("script", script),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _policy(style: str, script: str) -> str:
    """Return a policy under which nothing is loaded, and nothing runs but this page's own style and script."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    return "default-src 'none'; img-src data:; style-src 'sha256-{}'; script-src 'sha256-{}'".format(*hashes)


def _header(sections: Sequence[Section]) -> Markup:
    contents = tag("nav", tag("ol", [section.entry for section in sections]), aria_label="Contents")
    return tag("header", tag("p", "wcx · results", class_="brand"), tag("h1", _TITLE), tag("p", words(_LEAD)), contents)


def _problems(problems: Sequence[str]) -> Markup | None:
    if not problems:
        return None
    said = tag("ul", [tag("li", problem) for problem in problems])
    return tag("aside", tag("b", "Left out of this page"), said, class_="problems", aria_label="Left out")


__all__ = ["NAME", "document", "gather", "join", "write"]
