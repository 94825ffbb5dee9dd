"""One photograph's files: the figure, the raw maps, and every number of it as JSON, the sentences among them."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from wcx import records
from wcx.experiments.photo import Answer, Explained
from wcx.report import render, words
from wcx.report.gallery_layouts import title
from wcx.report.gallery_page import BLOCK, QUANTILE, block_sums
from wcx.report.sheet import Line, Panel, Sheet, wrap

SIDE = 1.86  # of a panel, inches
LETTERS = 7.5  # points
DPI = 150


@dataclass(frozen=True)
class Report:
    """A photograph, what was found about it, and everything that is said of it.

    Attributes:
        image: the file.
        explained: what was found.
        class_names: of the model's outputs.
        model, method: names as on the command line.
        weights: of the model, for tables.
        name: of the files to write, without number and suffix.
        top: so many of the most probable classes are told.
        facts: more for the JSON file.
    """

    image: Path
    explained: Explained
    class_names: Sequence[str]
    model: str
    method: str
    weights: str
    name: str
    top: int = 5
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pair(self) -> tuple[str, str]:
        """The names of target and rival."""
        target, rival = (self.class_names[one] for one in self.explained.pair)
        return target, rival

    @property
    def in_pixels(self) -> bool:
        """Whether the method goes back to the pixels."""
        return self.explained.layer is None

    @property
    def question(self) -> str:
        """The question that the maps answer."""
        return f"Why {self.pair[0]}, and not {self.pair[1]}?"

    def predictions(self) -> list[tuple[int, str, float]]:
        """Return id, name and probability of the most probable classes, the most probable first."""
        ordered = self.explained.probabilities.sort(descending=True, stable=True)
        top = zip(ordered.indices[: self.top].tolist(), ordered.values.tolist(), strict=False)
        return [(one, self.class_names[one], p) for one, p in top]

    def foils(self) -> str:
        """Return the target's foils in words."""
        if self.explained.foils is None:
            return "all other classes"
        names = [self.class_names[one] for one in self.explained.foils]
        return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")

    def sentence(self, contrast: str, which: int = 0) -> str:
        """Return what masking the pixels against the target (`which` = 0) or its rival (1) does, in words."""
        answer, own, other = self.explained.answers[contrast][which], self.pair[which], self.pair[1 - which]
        before, after = (self.explained.share(which, y) for y in (self.explained.logits, answer.logits))
        marks = f"{contrast} {title(self.method)}"
        return words.masking(marks, own, other, answer.masked_fraction, before, after)

    def sentences(self) -> list[str]:
        """Return the sentence about the target under each contrast, the last contrast first."""
        return [self.sentence(contrast) for contrast in reversed(self.explained.answers)]


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
        "foils": explained.foils or "others",
        "answers": [_answer(report, name, i) for name in explained.answers for i in (0, 1)],
        **report.facts,
    }


def figure(report: Report) -> Figure:
    """Draw the photograph, its maps for both classes under each contrast, and below them the blurred images."""
    explained = report.explained
    contrasts = list(explained.answers)
    spans = [(1 + 2 * i, 2 + 2 * i) for i in range(len(contrasts))]
    sheet = Sheet([SIDE] * (1 + 2 * len(contrasts)), [0.22, *([0.1, 0.26] * len(contrasts))[:-1]], LETTERS)
    sheet.text([Line(report.question, bold=True, size=10.5)])
    layer = "" if explained.layer is None else f" at {explained.layer}"
    sheet.text([Line(f"{report.model} · {report.weights} · {title(report.method)}{layer}", "0.3", size=7)])
    sheet.gap(0.12)
    sheet.spans([(0, 0, Line("what the network sees", bold=True)), *_headings(report, spans)])
    maps = [_map(report, name, i) for name in contrasts for i in (0, 1)]
    sheet.panels([Panel(lambda ax: render.photograph(ax, explained.pixels)), *maps])
    sheet.bars([(*span, _scale(report, name)) for span, name in zip(spans, contrasts, strict=True)])
    sheet.gap(0.06)
    blurred = [_blurred(report, name, i) for name in contrasts for i in (0, 1)]
    sheet.panels([Panel(inside=_predicted(report)), *blurred])
    sheet.gap(0.06)
    sheet.rule()
    sheet.gap(0.08)
    sheet.text([Line(sentence, size=8.5) for sentence in report.sentences()])
    sheet.gap(0.04)
    sheet.text([Line(line, "0.25", size=6.5) for line in _caption(report)])
    return sheet.figure()


