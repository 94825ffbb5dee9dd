"""How each kind of plate is laid out: one image's tiles below another's."""

from __future__ import annotations

from matplotlib.figure import Figure

from wcx.experiments.pictures import Picture
from wcx.report.pictures import draw
from wcx.report.pictures.plate import (
    Plate,
    block_words,
    equation,
    is_a,
    line_words,
    method_title,
    rank,
    similarities,
)
from wcx.report.pictures.sheet import Label, Sheet, Tile, bold, fine

SIDE, SMALL = 1.5, 1.2  # of a tile, inches; where there are many
TITLES = {
    "fig1": "Two classes: their maps, and what hiding the negative features does to their probabilities",
    "fig4": "The two most probable classes, each explained alone and against the others",
    "fig5": "The three most probable classes under several contrasts",
    "methods": "Methods and contrasts",
}


def class_pairs(plate: Plate) -> Sheet:
    """Lay out for each image and method the maps of every class under each contrast (Fig. 4, the demo).

    Below them, where the plate has them, the images without their negative features (Fig. 1).
    """
    count = len(plate.pictures[0].targets)
    groups = [(1 + i * count, (i + 1) * count) for i in range(len(plate.contrasts))]
    gaps = [0.2] + ([0.08] * (count - 1) + [0.24]) * len(groups)
    sheet = _begin(plate, [SIDE] * (1 + count * len(groups)), gaps[:-1])
    for picture in plate.pictures:
        sheet.rule()
        for method in plate.methods:
            views = [view for view in plate.views if view.method == method]
            prefix = "" if plate.kind == "selected" else f"{method_title(method)}, "
            sheet.gap(0.0 if method == plate.methods[0] else 0.06)
            sheet.spans([(*group, bold(prefix + view.contrast)) for group, view in zip(groups, views, strict=True)])
            is_first = method == plate.methods[0]
            row = [plate.photograph(picture, [bold(is_a(picture))]) if is_first else None]
            for view in views:
                row += [plate.heatmap(picture, view, i, _named(picture, i) if is_first else ()) for i in range(count)]
            sheet.tiles(row)
            sheet.bars([(*group, plate.scale_of(picture, view)) for group, view in zip(groups, views, strict=True)])
            if picture.hidden:
                below = ["Negative features " + plate.baseline + ".", "Probabilities:", "before → after"]
                row, ranks = [Tile(inside=list(map(Label, below)))], list(map(rank, range(count)))
                for view in views:
                    row += [plate.hidden(picture, view, i, ranks, SIDE) for i in range(count)]
                sheet.tiles(row)
    return _end(plate, sheet)


def classes(plate: Plate) -> Sheet:
    """Lay out for each image a row a class and a column a view, with cosines (Fig. 5); max of t_1 and t_2 is framed."""
    columns = len(plate.views)
    sheet = _begin(plate, [SIDE] * (1 + columns), [0.2] + [0.14] * (columns - 1))
    for picture in plate.pictures:
        sheet.rule()
        heads = [f"{method_title(view.method)}, {view.contrast}" for view in plate.views]
        sheet.spans([(i, i, bold(head)) for i, head in enumerate([is_a(picture), *heads])])
        for i, target in enumerate(picture.targets):
            name = f"{rank(i)}: {picture.names[target]}, {equation(picture.p(target))}"
            sheet.spans([(1, columns, Label(name))])
            row = [plate.photograph(picture) if i == 0 else None]
            for view in plate.views:
                is_framed = view.contrast == "max" and i < 2 and not plate.foils
                below = similarities(picture, view, i)
                row.append(plate.heatmap(picture, view, i, below=below, is_framed=is_framed))
            sheet.tiles(row)
            sheet.gap(0.13)
        sheet.bars([(i, i, plate.scale_of(picture, view)) for i, view in enumerate(plate.views, 1)])
    return _end(plate, sheet)


