"""A photograph's page: what was found about it, and everything that is said of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wcx.experiments.photo import Explained, View
from wcx.report import words
from wcx.report.gallery_layouts import title

MOST = 4  # classes that are named; the last of five is, too
_ORDER = ("asked", "others", "none")  # of the views


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
        target, rival = (self.class_names[index] for index in self.explained.pair)
        return target, rival

    @property
    def in_pixels(self) -> bool:
        """Whether the method goes back to the pixels."""
        return self.explained.layer is None

    @property
    def question(self) -> str:
        """The question that the views with its own classes as foils answer; without such a view, about the class alone."""
        is_asked = any(view.foils == "asked" for view in self.views)
        return f"Why {self.pair[0]}, and {self.foils(0)}?" if is_asked else f"Why {self.pair[0]}?"

    @property
    def views(self) -> list[View]:
        """The views in the order of the figure: those that answer the question, those against all others, the class alone."""
        return sorted(self.explained.answers, key=lambda view: _ORDER.index(view.foils))

    def predictions(self) -> list[tuple[int, str, float]]:
        """Return id, name and probability of the most probable classes, the most probable first."""
        ordered = self.explained.probabilities.sort(descending=True, stable=True)
        top = zip(ordered.indices[: self.top].tolist(), ordered.values.tolist(), strict=False)
        return [(index, self.class_names[index], p) for index, p in top]

    def foils(self, index: int) -> str:
        """Return the classes of the question that the target (`index` = 0) or its rival (1) is contrasted with: "not A or B"."""
        names = [self.class_names[foil] for foil in self.explained.asked(index)]
        if len(names) > MOST + 1:
            names = [*names[:MOST], f"{len(names) - MOST} more"]
        return "not " + " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))

    def label(self, view: View, index: int) -> str:
        """Return what a view explains: "A alone", "A, not B" or "A, against all other classes"."""
        endings = {"none": " alone", "asked": f", {self.foils(index)}", "others": ", against all other classes"}
        return self.pair[index] + endings[view.foils]

    def sentence(self, view: View, index: int = 0) -> str:
        """Return what masking the pixels against the target (`index` = 0) or its rival (1) does, in words."""
        answer = self.explained.answers[view][index]
        before, after = (self.explained.share(index, y) for y in (self.explained.logits, answer.logits))
        marks = f"{view.contrast} {title(self.method)} ({self.label(view, index)})"
        return words.masking(marks, self.pair[index], self.pair[1 - index], answer.masked_fraction, before, after)

    def sentences(self) -> list[str]:
        """Return the sentence about the target in each view, the answer to the question first."""
        return [self.sentence(view) for view in self.views]
