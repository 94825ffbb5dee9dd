"""A photograph's answer on disk: the figure, the raw maps, and every number of it as JSON, the sentences among them."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from wcx import records
from wcx.experiments.pictures import Picture, View
from wcx.report.pictures import draw
from wcx.report.pictures.plate import Plate, method_title, percent, probability
from wcx.report.pictures.sheet import Label, Sheet, Tile, bold, fine

SIDE = 1.86  # of a tile, inches
DPI = 150
MOST = 4  # classes that are named; the last of five is, too
TOP = 5  # most probable classes that are named


@dataclass(frozen=True)
class Photograph:
    """A photograph, what was found about it, and everything that is said of it.

    Attributes:
        image: the file.
        picture: what was found: target and rival, with the views of `wcx.experiments.photo.answer`.
        model: its name as on the command line.
        weights: of the model, for tables.
        layer: of the maps; None for input methods.
        name: of the files to write, without number and suffix.
        facts: more for the JSON file.
    """

    image: Path
    picture: Picture
    model: str
    weights: str
    layer: str | None
    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pair(self) -> list[str]:
        """The names of target and rival."""
        return [self.picture.names[index] for index in self.picture.targets]

    @property
    def views(self) -> list[View]:
        """The views in the order of the figure: those that answer the question, those against all others, the class alone."""
        return sorted(self.picture.raw, key=lambda view: ("asked", "others", "none").index(view.foils))

    @property
    def question(self) -> str:
        """The question that the views with its own classes as foils answer; without such a view, about the class alone."""
        is_asked = any(view.foils == "asked" for view in self.views)
        return f"Why {self.pair[0]}, and {self.foils(0)}?" if is_asked else f"Why {self.pair[0]}?"

    def predictions(self) -> list[tuple[int, str, float]]:
        """Return id, name and probability of the most probable classes, the most probable first."""
        picture = self.picture
        return [(index, picture.names[index], picture.p(index)) for index in picture.predicted(TOP)]

    def asked(self, i: int) -> list[int]:
        """Return the classes of the question that the target (`i` = 0) or its rival (1) is contrasted with.

        The most probable first; of equals the lower id.
        """
        ids = {*self.picture.targets, *self.picture.foils} - {self.picture.targets[i]}
        return sorted(ids, key=lambda foil: (-float(self.picture.logits[foil]), foil))

    def foils(self, i: int) -> str:
        """Return the classes of `asked` in words: "not A or B"."""
        names = [self.picture.names[foil] for foil in self.asked(i)]
        if len(names) > MOST + 1:
            names = [*names[:MOST], f"{len(names) - MOST} more"]
        return "not " + " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))

    def label(self, view: View, i: int) -> str:
        """Return what a view explains: "A alone", "A, not B" or "A, against all other classes"."""
        endings = {"none": " alone", "asked": f", {self.foils(i)}", "others": ", against all other classes"}
        return self.pair[i] + endings[view.foils]

    def shares(self, view: View, i: int) -> tuple[float, float]:
        """Return p_a / (p_a + p_b) before and after blurring: a is the target (`i` = 0) or its rival (1), b the other."""
        targets, picture = self.picture.targets, self.picture
        logits = torch.stack([picture.logits, picture.hidden[view].logits[i]]).double()
        before, after = torch.sigmoid(logits[:, targets[i]] - logits[:, targets[1 - i]]).tolist()
        return before, after

    def sentence(self, view: View, i: int = 0) -> str:
        """Return what masking the pixels against the target (`i` = 0) or its rival (1) does, in words."""
        marks = f"{view.contrast} {method_title(view.method)} ({self.label(view, i)})"
        return masking(marks, self.pair[i], self.pair[1 - i], self.fraction(view, i), *self.shares(view, i))

    def sentences(self) -> list[str]:
        """Return the sentence about the target in each view, the answer to the question first."""
        return [self.sentence(view) for view in self.views]

    def fraction(self, view: View, i: int) -> float:
        """Return the share of the pixels that are blurred."""
        return float(self.picture.hidden[view].share[i])


def masking(marks: str, target: str, rival: str, fraction: float, before: float, after: float) -> str:
    """Return one sentence on what masking the pixels against a class does to its share against another.

    Args:
        marks: contrast and method, e.g. "weighted GradCAM".
        target: the class's name.
        rival: the other class's name.
        fraction: share of the pixels that are masked.
        before, after: share of the class: p_target / (p_target + p_rival).

    Example:
        >>> masking("weighted GradCAM", "albatross", "fulmar", 0.12, 0.55, 0.81)
        'Masking the 12% of pixels that weighted GradCAM marks against albatross raises its share against fulmar from 0.55 to 0.81.'
    """
    if fraction == 0:
        none = f"{marks[:1].upper()}{marks[1:]} marks no pixel against {target}"
        return f"{none}: nothing is masked, and its share against {rival} stays {before:.2f}."
    first, last = f"{before:.2f}", f"{after:.2f}"
    if first == last:
        does = f"leaves its share against {rival} at {first}"
    else:
        does = f"{'raises' if after > before else 'lowers'} its share against {rival} from {first} to {last}"
    if fraction == 1:
        return f"Masking all of the image, every pixel of which {marks} marks against {target}, {does}."
    return f"Masking the {percent(fraction)} of pixels that {marks} marks against {target} {does}."


def write_photograph(photograph: Photograph, folder: Path) -> Path:
    """Write <folder>/<name>.png, .npz and .json; return the figure's path.

    A name that another photograph's files have already gets a number: -2, -3, ...
    """
    folder.mkdir(parents=True, exist_ok=True)
    image = str(photograph.image.resolve())
    names = chain([photograph.name], (f"{photograph.name}-{number}" for number in count(2)))
    name = next(name for name in names if _image_of(folder / f"{name}.json") in (None, image))
    [figure] = draw.write_figure(photograph_figure(photograph), folder / name, ("png",), DPI)
    records.write(folder / f"{name}.npz", _npz(photograph.picture))
    record = json_values(photograph) | {"files": [figure.name, f"{name}.npz"]}
    records.write(folder / f"{name}.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return figure


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
        "answers": [
            answer for view in picture.raw for answer in (_answer(photograph, view, 0), _answer(photograph, view, 1))
        ],
        **photograph.facts,
    }


def photograph_figure(photograph: Photograph) -> Figure:
    """Draw the photograph and the answer in words; below, for each class and view, the map and the blurred image."""
    picture, plate = photograph.picture, Plate("photo", [photograph.picture])
    method = photograph.views[0].method
    sheet = Sheet([SIDE] * 4, [0.1, 0.3, 0.1])
    sheet.text([Label(photograph.question, bold=True, size=10.5)])
    layer = "" if photograph.layer is None else f" at {photograph.layer}"
    sheet.text([Label(f"{photograph.model} · {photograph.weights} · {method_title(method)}{layer}", "0.3", size=7)])
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
    sheet.text([fine(line) for line in _caption(photograph, plate.in_pixels(method))])
    return sheet.figure()


def _rows(photograph: Photograph) -> list[list[tuple[View, int]]]:
    """Return what stands side by side: the answer and the view against all others, a class a row; else both classes."""
    rows: list[list[tuple[View, int]]] = []
    for contrast in dict.fromkeys(view.contrast for view in photograph.views):
        views = [view for view in photograph.views if view.contrast == contrast]
        cells = [[(view, i) for view in views] for i in (0, 1)]
        rows += cells if len(views) > 1 else [[(views[0], 0), (views[0], 1)]]
    return rows


def _caption(photograph: Photograph, in_pixels: bool) -> list[str]:
    target, rival = photograph.pair
    lines = [
        f"Share of {target}: its probability divided by that of {target} and {rival} together. Masked pixels are blurred.",
        "Maps: red speaks for the class, blue against it, white is zero; a line marks where the sign changes; the maps of both "
        "classes share a scale, centred at zero.",
        "Right of each: its blue pixels are blurred; probabilities are those of the whole softmax. "
        "Red and bold: the class itself, expected to rise; blue: the other, expected to fall.",
    ]
    if in_pixels:
        lines.append(
            f"Maps are summed over the channels and drawn as sums over {draw.BLOCK} × {draw.BLOCK} pixels, colours to the "
            f"{100 * draw.QUANTILE:g} % quantile; what is blurred goes by single pixels."
        )
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


def _npz(picture: Picture) -> bytes:
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