def methods(plate: Plate) -> Sheet:
    """Lay out one image's most probable class under every method (rows) and contrast (columns)."""
    picture, columns = plate.pictures[0], len(plate.contrasts)
    sheet = _begin(plate, [SMALL] * (1 + columns), [0.1] + [0.06] * (columns - 1))
    sheet.rule()
    notes = [bold(is_a(picture) or picture.item.id), Label(_question(plate, picture))]
    sheet.tiles([plate.photograph(picture), Tile(inside=notes, columns=columns)])
    sheet.gap()
    by_method = plate.scale == "method"
    heads = {"probability": "probability ÷ p(1−p)"} if by_method and not plate.foils else {}
    sheet.spans([(i, i, bold(heads.get(name, name))) for i, name in enumerate(plate.contrasts, 1)])
    for method in plate.methods:
        views = [view for view in plate.views if view.method == method]
        scale = fine(f"colours to ±{plate.scale_of(picture, views[0]):.2g}")
        row = [Tile(inside=[bold(method_title(method)), *([scale] if by_method else [])])]
        for view in views:
            is_zero = not plate.drawn(picture, view).any()
            end = fine("0 everywhere" if is_zero else f"±{plate.scale_of(picture, view):.2g}")
            row.append(plate.heatmap(picture, view, 0, below=[end] if is_zero or not by_method else []))
        sheet.tiles(row)
        sheet.gap(0.06)
    return _end(plate, sheet)


LAYOUTS = {"fig1": class_pairs, "fig4": class_pairs, "fig5": classes, "methods": methods, "selected": class_pairs}


def plate_figure(plate: Plate) -> Figure:
    """Return the figure of a plate of the gallery, or of selected images."""
    return LAYOUTS[plate.kind](plate).figure()


def heading(plate: Plate) -> list[str]:
    """Return what stands above a figure: its title, and what it was made from."""
    title = str(plate.facts["title"]).splitlines()[0] if plate.kind == "selected" else TITLES[plate.kind]
    facts = [plate.facts.get(key) for key in ("dataset_label", "model", "weights", "subset")]
    return [title, " · ".join(filter(None, facts))]


def caption(plate: Plate) -> list[str]:
    """Return the sentences under a figure."""
    shared = "all contrasts of one method" if plate.scale == "method" else "all classes of one method and contrast"
    scale = f"In an image, {shared} share one colour scale, centred at zero."
    if plate.kind == "methods" and plate.scale == "contrast":
        scale = "Each map has a colour scale of its own, centred at zero; its end stands below."
    lines = [f"Images: {plate.facts['rule']}."] if plate.facts.get("rule") else []
    against = f" against {plate.foils}" if plate.foils else ""
    pixelwise = [method_title(method) for method in plate.methods if plate.in_pixels(method)]
    marked = f"; {line_words(plate.style)}{', in maps over the image' * bool(pixelwise)}"
    marked = "" if len(pixelwise) == len(plate.methods) else marked
    lines.append(f"Red speaks for the class{against}, blue against it, white is zero{marked}. {scale}")
    if any(picture.hidden for picture in plate.pictures):
        lines.append(
            f"Lower rows: the pixels that speak against the class above are {plate.baseline}, and the probabilities are "
            "those of the whole softmax. Red and bold: the class itself, expected to rise; blue: the other, expected to fall."
        )
    if plate.kind == "fig5":
        framed = "" if plate.foils else "Framed: max of t₁ and t₂, each the other's negative."
        lines.append(
            "cos(original): cosine with the original map of the same class; cos(t₁): with the map of t₁ under the same "
            f"contrast. {framed}"
        )
    if pixelwise:
        side = draw.block_side(plate.pictures[0].pixels)
        blocks = block_words(side, plate.style)
        lines.append(f"Input-space maps ({', '.join(pixelwise)}) are summed over the channels and drawn as {blocks}.")
    return lines


def _begin(plate: Plate, widths: list[float], gaps: list[float]) -> Sheet:
    sheet = Sheet(widths, gaps)
    title, origin = heading(plate)
    first = bold(title) if plate.kind == "selected" else Label(title, bold=True, size=9.5)
    sheet.text([first, Label(origin, "0.3", size=7)])
    sheet.gap(0.06 if plate.kind != "selected" else 0.0)
    return sheet


def _end(plate: Plate, sheet: Sheet) -> Sheet:
    if lines := caption(plate):
        sheet.rule()
        sheet.text([fine(line) for line in lines])
    return sheet


def _named(picture: Picture, i: int) -> list[Label]:
    target = picture.targets[i]
    return [Label(picture.names[target]), fine(f"{rank(i)}, {equation(picture.p(target))}")]


def _question(plate: Plate, picture: Picture) -> str:
    """Return the question that the maps answer, and what was predicted, with probabilities."""
    first, *second = (f"{picture.names[index]} ({equation(picture.p(index))})" for index in picture.predicted(3))
    return f"why {first} rather than {plate.foils or 'any other class'}? Next: {', '.join(second)}"
