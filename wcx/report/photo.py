"""One photograph's files: the figure, the raw maps, and every number of it as JSON, the sentences among them."""

from __future__ import annotations

import io
import json
import re
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from wcx import records
from wcx.experiments.photo import Answer, Explained, View
from wcx.report import render, words
from wcx.report.gallery_layouts import title
from wcx.report.gallery_page import BLOCK, QUANTILE, block_sums
from wcx.report.photo_page import Report
from wcx.report.sheet import Line, Panel, Sheet, wrap

__all__ = ["Report", "facts", "figure", "file_name", "write"]

SIDE = 1.86  # of a panel, inches
LETTERS = 7.5  # points
DPI = 150


def write(report: Report, folder: Path) -> Path:
    """Write <folder>/<name>.png, .npz and .json; return the figure's path.

    A name that another photograph's files have already gets a number: -2, -3, ...
    """
    folder.mkdir(parents=True, exist_ok=True)
    image = str(report.image.resolve())
    path = next(p for p in _names(folder, report.name) if _image_of(p.with_name(f"{p.name}.json")) in (None, image))
    files = {suffix: path.with_name(f"{path.name}.{suffix}") for suffix in ("png", "npz", "json")}
    render.save(figure(report), path, ("png",), DPI)
    records.write(files["npz"], _npz(report.explained))
    about = facts(report) | {"files": [files["png"].name, files["npz"].name]}
    records.write(files["json"], json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    return files["png"]


def file_name(*parts: str, longest: int = 80) -> str:
    """Return a file's name of the parts, joined by "-", without what a path or a shell takes for its own.

    The first part, a photograph's own name, is cut to `longest` characters.
    """
    clean = [re.sub(r"[\s/\\:*?\"'<>|$`&;()\[\]{}]+", "_", part).strip("._") for part in parts]
    return "-".join([clean[0][:longest] or "image", *filter(None, clean[1:])])


def facts(report: Report) -> dict[str, Any]:
    """Return everything that is shown and said, as JSON values."""
    explained = report.explained
    return {
        "image": str(report.image.resolve()),
        "model": report.model,
        "weights": report.weights,
        "method": report.method,
        "layer": explained.layer,
        "question": report.question,
        "sentences": report.sentences(),
        "predictions": [{"id": one, "class": name, "p": round(p, 6)} for one, name, p in report.predictions()],
        "target": {"id": explained.pair[0], "class": report.pair[0]},
        "rival": {"id": explained.pair[1], "class": report.pair[1]},
        "foils": explained.foils,
        "answers": [_answer(report, view, i) for view in explained.answers for i in (0, 1)],
        **report.facts,
    }


def figure(report: Report) -> Figure:
    """Draw the photograph and the answer in words; below, for each class and view, the map and the blurred image."""
    explained = report.explained
    sheet = Sheet([SIDE] * 4, [0.1, 0.3, 0.1], LETTERS)
    sheet.text([Line(report.question, bold=True, size=10.5)])
    layer = "" if explained.layer is None else f" at {explained.layer}"
    sheet.text([Line(f"{report.model} · {report.weights} · {title(report.method)}{layer}", "0.3", size=7)])
    sheet.gap(0.12)
    answer, *sentences = report.sentences()
    lines = [Line(answer, size=8.5), *(line for text in sentences for line in (Line("", size=3), Line(text, "0.25")))]
    photograph = Panel(
        lambda ax: render.photograph(ax, explained.pixels), below=[Line("what the network sees", "0.25")]
    )
    sheet.panels([photograph, Panel(inside=_predicted(report)), Panel(inside=lines, columns=2)])
    for row in _rows(report):
        sheet.gap(0.06)
        sheet.rule()
        sheet.gap(0.08)
        heads = [Line(f"{view.contrast}: {report.label(view, index)}", bold=True) for view, index in row]
        sheet.spans([(2 * i, 2 * i + 1, head) for i, head in enumerate(heads)])
        sheet.panels([draw(report, *cell) for cell in row for draw in (_map, _blurred)])
    sheet.gap(0.06)
    sheet.rule()
    sheet.gap(0.08)
    sheet.text([Line(line, "0.25", size=6.5) for line in _caption(report)])
    return sheet.figure()


def _rows(report: Report) -> list[list[tuple[View, int]]]:
    """Return what stands side by side: the answer and the view against all others, a class a row; else both classes."""
    rows: list[list[tuple[View, int]]] = []
    for contrast in dict.fromkeys(view.contrast for view in report.views):
        first, *second = (view for view in report.views if view.contrast == contrast)
        if second:
            rows += [[(first, index), (second[0], index)] for index in (0, 1)]
        else:
            rows.append([(first, 0), (first, 1)])
    return rows


def _map(report: Report, view: View, index: int) -> Panel:
    return Panel(lambda ax: _draw(ax, report, view, index), scale=_scale(report, view))


def _draw(ax: Axes, report: Report, view: View, index: int) -> None:
    drawn, scale = _drawn(report, report.explained.answers[view][index]), _scale(report, view)
    if report.in_pixels:
        render.bare(ax, drawn, scale)
    else:
        render.overlay(ax, report.explained.pixels, drawn, scale)


def _drawn(report: Report, answer: Answer) -> Tensor:
    """Return a map as it is drawn: that of an input method summed over blocks of pixels."""
    return block_sums(answer.attribution[None])[0] if report.in_pixels else answer.attribution


def _scale(report: Report, view: View) -> float:
    """Return the value of the deepest colours of both maps of a view."""
    quantile = QUANTILE if report.in_pixels else 1.0
    return max(render.scale_of(_drawn(report, answer), quantile) for answer in report.explained.answers[view])


def _blurred(report: Report, view: View, index: int) -> Panel:
    """Return the panel of the image blurred where it speaks against a class, and both probabilities."""
    explained, answer = report.explained, report.explained.answers[view][index]
    before, after = explained.probabilities, answer.logits.double().softmax(0)
    lines = []
    for i in (index, 1 - index):
        first, last = float(before[explained.pair[i]]), float(after[explained.pair[i]])
        arrow = "" if _p(first) == _p(last) else " ▲" if last > first else " ▼"
        colour = render.FOR if i == index else render.AGAINST
        texts = [f"{report.pair[i]}:", f"{_p(first)} → {_p(last)}{arrow}"]
        if all(len(wrap(f"{name}: {texts[1]}", SIDE, LETTERS, bold=True)) == 1 for name in report.pair):
            texts = [" ".join(texts)]  # no number is torn from the other
        lines += [Line(text, colour, bold=i == index) for text in texts]
    fraction = answer.masked_fraction
    share = f"{'all' if fraction == 1 else words.percent(fraction)} of the pixels blurred"
    below = [*lines, Line(share if fraction else "nothing is blurred", "0.25", size=6.5)]
    return Panel(lambda ax: render.photograph(ax, answer.blurred), below=below)


def _predicted(report: Report) -> list[Line]:
    lines = [Line("predicted", bold=True)]
    return lines + [Line(f"{_p(p)} {name}") for _, name, p in report.predictions()]


def _p(probability: float) -> str:
    return f"{probability:.3f}" if probability >= 0.0005 else "<0.001"


def _caption(report: Report) -> list[str]:
    target, rival = report.pair
    lines = [
        f"Share of {target}: its probability divided by that of {target} and {rival} together. Masked pixels are blurred.",
        "Maps: red speaks for the class, blue against it, white is zero; a line marks where the sign changes; the maps of both "
        "classes share a scale, centred at zero.",
        "Right of each: its blue pixels are blurred; probabilities are those of the whole softmax. "
        "Red and bold: the class itself, expected to rise; blue: the other, expected to fall.",
    ]
    if report.in_pixels:
        lines.append(
            f"Maps are summed over the channels and drawn as sums over {BLOCK} × {BLOCK} pixels, colours to the "
            f"{100 * QUANTILE:g} % quantile; what is blurred goes by single pixels."
        )
    return lines


def _answer(report: Report, view: View, index: int) -> dict[str, Any]:
    explained, answer = report.explained, report.explained.answers[view][index]
    after = answer.logits.double().softmax(0)
    a, b = explained.pair[index], explained.pair[1 - index]
    return {
        "contrast": view.contrast,
        "explains": report.label(view, index),
        "class": report.pair[index],
        "foils": {"none": None, "asked": explained.asked(index), "others": "others"}[view.foils],
        "maps": _key(view),
        "masked_fraction": round(answer.masked_fraction, 6),
        "p_before": round(float(explained.probabilities[a]), 6),
        "p_after": round(float(after[a]), 6),
        "p_other_before": round(float(explained.probabilities[b]), 6),
        "p_other_after": round(float(after[b]), 6),
        "share_before": round(explained.share(index, explained.logits), 6),
        "share_after": round(explained.share(index, answer.logits), 6),
        "sentence": report.sentence(view, index),
    }


def _key(view: View) -> str:
    """Return the name of a view's maps in the .npz file."""
    return f"{view.contrast}_all" if view.foils == "others" else view.contrast


def _npz(explained: Explained) -> bytes:
    """Return an .npz: for each view the raw maps (2, h, w) or (2, 3, H, W) and the logits of the blurred images (2, C).

    <contrast> answers the question, <contrast>_all is against all other classes; <name>_blurred_logits belong to <name>. And
    `classes` (2,), the ids that they are about; `logits` (C,); `pixels` (3, H, W) in [0, 1].
    """
    arrays = {
        "classes": np.array(explained.pair),
        "logits": explained.logits.numpy(),
        "pixels": explained.pixels.numpy(),
    }
    for view, answers in explained.answers.items():
        arrays[_key(view)] = np.stack([answer.raw.numpy() for answer in answers])
        arrays[f"{_key(view)}_blurred_logits"] = np.stack([answer.logits.numpy() for answer in answers])
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _names(folder: Path, name: str) -> Any:
    yield folder / name
    yield from (folder / f"{name}-{number}" for number in count(2))


def _image_of(path: Path) -> str | None:
    """Return the photograph that a JSON file here is about; None if there is no such file."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8")).get("image"))
    except FileNotFoundError:
        return None
    except (ValueError, AttributeError):
        return ""  # not ours: its name is taken
