"""A photograph's answer in words: the question, and what masking the pixels against a class does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from wcx.experiments.pictures import Picture, View
from wcx.report.pictures.plate import method_title, percent

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
        strongest: the share of the pixels against a class that is blurred.
        scale: what shares a colour scale, see `Plate`.
        style: ``colour`` or ``print``, see `Plate`.
    """

    image: Path
    picture: Picture
    model: str
    weights: str
    layer: str | None
    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    strongest: float = 1.0
    scale: str = "contrast"
    style: str = "colour"

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

    @property
    def source(self) -> str:
        """Network, weights, method and layer."""
        layer = "" if self.layer is None else f" at {self.layer}"
        return f"{self.model} · {self.weights} · {method_title(self.views[0].method)}{layer}"

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
        numbers = self.fraction(view, i), *self.shares(view, i), self.strongest
        return masking(marks, self.pair[i], self.pair[1 - i], *numbers)

    def sentences(self) -> list[str]:
        """Return the sentence about the target in each view, the answer to the question first."""
        return [self.sentence(view) for view in self.views]

    def fraction(self, view: View, i: int) -> float:
        """Return the share of the pixels that are blurred."""
        return float(self.picture.hidden[view].share[i])


def masking(
    marks: str, target: str, rival: str, fraction: float, before: float, after: float, strongest: float = 1.0
) -> str:
    """Return one sentence on what masking the pixels against a class does to its share against another.

    Args:
        marks: contrast and method, e.g. "weighted GradCAM".
        fraction: share of the pixels that are masked.
        before, after: share of the class: p_target / (p_target + p_rival).
        strongest: the share of the pixels marked that is masked.

    Example:
        >>> masking("weighted GradCAM", "albatross", "fulmar", 0.12, 0.55, 0.81)
        'Masking the 12% of pixels that weighted GradCAM marks against albatross raises its share against fulmar from 0.55 to 0.81.'
    """
    if strongest == 0:
        return f"Nothing is masked, and the share of {target} against {rival} stays {before:.2f}."
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
    most = " most strongly" if strongest < 1 else ""
    return f"Masking the {percent(fraction)} of pixels that {marks} marks{most} against {target} {does}."
