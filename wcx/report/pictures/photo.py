"""A photograph's answer on disk: the figure, the raw maps, and every number of it as JSON, the sentences among them."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from functools import partial
from itertools import chain, count, product, starmap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from wcx import records
from wcx.experiments.pictures import Picture, View
from wcx.report.pictures import draw
from wcx.report.pictures.plate import Plate, block_words, line_words, probability
from wcx.report.pictures.sentences import Photograph
from wcx.report.pictures.sheet import Label, Sheet, Tile, bold, fine

SIDE = 1.86  # of a tile, inches
DPI = 150


def write_photograph(photograph: Photograph, folder: Path, formats: str | Sequence[str] = "png") -> Path:
    """Write <folder>/<name>.png or in other formats, .npz and .json; return the figure's path, of the first format.

    A name that another photograph's files have already gets a number: -2, -3, ...
    """
    folder.mkdir(parents=True, exist_ok=True)
    image = str(photograph.image.resolve())
    names = chain([photograph.name], (f"{photograph.name}-{number}" for number in count(2)))
    name = next(name for name in names if _image_of(folder / f"{name}.json") in (None, image))
    figures = draw.write_figure(photograph_figure(photograph), folder / name, formats, DPI)
    records.write(folder / f"{name}.npz", npz(photograph.picture))
    record = json_values(photograph) | {"files": [*(figure.name for figure in figures), f"{name}.npz"]}
    records.write(folder / f"{name}.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return figures[0]


def file_name(*parts: str, longest: int = 80) -> str:
    """Return a file's name of the parts, joined by "-", without what a path or a shell takes for its own.

    The first part, a photograph's own name, is cut to `longest` characters.
    """
    clean = [re.sub(r"[\s/\\:*?\"'<>|$`&;()\[\]{}]+", "_", part).strip("._") for part in parts]
    return "-".join([clean[0][:longest] or "image", *filter(None, clean[1:])])


def json_values(photograph: Photograph) -> dict[str, Any]:
    """Return everything that is shown and said, as JSON values."""
    picture, ids = photograph.picture, photograph.picture.targets
    predicted = photograph.predictions()
    return {
        "image": str(photograph.image.resolve()),
        "model": photograph.model,
        "weights": photograph.weights,
        "method": photograph.views[0].method,
        "layer": photograph.layer,
        "question": photograph.question,
        "sentences": photograph.sentences(),
        "predictions": [{"id": index, "class": name, "p": round(p, 6)} for index, name, p in predicted],
        "target": {"id": ids[0], "class": photograph.pair[0]},
        "rival": {"id": ids[1], "class": photograph.pair[1]},
        "foils": picture.foils,
        "strongest": photograph.strongest,
        "answers": list(starmap(partial(_answer, photograph), product(picture.raw, (0, 1)))),
        **photograph.facts,
    }


def photograph_figure(photograph: Photograph) -> Figure:
    """Draw the photograph and the answer in words; below, for each class and view, the map and the blurred image."""
    picture = photograph.picture
    plate = Plate("photo", [photograph.picture], scale=photograph.scale, style=photograph.style)
    method = photograph.views[0].method
    sheet = Sheet([SIDE] * 4, [0.1, 0.3, 0.1])
    sheet.text([Label(photograph.question, bold=True, size=10.5)])
    sheet.text([Label(photograph.source, "0.3", size=7)])
    sheet.gap(0.12)
    answer, *sentences = photograph.sentences()
    answers = [Label(answer, size=8.5)]
    for sentence in sentences:
        answers += [Label("", size=3), Label(sentence, "0.25")]
    predicted = [bold("predicted"), *(Label(f"{probability(p)} {name}") for _, name, p in photograph.predictions())]
    seen = plate.photograph(picture, below=[Label("what the network sees", "0.25")])
    sheet.tiles([seen, Tile(inside=predicted), Tile(inside=answers, columns=2)])
    for row in _rows(photograph):
        sheet.rule()
        heads = [bold(f"{view.contrast}: {photograph.label(view, i)}") for view, i in row]
        sheet.spans([(2 * place, 2 * place + 1, head) for place, head in enumerate(heads)])
        tiles: list[Tile] = []
        for view, i in row:
            tiles += [
                plate.heatmap(picture, view, i, has_bar=True),
                plate.hidden(picture, view, i, photograph.pair, SIDE),
            ]
        sheet.tiles(tiles)
    sheet.rule()
    sheet.text([fine(line) for line in caption(photograph, plate.in_pixels(method))])
    return sheet.figure()


def _rows(photograph: Photograph) -> list[list[tuple[View, int]]]:
    """Return what stands side by side: the answer and the view against all others, a class a row; else both classes."""
    rows: list[list[tuple[View, int]]] = []
    for contrast in dict.fromkeys(view.contrast for view in photograph.views):
        views = [view for view in photograph.views if view.contrast == contrast]
        cells = [list(product(views, [i])) for i in (0, 1)]
        rows += cells if len(views) > 1 else [[(views[0], 0), (views[0], 1)]]
    return rows


def caption(photograph: Photograph, in_pixels: bool) -> list[str]:
    """Return the sentences under a figure."""
    target, rival = photograph.pair
    shared = "the maps of both classes share a" if photograph.scale == "contrast" else "all maps share one"
    share = "" if photograph.strongest == 1 else f"the strongest {photograph.strongest:.0%} of "
    line = "" if in_pixels else f"{line_words(photograph.style)}; "
    lines = [
        f"Share of {target}: its probability divided by that of {target} and {rival} together. Masked pixels are blurred.",
        f"Maps: red speaks for the class, blue against it, white is zero; {line}{shared} scale, centred at zero.",
        f"Beside each: {share}the pixels that speak against its class are blurred; probabilities are those of the whole softmax. "
        "Red and bold: the class itself, expected to rise; blue: the other, expected to fall.",
    ]
    if in_pixels:
        side = draw.block_side(photograph.picture.pixels)
        blocks = block_words(side, photograph.style)
        lines.append(f"Maps are summed over the channels and drawn as {blocks}; what is blurred goes by single pixels.")
    return lines


def _answer(photograph: Photograph, view: View, i: int) -> dict[str, Any]:
    picture, rival = photograph.picture, 1 - i
    before, after = picture.probabilities[picture.targets].tolist(), picture.after(view)[i].tolist()
    share_before, share_after = photograph.shares(view, i)
    return {
        "contrast": view.contrast,
        "explains": photograph.label(view, i),
        "class": photograph.pair[i],
        "foils": {"none": None, "asked": photograph.asked(i), "others": "others"}[view.foils],
        "maps": _key(view),
        "masked_fraction": round(photograph.fraction(view, i), 6),
        "p_before": round(before[i], 6),
        "p_after": round(after[i], 6),
        "p_other_before": round(before[rival], 6),
        "p_other_after": round(after[rival], 6),
        "share_before": round(share_before, 6),
        "share_after": round(share_after, 6),
        "sentence": photograph.sentence(view, i),
    }


def _key(view: View) -> str:
    """Return the name of a view's maps in the .npz file."""
    return f"{view.contrast}_all" if view.foils == "others" else view.contrast


def npz(picture: Picture) -> bytes:
    """Return an .npz: for each view the raw maps (2, h, w) or (2, 3, H, W) and the logits of the blurred images (2, C).

    <contrast> answers the question, <contrast>_all is against all other classes; <name>_blurred_logits belong to <name>. And
    `classes` (2,), the ids that they are about; `logits` (C,); `pixels` (3, H, W) in [0, 1].
    """
    arrays = {"classes": np.array(picture.targets), "logits": picture.logits.numpy(), "pixels": picture.pixels.numpy()}
    for view, maps in picture.raw.items():
        arrays[_key(view)] = maps.numpy()
        arrays[f"{_key(view)}_blurred_logits"] = picture.hidden[view].logits.numpy()
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _image_of(path: Path) -> str | None:
    """Return the photograph that a JSON file here is about; None if there is no such file."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8")).get("image"))
    except FileNotFoundError:
        return None
    except (ValueError, AttributeError):
        return ""  # not ours: its name is taken
