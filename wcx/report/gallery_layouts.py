"""How each figure of the gallery is laid out: a sheet with one image's panels below another's, and its caption."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wcx.experiments.base import Cell
from wcx.experiments.pictures import Hidden, Shown, cosine
from wcx.experiments.selection import subscript
from wcx.report import render
from wcx.report.gallery_page import BLOCK, QUANTILE, Page
from wcx.report.sheet import Line, Panel, Sheet

SIDE = 1.5  # of a panel, inches
SMALL = 1.2  # of a panel where there are many
FINE = 6.5  # points, of numbers and captions
TITLES = {
    "fig1": "Two classes: their maps, and what hiding the negative features does to their probabilities",
    "fig4": "The two most probable classes, each explained alone and against the others",
    "fig5": "The three most probable classes under several contrasts",
    "methods": "Methods and contrasts",
}
_IS_LARGE = 1e-6  # change of a probability that gets an arrow


def pairs(page: Page) -> Figure:
    """Draw for each image and method the maps of every class under each contrast (Fig. 4).

    Below them, where the figure has them, the images without their negative features (Fig. 1).
    """
    count = len(page.shown[0].targets)
    groups = [(1 + i * count, (i + 1) * count) for i in range(len(page.contrasts))]
    gaps = [0.2] + ([0.08] * (count - 1) + [0.24]) * len(groups)
    sheet = _begin(page, Sheet([SIDE] * (1 + count * len(groups)), gaps[:-1]))
    for shown in page.shown:
        _separate(sheet)
        for method in page.methods:
            cells = [cell for cell in page.cells if cell.method == method]
            titles = [_bold(f"{title(method)}, {cell.contrast}") for cell in cells]
            sheet.spans([(a, b, line) for (a, b), line in zip(groups, titles, strict=True)])
            is_first = method == page.methods[0]
            left = _photograph(page, shown) if is_first else None
            sheet.panels([left, *(_map(page, shown, cell, i, is_first) for cell in cells for i in range(count))])
            sheet.bars([(a, b, page.scale_of(shown, cell)) for (a, b), cell in zip(groups, cells, strict=True)])
            if shown.hidden:
                note = Panel(
                    inside=[Line(f"Negative features {page.baseline}."), Line("Probabilities:"), Line("before → after")]
                )
                after = [_hidden(shown, shown.hidden[cell], i) for cell in cells for i in range(count)]
                sheet.panels([note, *after])
    return _end(sheet, page)


def classes(page: Page) -> Figure:
    """Draw for each image a row a class and a column a contrast, with cosines (Fig. 5); max of t_1 and t_2 is framed."""
    columns = len(page.cells)
    sheet = _begin(page, Sheet([SIDE] * (1 + columns), [0.2] + [0.14] * (columns - 1)))
    for shown in page.shown:
        _separate(sheet)
        several = len(page.methods) > 1
        heads = [f"{title(cell.method)}, {cell.contrast}" if several else cell.contrast for cell in page.cells]
        sheet.spans([(i, i, _bold(head)) for i, head in enumerate([_truth(page, shown), *heads])])
        for i, name in enumerate(page.names(shown)[: len(shown.targets)]):
            sheet.spans([(1, columns, Line(f"t{subscript(i + 1)}: {name}, p = {shown.probabilities[i]:.3f}"))])
            left = _photograph(page, shown, titled=False) if i == 0 else None
            sheet.panels([left, *(_compared(page, shown, cell, i) for cell in page.cells)])
            sheet.gap(0.13)
        sheet.bars([(i, i, page.scale_of(shown, cell)) for i, cell in enumerate(page.cells, 1)])
    return _end(sheet, page)


def methods(page: Page) -> Figure:
    """Draw one image's most probable class under every method (rows) and contrast (columns)."""
    shown, columns = page.shown[0], len(page.contrasts)
    sheet = _begin(page, Sheet([SMALL] * (1 + columns), [0.1] + [0.06] * (columns - 1)))
    _separate(sheet)
    about = [_bold(_truth(page, shown) or shown.item.id), Line(_predicted(page, shown))]
    sheet.panels([_photograph(page, shown, titled=False), Panel(inside=about, columns=columns)])
    sheet.gap()
    is_divided = page.scale == "method" and not page.foils
    heads = [f"{c} ÷ p(1−p)" if c == "probability" and is_divided else c for c in page.contrasts]
    sheet.spans([(i, i, _bold(head)) for i, head in enumerate(heads, 1)])
    for method in page.methods:
        cells = [Cell(method, name) for name in page.contrasts]
        scales = [page.scale_of(shown, cell) for cell in cells]
        label = [_bold(title(method))] + ([_fine(f"colours to ±{scales[0]:.2g}")] if page.scale == "method" else [])
        below = [[] if page.scale == "method" else [_fine(f"±{scale:.2g}")] for scale in scales]
        row = [_map(page, shown, cell, 0, named=False, below=b) for cell, b in zip(cells, below, strict=True)]
        sheet.panels([Panel(inside=label), *row])
        sheet.gap(0.06)
    return _end(sheet, page)


LAYOUTS = {"fig1": pairs, "fig4": pairs, "fig5": classes, "methods": methods}


def draw(page: Page) -> Figure:
    """Return the figure of a page."""
    return LAYOUTS[page.figure](page)


def heading(page: Page) -> list[str]:
    """Return what stands above a figure: its title, and what it was made from."""
    about = [page.label or page.dataset, page.model, page.weights, page.subset]
    return [TITLES[page.figure], " · ".join(part for part in about if part)]