def _headings(report: Report, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int, Line]]:
    """Return the heading over each contrast's maps."""
    about = {"original": "the class alone"}
    against = f"against {report.foils()}"
    return [
        (*span, Line(f"{name}: {about.get(name, against)}", bold=True))
        for span, name in zip(spans, report.explained.answers, strict=True)
    ]


def _map(report: Report, contrast: str, which: int) -> Panel:
    p = float(report.explained.probabilities[report.explained.pair[which]])
    above = [Line(report.pair[which]), Line(f"p = {_p(p)}".replace("= <", "< "), "0.25", size=6.5)]
    return Panel(lambda ax: _draw(ax, report, contrast, which), above=above)


def _draw(ax: Axes, report: Report, contrast: str, which: int) -> None:
    shown, scale = _drawn(report, report.explained.answers[contrast][which]), _scale(report, contrast)
    if report.in_pixels:
        render.bare(ax, shown, scale)
    else:
        render.overlay(ax, report.explained.pixels, shown, scale)


def _drawn(report: Report, answer: Answer) -> Tensor:
    """Return a map as it is drawn: that of an input method summed over blocks of pixels."""
    return block_sums(answer.attribution[None])[0] if report.in_pixels else answer.attribution


def _scale(report: Report, contrast: str) -> float:
    """Return the value of the deepest colours of both maps of a contrast."""
    quantile = QUANTILE if report.in_pixels else 1.0
    return max(render.scale_of(_drawn(report, one), quantile) for one in report.explained.answers[contrast])


def _blurred(report: Report, contrast: str, which: int) -> Panel:
    """Return the panel of the image blurred where it speaks against a class, and both probabilities."""
    explained, answer = report.explained, report.explained.answers[contrast][which]
    before, after = explained.probabilities, answer.logits.double().softmax(0)
    lines = []
    for i in (which, 1 - which):
        first, last = float(before[explained.pair[i]]), float(after[explained.pair[i]])
        arrow = "" if _p(first) == _p(last) else " ▲" if last > first else " ▼"
        colour = render.FOR if i == which else render.AGAINST
        texts = [f"{report.pair[i]}:", f"{_p(first)} → {_p(last)}{arrow}"]
        if all(len(wrap(f"{name}: {texts[1]}", SIDE, LETTERS, bold=True)) == 1 for name in report.pair):
            texts = [" ".join(texts)]  # no number is torn from the other
        lines += [Line(text, colour, bold=i == which) for text in texts]
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
        "Above: red speaks for the class, blue against it, white is zero; a line marks where the sign changes; the maps under "
        "one heading share a scale, centred at zero.",
        "Below: the pixels that speak against the class above are blurred; probabilities are those of the whole softmax. "
        "Red and bold: the class itself, expected to rise; blue: the other, expected to fall.",
    ]
    if report.explained.foils is not None:
        lines[1] += f" About {rival}, {target} is one of the foils."
    if report.in_pixels:
        lines.append(
            f"Maps are summed over the channels and drawn as sums over {BLOCK} × {BLOCK} pixels, colours to the "
            f"{100 * QUANTILE:g} % quantile; what is blurred goes by single pixels."
        )
    return lines


def _answer(report: Report, contrast: str, which: int) -> dict[str, Any]:
    explained, answer = report.explained, report.explained.answers[contrast][which]
    after = answer.logits.double().softmax(0)
    own, other = explained.pair[which], explained.pair[1 - which]
    return {
        "contrast": contrast,
        "class": report.pair[which],
        "masked_fraction": round(answer.masked_fraction, 6),
        "p_before": round(float(explained.probabilities[own]), 6),
        "p_after": round(float(after[own]), 6),
        "p_other_before": round(float(explained.probabilities[other]), 6),
        "p_other_after": round(float(after[other]), 6),
        "share_before": round(explained.share(which, explained.logits), 6),
        "share_after": round(explained.share(which, answer.logits), 6),
        "sentence": report.sentence(contrast, which),
    }


def _npz(explained: Explained) -> bytes:
    """Return an .npz: for each contrast the raw maps (2, h, w) or (2, 3, H, W) and the logits of the blurred images (2, C).

    And `classes` (2,), the ids that they are about; `logits` (C,); `pixels` (3, H, W) in [0, 1].
    """
    arrays = {
        "classes": np.array(explained.pair),
        "logits": explained.logits.numpy(),
        "pixels": explained.pixels.numpy(),
    }
    for name, answers in explained.answers.items():
        arrays[name] = np.stack([answer.raw.numpy() for answer in answers])
        arrays[f"{name}_blurred_logits"] = np.stack([answer.logits.numpy() for answer in answers])
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
