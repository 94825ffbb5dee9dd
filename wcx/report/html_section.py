"""A section of the report: its heading, its state in the list of contents, and what stands in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wcx.report.html_elements import Markup, command, join, tag


@dataclass(frozen=True)
class Section:
    """A section.

    Attributes:
        name: in the page's addresses.
        title: its heading.
        state: in a few words, for the list of contents; "" where nothing is there yet.
        body: what stands in it.
        fills: the commands that fill it, said where nothing is there yet.
        intro: a sentence below the heading, filled or not.
    """

    name: str
    title: str
    state: str
    body: Markup
    fills: tuple[str, ...] = ()
    intro: str = ""

    @property
    def html(self) -> Markup:
        """The section as HTML."""
        heading = tag("h2", self.title, id=f"{self.name}-title")
        body = self.body
        if not self.state:
            said = (
                "Nothing here yet; this fills it:"
                if len(self.fills) == 1
                else "Nothing here yet; any of these fills it:"
            )
            body = join(body, tag("div", tag("p", said), map(command, self.fills), class_="empty"))
        intro = tag("p", self.intro, class_="intro") if self.intro else None
        return tag("section", heading, intro, body, id=self.name, aria_labelledby=f"{self.name}-title")

    @property
    def entry(self) -> Markup:
        """Its line in the list of contents."""
        state = tag("span", self.state or "empty", class_="state" if self.state else "state none")
        return tag("li", tag("a", tag("b", self.title), " ", state, href=f"#{self.name}"))


def details(summary: object, *children: object, open_: bool = False) -> Markup:
    """Return something that opens on request, without a script."""
    return tag("details", tag("summary", summary), *children, open=open_)


def framed(picture: Markup, caption: object = None, about: Mapping[str, Any] | None = None) -> Markup:
    """Return a figure on white paper, in a box that scrolls where it is wider than the page."""
    plate = tag("div", picture, class_="plate", tabindex=0, role="region", aria_label="figure")
    return tag("figure", plate, tag("figcaption", caption) if caption else None, **(about or {}))


def count(n: int, one: str, several: str = "") -> str:
    """Return a number of things.

    Example:
        >>> count(1, "image"), count(2, "image"), count(3, "gallery", "galleries")
        ('1 image', '2 images', '3 galleries')
    """
    return f"{n} {one if n == 1 else several or one + 's'}"