def caption(page: Page) -> list[str]:
    """Return the sentences under a figure."""
    shared = "all contrasts of one method" if page.scale == "method" else "all classes of one method and contrast"
    scale = f"In an image, {shared} share one colour scale, centred at zero."
    if page.figure == "methods" and page.scale == "contrast":
        scale = "Each map has a colour scale of its own, centred at zero; its end stands below."
    lines = [f"Images: {page.rule}."] if page.rule else []
    against = f" against {page.foils}" if page.foils else ""
    lines.append(
        f"Red speaks for the class{against}, blue against it, white is zero; a line marks where the sign changes"
        + (", and negative features are hatched" if page.style == "print" else "")
        + f". {scale}"
    )
    if any(shown.hidden for shown in page.shown):
        lines.append(
            f"Lower rows: the pixels that speak against the class above are {page.baseline}, and the probabilities are "
            "those of the whole softmax. Red and bold: the class itself, expected to rise; blue: the other, expected to fall."
        )
    if page.figure == "fig5":
        lines.append(
            "cos(original): cosine with the original map of the same class; cos(t₁): with the map of t₁ under the same "
            "contrast. " + ("" if page.foils else "Framed: max of t₁ and t₂, each the other's negative.")
        )
    pixelwise = [title(method) for method in page.methods if page.in_pixels(method)]
    if pixelwise:
        lines.append(
            f"Input-space maps ({', '.join(pixelwise)}): sums over the channels and {BLOCK} × {BLOCK} pixels, colours to "
            f"the {100 * QUANTILE:g} % quantile."
        )
    return lines


def title(name: str) -> str:
    """Return a method's name as it is printed."""
    return {"gradcam": "GradCAM", "xgradcam": "XGradCAM", "lrp": "LRP", "deeplift": "DeepLIFT"}.get(
        name, name.replace("_", " ")
    )


def _begin(page: Page, sheet: Sheet) -> Sheet:
    first, second = heading(page)
    sheet.text([Line(first, bold=True, size=9.5), Line(second, colour="0.3", size=7)])
    sheet.gap(0.06)
    return sheet


def _end(sheet: Sheet, page: Page) -> Figure:
    _separate(sheet)
    sheet.text([_fine(line) for line in caption(page)])
    return sheet.figure()


def _separate(sheet: Sheet) -> None:
    sheet.gap(0.06)
    sheet.rule()
    sheet.gap(0.08)


def _photograph(page: Page, shown: Shown, titled: bool = True) -> Panel:
    above = [_bold(_truth(page, shown))] if titled else []
    return Panel(lambda ax: render.photograph(ax, shown.item.pixels), above=above)


def _truth(page: Page, shown: Shown) -> str:
    return f"is: {name}" if (name := page.truth(shown)) else ""


def _map(page: Page, shown: Shown, cell: Cell, i: int, named: bool = True, below: Sequence[Line] = ()) -> Panel:
    """Return the panel of the map of t_(i + 1)."""
    name, p = page.names(shown)[i], shown.probabilities[i]
    above = [Line(name), _fine(f"t{subscript(i + 1)}, p = {p:.3f}")] if named else []
    return Panel(lambda ax: _draw(ax, page, shown, cell, i), above=above, below=below)


def _draw(ax: Axes, page: Page, shown: Shown, cell: Cell, i: int) -> None:
    attribution, scale = page.drawn(shown, cell)[i], page.scale_of(shown, cell)
    if page.in_pixels(cell.method):
        render.bare(ax, attribution, scale)
    else:
        render.overlay(ax, shown.item.pixels, attribution, scale, style=page.style)


def _compared(page: Page, shown: Shown, cell: Cell, i: int) -> Panel:
    """Return a map's panel with its cosines: with the original of the same class, and with t_1's."""
    maps, original = shown.maps[cell], shown.maps.get(Cell(cell.method, "original"))
    numbers = []
    if original is not None and cell.contrast != "original":
        numbers.append(f"cos(original) {_signed(cosine(maps[i], original[i]))}")
    if i > 0:
        numbers.append(f"cos(t₁) {_signed(cosine(maps[i], maps[0]))}")

    def panel(ax: Axes) -> None:
        _draw(ax, page, shown, cell, i)
        if cell.contrast == "max" and i < 2 and not page.foils:
            render.frame(ax)

    return Panel(panel, below=[_fine(number) for number in numbers])


def _hidden(shown: Shown, hidden: Hidden, i: int) -> Panel:
    """Return the panel of the image with what speaks against t_(i + 1) hidden, and every class's probability."""
    lines = []
    for j, (before, after) in enumerate(zip(shown.probabilities, hidden.after[i], strict=False)):
        change = float(after - before)
        arrow = "" if abs(change) < _IS_LARGE else " ▲" if change > 0 else " ▼"
        colour = render.FOR if i == j else render.AGAINST
        lines.append(Line(f"t{subscript(j + 1)}: {before:.3f} → {after:.3f}{arrow}", colour, bold=i == j))
    share = _fine(f"{100 * float(hidden.share[i]):.0f} % of the pixels hidden")
    return Panel(lambda ax: render.photograph(ax, hidden.pixels[i]), below=[*lines, share])


def _predicted(page: Page, shown: Shown) -> str:
    """Return the question that the maps answer, and what was predicted, with probabilities."""
    first, *after = (f"{name} (p = {p:.3f})" for name, p in zip(page.names(shown), shown.probabilities, strict=True))
    return f"why {first} rather than {page.foils or 'any other class'}? Next: {', '.join(after)}"


def _bold(text: str) -> Line:
    return Line(text, bold=True)


def _fine(text: str) -> Line:
    return Line(text, colour="0.25", size=FINE)


def _signed(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")
