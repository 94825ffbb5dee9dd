"""HTML, element by element: whatever is not `Markup` is escaped, so that no name from a file can become markup."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_VOID = frozenset({"br", "hr", "img", "link", "meta"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def join(*children: object) -> Markup:
    """Return children one after another: `Markup` as it is, other text escaped, None left out, iterables entered.

    Example:
        >>> join("a < b", None, [Markup("<br>"), 3])
        'a &lt; b<br>3'
    """
    parts = []
    for child in children:
        if isinstance(child, Markup):
            parts.append(child)
        elif isinstance(child, str) or (child is not None and not isinstance(child, Iterable)):
            parts.append(html.escape(str(child)))
        elif child is not None:
            parts.append(join(*child))
    return Markup("".join(parts))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """Return an element.

    Args:
        name: of the element.
        children: as for `join`.
        attributes: ``class_`` is class, ``data_key`` data-key; True is an attribute without value, None and False are none.

    Example:
        >>> tag("p", "<i>", class_="a", hidden=True)
        '<p class="a" hidden>&lt;i&gt;</p>'
    """
    shown = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{html.escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Markup(f"<{name}{shown}>" + ("" if name in _VOID else f"{join(*children)}</{name}>"))


def words(text: str) -> Markup:
    """Return a sentence with its formulas' indices set low and its minus signs long.

    Example:
        >>> words("p_t2 of t_1: -0.1")
        'p<sub>t2</sub> of t<sub>1</sub>: −0.1'
    """
    escaped = re.sub(r"\b([tpy])_(t?_?[\di]|t)\b", r"\1<sub>\2</sub>", html.escape(text))
    return Markup(re.sub(r"(?<=[ (\[])-(?=[\d. ])", "−", escaped))


def known(value: float | None) -> bool:
    """Return whether there is a number: neither None nor NaN."""
    return value is not None and not math.isnan(value)


def number(value: float | None, form: str = ".3f") -> str:
    """Return a number as it is shown; "–" where there is none."""
    shown = format(value, form) if known(value) else "–"
    return re.sub(r"^-(?=[0.]*$)", "", shown).replace("-", "−")


def command(text: str) -> Markup:
    """Return a command to type, in a box of its own."""
    return tag("pre", tag("code", text))


@dataclass(frozen=True)
class Column:
    """A column of `table`.

    Attributes:
        title: in its head.
        show: row -> what stands in the cell.
        sort: the row's key whose number the column is sorted by; "" sorts by the text, None not at all.
    """

    title: str
    show: Callable[[Mapping[str, Any]], object]
    sort: str | None = ""


def table(caption: object, columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Return a table in a box that scrolls; its columns can be sorted, its rows filtered by their dataset and method."""
    head = [
        tag("th", words(c.title), scope="col", class_="number" if c.sort else None, data_sort=c.sort is not None)
        for c in columns
    ]
    body = [
        tag("tr", [_cell(column, row, first=i == 0) for i, column in enumerate(columns)], **subject(row))
        for row in rows
    ]
    whole = tag("table", tag("caption", caption), tag("thead", tag("tr", head)), tag("tbody", body), class_="data")
    return scroll(whole, re.sub(r"<[^>]*>", "", join(caption)))


def scroll(child: Markup, name: str) -> Markup:
    """Return a box that scrolls on its own, by keyboard too.

    Args:
        child: what may be wider than the page.
        name: of the box, for who cannot see it; escaped already.
    """
    return tag("div", child, class_="scroll", role="region", aria_label=html.unescape(name), tabindex=0)


def subject(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes by which the page filters: a dataset, and one method or several."""
    methods = row.get("method") or ()
    shown = methods if isinstance(methods, str) else " ".join(map(str, methods))
    return {"data_dataset": row.get("dataset") or None, "data_method": shown or None}


def _cell(column: Column, row: Mapping[str, Any], first: bool) -> Markup:
    name = "th" if first else "td"
    attributes: dict[str, object] = {"scope": "row" if first else None, "class_": "number" if column.sort else None}
    if column.sort:
        value = row[column.sort]
        attributes["data_value"] = f"{value:.9g}" if known(value) else ""
    return tag(name, column.show(row), **attributes)
