"""The questions that are asked of an image with twins: why this class and not those, where the parts that differ are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from wcx.datasets.twins import TwinImages

QUESTIONS = {
    "q1": "the foil differs in one part",
    "q2": "the foil differs in two or three parts",
    "q3": "two foils in turn, each differs in another part: both right",
    "q4_siblings": "against all siblings",
    "q4_all": "against all other classes",
    "q4_pairs": "against two siblings at once, which differ in one part each",
    "q5": "the network is wrong: why the predicted class and not the true one",
}
PAIRS = "q3"  # made of two questions of q1


@dataclass(frozen=True)
class TwinQuestion:
    """Why the target, and not the foils?

    Attributes:
        kind: of `QUESTIONS`.
        target: class.
        foils: classes; () stands for all others.
        swapped: the parts in which target and foils differ.
    """

    kind: str
    target: int
    foils: tuple[int, ...]
    swapped: frozenset[str]

    @property
    def is_single(self) -> bool:
        """Whether it is of two classes, whose twin shows all that tells them apart."""
        return self.kind in ("q1", "q2")


def questions(twins: TwinImages, label: int, predicted: int) -> list[TwinQuestion]:
    """Return the questions of an image; the last but those of kind q5 is against all other classes.

    Those of several foils, and of mistakes, are asked where there is a twin for each set of parts.
    """
    classes = dict(zip(twins.swaps, twins.labels, strict=True))
    visible = _visible(twins)
    single = [(next(iter(s)), c) for s, c in classes.items() if len(s) == 1]
    asked = [TwinQuestion("q1", label, (c,), frozenset({part})) for part, c in single if part in visible]
    every = frozenset(twins.varying)
    if is_complete(twins):
        asked += [TwinQuestion("q2", label, (c,), s) for s, c in classes.items() if len(s) > 1]
        asked += [
            TwinQuestion("q4_pairs", label, (c, d), frozenset({k, j})) for (k, c), (j, d) in combinations(single, 2)
        ]
        asked.append(TwinQuestion("q4_siblings", label, tuple(twins.labels), every))
        mistaken = next((s for s, c in classes.items() if c == predicted), None)
        if mistaken is not None:
            asked.append(TwinQuestion("q5", predicted, (label,), mistaken))
    return [*asked, TwinQuestion("q4_all", label, (), every)]


def is_complete(twins: TwinImages) -> bool:
    """Return whether there is a twin for each set of parts, so that questions of several foils have an answer."""
    return len(twins.swaps) == (1 << len(twins.varying)) - 1


def pairs(asked: Sequence[TwinQuestion]) -> Iterator[tuple[int, int]]:
    """Yield the places of the questions that q3 is made of, two by two."""
    yield from combinations([place for place, question in enumerate(asked) if question.kind == "q1"], 2)


def _visible(twins: TwinImages) -> set[str]:
    """Return the parts that are seen, in the image or in their other look."""
    seen = (twins.regions | twins.outlines).sum((1, 2)) >= twins.visible_from
    return {part for part, is_seen in zip(twins.parts, seen.tolist(), strict=True) if is_seen}
