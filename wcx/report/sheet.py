"""A figure of many square panels, laid out in inches from the top down.

Every text is measured and broken into lines before the height of its row is fixed, so that no name is cut and none meets
another, however long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path

from wcx.report import render

_LEADING = 1.32  # line height in font sizes
_BAR, _BAR_TEXT = 0.07, 0.17  # heights of a colour bar and of its numbers, inches
_SAFE = 0.93  # of a width is filled: a screen's hinted letters are a little wider than measured
_PAD = 0.05  # between a picture and its text, inches


@dataclass(frozen=True)
class Line:
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


@dataclass(frozen=True)
class Panel:
    """One square of a row.

    Attributes:
        draw: draws into its axes; None: there is no picture, but the lines `inside`.
        above: lines above the picture; those of a row end at one height.
        scale: value of its deepest colours: a colour bar stands below the picture; None: there is none.
        below: lines below it.
        inside: lines in the picture's place, from its top.
        columns: that the lines inside may fill.
    """

    draw: Callable[[Axes], object] | None = None
    above: Sequence[Line] = ()
    scale: float | None = None
    below: Sequence[Line] = ()
    inside: Sequence[Line] = ()
    columns: int = 1


@lru_cache(4096)
def wrap(text: str, inches: float, size: float, bold: bool = False) -> tuple[str, ...]:
    """Return the text broken into lines not wider than `inches`, at spaces, and inside a word that is itself too long.

    Letters that the font lacks are written as Python does: an empty box would tell nothing.
    """
    font = FontProperties(size=size, weight="bold" if bold else "normal")
    drawable = get_font(findfont(font)).get_char_index

    def fits(line: str) -> bool:
        return text_to_path.get_text_width_height_descent(line, font, ismath=False)[0] <= inches * 72 * _SAFE

    lines = [""]
    for word in text.split():
        rest = "".join(c if drawable(ord(c)) else c.encode("unicode_escape").decode() for c in word)
        if fits(f"{lines[-1]} {rest}".strip()):
            lines[-1] = f"{lines[-1]} {rest}".strip()
            continue
        if lines[-1]:
            lines.append("")
        while not fits(rest) and len(rest) > 1:
            most = max(1, next(k for k in range(1, len(rest) + 1) if not fits(rest[:k])) - 1)
            lines[-1:] = [rest[:most], ""]
            rest = rest[most:]
        lines[-1] = rest
    return tuple(lines)


class Sheet:
    """Rows of text and panels, collected first and drawn by `figure`.

    Args:
        widths: of the columns in inches; a panel's picture is a square of its column's width.
        gaps: right of each column but the last, inches; one number for all.
        size: of the letters, points.
        margin: around everything, inches.
    """

    def __init__(
        self, widths: Sequence[float], gaps: Sequence[float] | float = 0.1, size: float = 7.5, margin: float = 0.12
    ) -> None:
        gaps = [gaps] * (len(widths) - 1) if isinstance(gaps, (int, float)) else list(gaps)
        self.size, self._margin, self._widths = size, margin, list(widths)
        self._lefts = [margin + sum(widths[:i]) + sum(gaps[:i]) for i in range(len(widths))]
        self.width = self._lefts[-1] + widths[-1] + margin
        self._height = margin
        self._acts: list[Callable[[Figure, float], None]] = []  # (figure, its height)

    def gap(self, height: float = 0.1) -> None:
        """Leave some room."""
        self._height += height

    def text(self, lines: Sequence[Line], align: str = "left") -> None:
        """Add lines over the full width."""
        inner = self.width - 2 * self._margin
        self._height += self._put(lines, self._margin, inner, self._height, align)

    def rule(self) -> None:
        """Add a thin line over the full width."""
        top = self._height
        x = self._margin / self.width

        def act(figure: Figure, height: float) -> None:
            figure.add_artist(Line2D([x, 1 - x], [1 - top / height] * 2, linewidth=0.4, color="0.6"))

        self._acts.append(act)

    def spans(self, spans: Sequence[tuple[int, int, Line]]) -> None:
        """Add headings, each (first column, last column, line) centred over its columns; they end at one height."""
        boxes = [(self._lefts[a], self._right(b) - self._lefts[a], [line]) for a, b, line in spans]
        most = max(self._tall(lines, width) for _, width, lines in boxes)
        for left, width, lines in boxes:
            self._put(lines, left, width, self._height + most - self._tall(lines, width), "center")
        self._height += most + _PAD

    def panels(self, panels: Sequence[Panel | None]) -> None:
        """Add a row: a panel, or nothing, for each column from the first on."""
        placed = [
            (p, self._lefts[i], self._right(i + p.columns - 1) - self._lefts[i]) for i, p in enumerate(panels) if p
        ]
        above = max(self._tall(p.above, w) + _PAD * bool(p.above) for p, _, w in placed)
        middle = max(w if p.draw else self._tall(p.inside, w) for p, _, w in placed)
        below = max(_foot(p) + self._tall(p.below, w) + _PAD * bool(p.below) for p, _, w in placed)
        top = self._height + above
        for panel, left, width in placed:
            self._put(panel.above, left, width, top - _PAD - self._tall(panel.above, width), "center")
            if panel.draw is not None:
                self._axes(left, top, width, width, panel.draw)
                if panel.scale is not None:
                    self._bar(left, left + width, top + width + _PAD, panel.scale)
                self._put(panel.below, left, width, top + width + _foot(panel) + _PAD, "center")
            else:
                self._put(panel.inside, left, width, top, "left")
        self._height = top + middle + below

    def bars(self, bars: Sequence[tuple[int, int, float]]) -> None:
        """Add colour bars, each (first column, last column, scale), under the middle of its columns."""
        self._height += _PAD
        for first, last, scale in bars:
            self._bar(self._lefts[first], self._right(last), self._height, scale)
        self._height += _BAR + _BAR_TEXT

    def figure(self) -> Figure:
        """Return the figure, its height what the rows need."""
        height = self._height + self._margin
        figure = Figure(figsize=(self.width, height), facecolor="white")
        for act in self._acts:
            act(figure, height)
        return figure

    def _bar(self, left: float, right: float, top: float, scale: float) -> None:
        """Draw a colour bar in the middle between two places."""
        width = min(right - left, max(1.4, 0.4 * (right - left)))
        self._axes((left + right - width) / 2, top, width, _BAR, lambda ax: render.flat_bar(ax, scale))

    def _right(self, column: int) -> float:
        return self._lefts[column] + self._widths[column]

    def _axes(self, left: float, top: float, width: float, tall: float, draw: Callable[[Axes], object]) -> None:
        def act(figure: Figure, height: float) -> None:
            box = (left / self.width, 1 - (top + tall) / height, width / self.width, tall / height)
            draw(figure.add_axes(box))

        self._acts.append(act)

    def _tall(self, lines: Sequence[Line], width: float) -> float:
        """Return the height of lines in a column of that width, inches."""
        return sum(
            len(wrap(line.text, width, line.size or self.size, line.bold)) * self._line(line.size) for line in lines
        )

    def _line(self, size: float | None) -> float:
        return (size or self.size) * _LEADING / 72

    def _put(self, lines: Sequence[Line], left: float, width: float, top: float, align: str) -> float:
        """Write lines from `top` downwards; return their height."""
        x = {"left": left, "center": left + width / 2}[align] / self.width
        y = top
        for line in lines:
            size = line.size or self.size
            style = {"fontsize": size, "color": line.colour, "fontweight": "bold" if line.bold else "normal"}
            for one in wrap(line.text, width, size, line.bold):
                self._write(one, x, y, {**style, "ha": align})
                y += self._line(size)
        return y - top

    def _write(self, text: str, x: float, y: float, style: dict[str, object]) -> None:
        def act(figure: Figure, height: float) -> None:
            figure.text(x, 1 - y / height, text, va="top", parse_math=False, **style)

        self._acts.append(act)


def _foot(panel: Panel) -> float:
    """Return the height of the colour bar below a picture."""
    return 0.0 if panel.scale is None else _PAD + _BAR + _BAR_TEXT
