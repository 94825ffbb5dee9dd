"""An answer as HTML: maps side by side on one scale, each over its blurred image and the probabilities before and after."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from wcx.app.answers import Answer
from wcx.experiments.pictures import View
from wcx.report.pictures import draw
from wcx.report.pictures.photo import caption
from wcx.report.pictures.plate import Plate, probability

SIDE = 224  # pixels, of the shorter side of a picture
_FOLDER = Path(__file__).parent


def page(answer: Answer) -> str:
    """Return the answer: question, sentences, and a row of maps for the target and one for its rival."""
    photograph, picture = answer.photograph, answer.picture
    plate = Plate("photo", [picture], scale=photograph.scale)
    scale, in_pixels = plate.scale_of(picture, photograph.views[0]), plate.in_pixels(answer.asked.method)
    rows = [
        {"title": f"Why {name}?", "tiles": [_tile(plate, answer, view, i) for view in photograph.views]}
        for i, name in enumerate(photograph.pair)
    ]
    return (
        _environment()
        .get_template("answer.html.j2")
        .render(
            photograph=photograph,
            sentences=[*photograph.sentences(), *answer.remarks],
            seen=_photograph(picture.pixels),
            bar=_bar(scale),
            scale=scale,
            rows=rows,
            in_pixels=in_pixels,
            caption=caption(photograph, in_pixels),
        )
    )


def likeliest(predictions: Sequence[tuple[int, str, float]]) -> str:
    """Return a list of classes, each with its probability as figures state it, and a bar as long.

    Args:
        predictions: (id, name, probability), the likeliest first.
    """
    return (
        _environment()
        .get_template("likeliest.html.j2")
        .render(classes=[(name, p, probability(p)) for _, name, p in predictions])
    )


def files(answer: Answer) -> str:
    """Return links with the files in them: none lies on the server."""
    types = {".png": "image/png", ".pdf": "application/pdf", ".npz": "application/octet-stream"}
    links = [
        f'<a download="{escape(name)}" href="{_uri(content, types.get(Path(name).suffix, "image/png"))}">{escape(name)}</a>'
        for name, content in answer.files().items()
    ]
    return f'<p class="files">{" ".join(links)}</p>'


def line(text: str) -> str:
    """Return what went wrong, in one line."""
    return f'<p class="mistake" role="alert">{escape(text)}</p>'


def style() -> str:
    """Return the page's style sheet."""
    return (_FOLDER / "style.css").read_text(encoding="utf-8")


def _tile(plate: Plate, answer: Answer, view: View, i: int) -> Mapping[str, Any]:
    """Return what is shown of a view about the target (`i` = 0) or its rival (1)."""
    picture, photograph = answer.picture, answer.photograph
    changes = list(zip(photograph.pair, plate.changes(picture, view, i), strict=True))
    heatmap = plate.heatmap(picture, view, i)
    assert heatmap.draw is not None
    return {
        "contrast": view.contrast,
        "label": photograph.label(view, i),
        "map": _webp(draw.frame(picture.pixels, heatmap.draw, SIDE)),
        "hidden": _photograph(picture.hidden[view].pixels[i]),
        "changes": [changes[i], changes[1 - i]],
        "share": plate.share(picture, view, i),
    }


def _photograph(pixels: Tensor) -> str:
    """Return pixels (channels, H, W) in [0, 1] as they are."""
    values = (255 * pixels.expand(3, -1, -1).movedim(0, 2).clamp(0, 1)).round().byte()
    return _webp(Image.fromarray(values.numpy()))


def _bar(scale: float) -> str:
    """Return the colour bar."""
    figure = Figure(figsize=(2.24, 0.36), dpi=200)
    draw.paint_bar(figure.add_axes((0.02, 0.55, 0.96, 0.4)), scale)
    return _webp(draw.image(figure))


def _webp(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=90)
    return _uri(buffer.getvalue(), "image/webp")


def _uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, undefined=jinja2.StrictUndefined
    )
