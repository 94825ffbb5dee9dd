"""A figure of many square tiles, laid out in inches from the top down.

Every text is measured and broken into lines before the height of its row is fixed, so that no name is cut and none meets
another, however long.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path

from wcx.report.pictures import fonts
from wcx.report.pictures.draw import paint_bar

log = logging.getLogger("wcx")

FINE = 6.5  # points, of numbers and captions
_LEADING = 1.32  # line height in font sizes
_BAR, _BAR_TEXT = 0.07, 0.17  # heights of a colour bar and of its numbers, inches
_SAFE = 0.93  # of a width is filled: a screen's hinted letters are a little wider than measured
_PAD = 0.05  # between a picture and its text, inches


@dataclass(frozen=True)
class Label:
    """A text, broken into lines where it has to be.

    Attributes:
        text: as it is: nothing in it is taken for mathematics.
        colour: of the letters.
        bold: whether it is.
        size: in points; None is the sheet's.
    """

    text: str
    colour: str = "black"
    bold: bool = False
    size: float | None = None


def bold(text: str) -> Label:
    """Return a bold label."""
    return Label(text, bold=True)


def fine(text: str) -> Label:
    """Return a label in small grey letters."""
    return Label(text, "0.25", size=FINE)


@dataclass(frozen=True)
class Tile:
    """One square of a row.

    Attributes:
        draw: draws into its axes; None: there is no picture, but the labels `inside`.
        above: labels above the picture; those of a row end at one height.
        scale: value of its deepest colours: a colour bar stands below the picture; None: there is none.
        below: labels below it.
        inside: labels in the picture's place, from its top.
        columns: that the labels inside may fill.
    """

    draw: Callable[[Axes], object] | None = None
    above: Sequence[Label] = ()
    scale: float | None = None
    below: Sequence[Label] = ()
    inside: Sequence[Label] = ()
    columns: int = 1

    @property
    def foot(self) -> float:
        """Height of the colour bar below the picture."""
        return 0.0 if self.scale is None else _PAD + _BAR + _BAR_TEXT


@lru_cache(4096)
def wrap(text: str, inches: float, size: float, is_bold: bool = False) -> tuple[str, ...]:
    """Return the text broken into lines not wider than `inches`, at spaces, and inside a word that is itself too long."""
    font = FontProperties(family=fonts.families(text), size=size, weight="bold" if is_bold else "normal")

    def fits(line: str) -> bool:
        return text_to_path.get_text_width_height_descent(line, font, ismath=False)[0] <= inches * 72 * _SAFE

    lines = [""]
    for word in text.split():
        letters = fonts.clusters(word)
        longer = f"{lines[-1]} {''.join(letters)}".strip()
        if fits(longer):
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for letter in letters:
            if lines[-1] and not fits(lines[-1] + letter):
                lines.append("")
            lines[-1] += letter
    return tuple(lines)


class Sheet:
    """Rows of text and tiles, collected first and drawn by `figure`.

    Args:
        widths: of the columns in inches; a tile's picture is a square of its column's width.
        gaps: right of each column but the last, inches.
        size: of the letters, points.
        margin: around everything, inches.
    """

    def __init__(self, widths: Sequence[float], gaps: Sequence[float], size: float = 7.5, margin: float = 0.12) -> None:
        self.size, self._margin, self._widths = size, margin, list(widths)
        self._lefts = [margin + sum(widths[:i]) + sum(gaps[:i]) for i in range(len(widths))]
        self.width = self._lefts[-1] + widths[-1] + margin
        self._height = margin
        self._acts: list[Callable[[Figure, float], None]] = []  # (figure, its height)
        self._missing: set[str] = set()  # scripts without a font

    def gap(self, height: float = 0.1) -> None:
        """Leave some room."""
        self._height += height

    def text(self, labels: Sequence[Label]) -> None:
        """Add lines over the full width."""
        self._height += self._put(labels, self._margin, self.width - 2 * self._margin, self._height, "left")

    def rule(self) -> None:
        """Add a thin line over the full width, with some room."""
        top, x = self._height + 0.06, self._margin / self.width

        def act(figure: Figure, height: float) -> None:
            figure.add_artist(Line2D([x, 1 - x], [1 - top / height] * 2, linewidth=0.4, color="0.6"))

        self._acts.append(act)
        self._height = top + 0.08

    def spans(self, spans: Sequence[tuple[int, int, Label]]) -> None:
        """Add headings, each (first column, last column, label) centred over its columns; they end at one height."""
        boxes = [(self._lefts[first], self._right(last) - self._lefts[first], [head]) for first, last, head in spans]
        highest = max(self._tall(labels, width) for _, width, labels in boxes)
        for start, width, labels in boxes:
            self._put(labels, start, width, self._height + highest - self._tall(labels, width), "center")
        self._height += highest + _PAD

    def tiles(self, tiles: Sequence[Tile | None]) -> None:
        """Add a row: a tile, or nothing, for each column from the first on."""
        placed = [
            (tile, self._lefts[i], self._right(i + tile.columns - 1) - self._lefts[i])
            for i, tile in enumerate(tiles)
            if tile
        ]
        above = max(self._tall(tile.above, width) + _PAD * bool(tile.above) for tile, _, width in placed)
        middle = max(width if tile.draw else self._tall(tile.inside, width) for tile, _, width in placed)
        below = max(tile.foot + self._tall(tile.below, width) + _PAD * bool(tile.below) for tile, _, width in placed)
        top = self._height + above
        for tile, start, width in placed:
            self._put(tile.above, start, width, top - _PAD - self._tall(tile.above, width), "center")
            self._put(tile.inside, start, width, top, "left")
            if tile.draw is not None:
                self._axes(start, top, width, width, tile.draw)
                self._put(tile.below, start, width, top + width + tile.foot + _PAD, "center")
            if tile.scale is not None:
                self._bar(start, start + width, top + width + _PAD, tile.scale)
        self._height = top + middle + below

    def bars(self, bars: Sequence[tuple[int, int, float]]) -> None:
        """Add colour bars, each (first column, last column, scale), under the middle of its columns."""
        self._height += _PAD
        for first, last, scale in bars:
            self._bar(self._lefts[first], self._right(last), self._height, scale)
        self._height += _BAR + _BAR_TEXT

    def figure(self) -> Figure:
        """Return the figure, its height what the rows need; scripts without a font are told below, and in the log."""
        if self._missing:
            remedy = fonts.remedy(self._missing)
            log.warning(remedy)
            self.text([fine(remedy)])
        height = self._height + self._margin
        figure = Figure(figsize=(self.width, height), facecolor="white")
        for act in self._acts:
            act(figure, height)
        return figure

    def _bar(self, start: float, right: float, top: float, scale: float) -> None:
        """Draw a colour bar in the middle between two places."""
        width = min(right - start, max(1.4, 0.4 * (right - start)))
        self._axes((start + right - width) / 2, top, width, _BAR, lambda ax: paint_bar(ax, scale))

    def _right(self, column: int) -> float:
        return self._lefts[column] + self._widths[column]

    def _axes(self, start: float, top: float, width: float, tall: float, draw: Callable[[Axes], object]) -> None:
        def act(figure: Figure, height: float) -> None:
            box = (start / self.width, 1 - (top + tall) / height, width / self.width, tall / height)
            draw(figure.add_axes(box))

        self._acts.append(act)

    def _lines(self, label: Label, width: float) -> tuple[str, ...]:
        return wrap(label.text, width, label.size or self.size, label.bold)

    def _tall(self, labels: Sequence[Label], width: float) -> float:
        """Return the height of labels in a column of that width, inches."""
        return sum(len(self._lines(label, width)) * (label.size or self.size) * _LEADING / 72 for label in labels)

    def _put(self, labels: Sequence[Label], start: float, width: float, top: float, align: str) -> float:
        """Write labels from `top` downwards; return their height."""
        x, y = {"left": start, "center": start + width / 2}[align] / self.width, top
        for label in labels:
            self._missing |= fonts.missing(label.text)
            size = label.size or self.size
            style = {
                "fontsize": size,
                "color": label.colour,
                "fontweight": "bold" if label.bold else "normal",
                "ha": align,
            }
            for line in self._lines(label, width):
                self._write(line, x, y, {**style, "family": fonts.families(label.text)})
                y += size * _LEADING / 72
        return y - top

    def _write(self, text: str, x: float, y: float, style: dict[str, object]) -> None:
        def act(figure: Figure, height: float) -> None:
            figure.text(x, 1 - y / height, text, va="top", parse_math=False, **style)

        self._acts.append(act)
