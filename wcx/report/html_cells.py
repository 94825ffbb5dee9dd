"""Long tables of the report, a row a cell: weighted against original with a small drawing, localisation, strata, seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from wcx.report.html_elements import Column, Markup, join, known, number, table, tag, words
from wcx.report.html_section import details

_WIDTH, _HEIGHT, _EDGE = 150, 26, 6  # of a drawing, pixels
_SIGN = {"positive": "+", "negative": "−"}
_PAIR = ["dataset", "model", "method", "target", "baseline", "features_kept", "mask", "threshold", "foils", "weights"]

Row = Mapping[str, Any]


def interval(
    row: Row, low: str = "ci_low", high: str = "ci_high", form: str = ".3f", below: bool = False
) -> Markup | None:
    """Return an interval in small figures; None where there is none.

    Args:
        row: of a table.
        low: its key of the lower end.
        high: of the upper end.
        form: of the numbers.
        below: in the shortest form, to stand below the number.
    """
    if not known(row.get(low)):
        return None
    ends = number(row[low], form), number(row[high], form)
    shown = "–".join(end.removeprefix("0") for end in ends) if below else f"[{ends[0]}, {ends[1]}]"
    return tag("small", shown, class_="interval")


def text(name: str, title: str = "") -> Column:
    """Return a column of words."""
    return Column(title or name, lambda row: words(str(row[name])))


def value(name: str, title: str, form: str = ".3f") -> Column:
    """Return a column of numbers."""
    return Column(title, lambda row: number(row[name], form), name)


def estimate(name: str, title: str, low: str = "ci_low", high: str = "ci_high", form: str = ".3f") -> Column:
    """Return a column of numbers with their intervals."""
    return Column(
        title, lambda row: join(number(row[name], form), " ", interval(row, low, high, form.removeprefix("+"))), name
    )


def pairs(frame: pd.DataFrame, main: pd.DataFrame) -> Markup | None:
    """Return weighted against original, cell by cell.

    Args:
        frame: table1_paired.csv.
        main: Table 1 beside the paper (see `html_table1.beside_the_paper`).
    """
    if frame.empty:
        return None
    own = [*_PAIR, "ci_low", "ci_high", "published"]
    for contrast in ("original", "weighted"):
        some = main.loc[main["contrast"] == contrast, own].drop_duplicates(_PAIR)
        names = {name: f"{name}_{contrast}" for name in own[len(_PAIR) :]}
        frame = frame.merge(some.rename(columns=names), how="left", on=_PAIR)
    frame["published"] = frame["published_weighted"] - frame["published_original"]
    columns = [
        *_names(frame),
        text("baseline"),
        Column("kept", lambda row: _SIGN[row["features_kept"]]),
        value("n", "n", "d"),
        Column("0 — relative probability — 1", drawing, None),
        value("original", "original"),
        value("weighted", "weighted"),
        estimate("difference", "weighted − original", form="+.3f"),
        *([value("published", "the paper's", "+.3f")] if frame["published"].notna().any() else []),
        Column("p", lambda row: _p(row["p_holm"]), "p_holm"),
        Column(
            "hidden, %", lambda row: f"{100 * row['masked_original']:.0f} → {100 * row['masked_weighted']:.0f}", None
        ),
    ]
    families = " and ".join(str(m) for m in dict.fromkeys(frame["m"]))
    said = (
        f"Paired over images, with 95 % intervals; p of a sign-flip test, corrected by Holm for m = {families} cells. Hidden: "
        "share of the pixels, original → weighted. + / −: positive / negative features are kept."
    )
    whole = table(f"Weighted against original{_of(frame)}", columns, frame.to_dict("records"))
    summary = f"Weighted against original, cell by cell ({len(frame)} rows)"
    return details(summary, tag("p", words(said), " ", _key(), class_="note"), whole, open_=len(frame) <= 48)


def others(tables: Mapping[str, pd.DataFrame]) -> list[Markup]:
    """Return the further tables of Table 1 that are there."""
    made = []
    if not (frame := tables["table1_localisation"]).empty:
        columns = [
            *_names(frame),
            value("n", "n", "d"),
            value("box_fraction", "box"),
            value("original", "original"),
            value("weighted", "weighted"),
            estimate("difference", "weighted − original", form="+.3f"),
            Column("p", lambda row: _p(row["p_holm"]), "p_holm"),
        ]
        said = (
            "Share of the positive attribution inside the object's box, over the n images where both maps have any; box: the "
            f"box's share of the image, what chance would give. p corrected by Holm for m = {frame['m'].iloc[0]}."
        )
        made.append(_other("Localisation", said, columns, frame))
    if not (frame := tables["table1_strata"]).empty:
        columns = [
            *_cell(frame),
            text("stratum"),
            value("n", "n", "d"),
            value("relative_probability_unmasked", "unmasked"),
            estimate("relative_probability", "masked"),
            value("reproduction", "the reproduction's"),
        ]
        made.append(_other("Above and below the threshold", "Strata of p_t2.", columns, frame))
    if not (frame := tables["table1_seeds"]).empty:
        columns = [
            *_cell(frame),
            text("seeds"),
            value("n", "n", "d"),
            estimate("relative_probability", "mean over seeds"),
            value("sd", "sd"),
            value("lowest", "lowest"),
            value("highest", "highest"),
        ]
        said = "Each network's mean, over networks trained with several seeds; the interval (Student's t) covers another training."
        made.append(_other("Across fine-tuning seeds", said, columns, frame))
    return made


def drawing(row: Row) -> Markup:
    """Return both contrasts' numbers with intervals on a line from 0 to 1, and the paper's; the numbers stand beside it."""
    parts = [tag("line", x1=_x(at), x2=_x(at), y1=3, y2=_HEIGHT - 3, class_="axis") for at in (0, 0.5, 1)]
    for contrast, y in (("original", 9), ("weighted", 18)):
        low, high, paper = (row.get(f"{name}_{contrast}") for name in ("ci_low", "ci_high", "published"))
        if known(low):
            parts.append(tag("line", x1=_x(low), x2=_x(high), y1=y, y2=y, class_=contrast))
        if known(paper):
            parts.append(_diamond(_x(paper), y))
        parts.append(tag("circle", cx=_x(row[contrast]), cy=y, r=3.2, class_=contrast))
    return tag("svg", parts, width=_WIDTH, height=_HEIGHT, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", aria_hidden="true")


def _x(at: float) -> str:
    return f"{_EDGE + (_WIDTH - 2 * _EDGE) * at:.1f}"


def _diamond(x: str, y: float) -> Markup:
    return tag("path", d=f"M{x} {y - 4}l4 4l-4 4l-4 -4z", class_="paper")


def _key() -> Markup:
    """Return what the marks of `drawing` mean."""
    marks = [
        (tag("circle", cx=7, cy=7, r=3.2, class_="original"), "original"),
        (tag("circle", cx=7, cy=7, r=3.2, class_="weighted"), "weighted"),
        (_diamond("7", 7), "the paper's"),
    ]
    return tag(
        "span",
        [tag("span", tag("svg", m, width=14, height=14, aria_hidden="true"), f" {name} ") for m, name in marks],
        class_="key",
    )


def _other(title: str, said: str, columns: list[Column], frame: pd.DataFrame) -> Markup:
    whole = table(f"{title}{_of(frame)}", columns, frame.to_dict("records"))
    return details(f"{title} ({len(frame)} rows)", tag("p", words(said), class_="note"), whole)


def _names(frame: pd.DataFrame) -> list[Column]:
    """Return the columns that say what a row is of: method and target, and of the rest those that differ."""
    rest = ("weights", "threshold", "mask", "foils")
    several = [name for name in ("dataset", "model", *rest) if name in frame and frame[name].nunique() > 1]
    first = [name for name in several if name not in rest]
    return [text(name) for name in (*first, "method", "target", *(name for name in several if name in rest))]


def _cell(frame: pd.DataFrame) -> list[Column]:
    """Return the columns that say which cell of the table a row is of."""
    kept = Column("kept", lambda row: _SIGN[row["features_kept"]])
    return [*_names(frame), text("baseline"), kept, text("contrast")]


def _of(frame: pd.DataFrame) -> str:
    """Return what all rows share of dataset and model, for a caption."""
    return "".join(f", {frame[name].iloc[0]}" for name in ("dataset", "model") if frame[name].nunique() == 1)


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else number(p)
