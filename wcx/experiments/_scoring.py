"""One image's numbers in the experiment twins: its maps against the truth of each of its questions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn

from wcx.experiments._answers import Answered
from wcx.experiments._questions import PAIRS, QUESTIONS, TwinQuestion, pairs
from wcx.explainer import upsample
from wcx.measures import truth as scores
from wcx.measures.truth import Readings, Truth, TruthScore

CONTROLS = ("centre", "edges")  # maps that know nothing of the network
READINGS = ("verified", "all", "clipped", "others", "own", "chance", *CONTROLS, "ceiling")
SCORES: list[TruthScore] = [scores.get(name)() for name in scores.names()]
_PAINTED = {name: kind for score in SCORES for name, kind in zip(score.columns, score.painted, strict=True)}
_OWN = ("top_effect", "tau_mean", "sign")  # what is read of a contrast's own question
_BOTH = ("top_mean", "top_sum")  # what can be right for both of two foils
_KINDS = ("mean", "sum", "changed", "mask")
Grid = tuple[int, ...]


def columns_of(has_chance: bool) -> list[str]:
    """Return the columns ``score/question/reading`` of a record."""
    readings = [reading for reading in READINGS if has_chance or reading != "chance"]
    return [f"{name}/{q}/{r}" for r, q in product(readings, QUESTIONS) for name in _names(q, r)]


def facts() -> list[str]:
    """Return the columns ``fact/question``: what holds of an image whatever the map.

    ``asked`` and ``verified`` count questions; ``flip`` is the share of those answered for the target that the twin turns;
    ``other_part`` the share of verified ones in which the effect of another part is larger than that of the part asked for.
    """
    counts = [f"{fact}/{question}" for fact, question in product(("asked", "verified"), QUESTIONS)]
    return [*counts, "flip/q1", "flip/q2", "other_part/q1"]


@dataclass(frozen=True)
class CellLayout:
    """How the cells of a table lie in what is computed for all.

    Attributes:
        method: of each cell, a place among the methods.
        contrast: of each cell, a place among the contrasts.
        grids: height and width of each method's maps.
    """

    method: Sequence[int]
    contrast: Sequence[int]
    grids: Sequence[Grid]


@dataclass
class RandomMaps:
    """Normal numbers at a grid, up-sampled to the image: the same maps for every image, whose parts lie elsewhere.

    Attributes:
        count: how many.
        align_corners: of the bilinear up-sampling.
        seed: of the numbers.
    """

    count: int
    align_corners: bool
    seed: int
    _kept: dict[tuple[Grid, Grid], Readings] = field(default_factory=dict)

    def at(self, grid: Grid, side: Grid) -> Readings:
        """Return the maps of a grid (h, w) at the size (H, W), ranked; their cells are to be cut."""
        if (grid, side) not in self._kept:
            generator = torch.Generator().manual_seed(self.seed)
            draws = torch.randn(self.count, *grid, generator=generator)
            maps = upsample(draws, (side[0], side[1]), self.align_corners).flatten(1)
            self._kept[grid, side] = Readings.of(maps, torch.zeros(maps.shape[1], dtype=torch.long)).rank()
        return self._kept[grid, side]


def centre(pixels: Tensor) -> Tensor:
    """Return a Gaussian in the middle of an image (channels, H, W), a quarter of its side wide: (H, W)."""
    y, x = (torch.linspace(-2, 2, size) for size in pixels.shape[-2:])
    return torch.exp(-(y[:, None] ** 2 + x**2) / 2)


def edges(pixels: Tensor) -> Tensor:
    """Return the length of the Sobel gradient of an image's mean over channels (channels, H, W): (H, W)."""
    grey = nn.functional.pad(pixels.float().mean(0, keepdim=True)[None], (1, 1, 1, 1), mode="replicate")
    kernel = torch.tensor([[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]])
    slopes = nn.functional.conv2d(grey, torch.stack([kernel, kernel.T])[:, None])[0]
    return torch.hypot(slopes[0], slopes[1])


class Scoring:
    """The scores of an image's maps.

    Args:
        image: with its answers.
        layout: of the cells.
        maps: of each method under U cotangents, (methods, U, H W).
        index: which of the U a question has under a contrast, int (contrasts, questions); the last is against all others.
        v: the cotangents, (U, C), float64.
        random: for chance.
    """

    def __init__(
        self, image: Answered, layout: CellLayout, maps: Tensor, index: np.ndarray, v: Tensor, random: RandomMaps
    ) -> None:
        self._image, self._layout, self._v, self._random = image, layout, v, random
        rows = np.array(layout.method)[:, None] * len(v) + index[list(layout.contrast)]
        self._rows, self._index = torch.from_numpy(rows), index  # (cells, questions)
        flat = maps.flatten(0, 1).float()
        self._clipped = len(flat)  # rows of the clipped maps come so much later
        self._readings = Readings.of(torch.cat([flat, flat.clamp(min=0)]), image.cells)
        self._readings.sort()  # once for all questions
        self._controls = Readings.of(torch.stack([centre(image.pixels), edges(image.pixels)]).flatten(1), image.cells)
        self._drawn: dict[Grid, Readings] = {}
        self._values: dict[str, list[Tensor]] = defaultdict(list)  # (cells,) for each question
        self._credits: dict[str, dict[int, Tensor]] = defaultdict(dict)  # of q1, whose pairs are q3

    def columns(self) -> dict[str, Tensor]:
        """Return the columns, float64 (cells,) each: means over the questions of a kind."""
        asked = self._image.questions
        verified = [all(self._image.verified(question)) for question in asked]
        for place, question in enumerate(asked):
            if question.kind != "q4_all" or self._image.is_complete:
                self._score(place, question, verified[place])
        self._score_pairs(asked, verified)
        shared = {"predicted": float(self._image.logits[0].argmax())} | self._facts(asked, verified)
        columns = {name: torch.stack(values).nanmean(0) for name, values in self._values.items()}
        return columns | {name: torch.full((len(self._rows),), number) for name, number in shared.items()}

    def _score(self, place: int, question: TwinQuestion, is_verified: bool) -> None:
        """Score the maps of one question in every reading."""
        truth, rows = self._image.truth(question), self._rows[:, place]
        readings = {"all": rows}
        if is_verified:
            readings |= {"verified": rows, "clipped": rows + self._clipped, "others": self._rows[:, -1]}
        distinct, inverse = torch.stack([*readings.values()]).unique(return_inverse=True)
        for name, values in _scored(self._readings.take(distinct), truth, question):
            for reading, order in zip(readings, inverse, strict=True):
                self._note(name, place, question, reading, values[order, None])
        if is_verified:
            self._score_own(place, question)
            for name, values in _scored(self._controls, truth, question):
                for control, value in zip(CONTROLS, values, strict=True):
                    self._note(name, place, question, control, value.expand(len(self._rows), 1))
            self._score_ceiling(place, question, truth)
            if self._random.count:
                self._score_chance(place, question, truth)

    def _score_own(self, place: int, question: TwinQuestion) -> None:
        """Score each contrast's maps against the effects on its own v.y."""
        whole = {name: torch.full((len(self._rows), 1), torch.nan, dtype=torch.float64) for name in _OWN}
        cotangents = self._index[list(self._layout.contrast), place]  # of each cell
        for number in set(cotangents.tolist()):  # contrasts of the same cotangent ask the same
            truth = self._image.truth(question, partial(torch.matmul, other=self._v[number]))
            cells = np.flatnonzero(cotangents == number)
            for name, values in _scored(self._readings.take(self._rows[cells, place]), truth, question):
                if name in whole:
                    whole[name][cells, 0] = values
        for name, values in whole.items():
            self._note(name, place, question, "own", values)

    def _score_ceiling(self, place: int, question: TwinQuestion, truth: Truth) -> None:
        """Score the truth itself, painted as each score has it."""
        painted = torch.stack([truth.painted(kind) for kind in _KINDS])
        sums = painted * truth.sizes
        readings = Readings(sums, sums.clamp(min=0), painted[:, self._image.cells].float())
        for name, values in _scored(readings, truth, question):
            ceiling = values[_KINDS.index(_PAINTED[name])]
            self._note(name, place, question, "ceiling", ceiling.expand(len(self._rows), 1))

    def _score_chance(self, place: int, question: TwinQuestion, truth: Truth) -> None:
        """Score random maps at the grid of each cell's method."""
        side = tuple(self._image.pixels.shape[-2:])
        by_grid = {}
        for grid in set(self._layout.grids):
            if grid not in self._drawn:
                self._drawn[grid] = self._random.at(grid, side).recut(self._image.cells)
            by_grid[grid] = dict(_scored(self._drawn[grid], truth, question))
        for name in next(iter(by_grid.values())):
            draws = [by_grid[self._layout.grids[method]][name] for method in self._layout.method]
            self._note(name, place, question, "chance", torch.stack(draws))

    def _score_pairs(self, asked: Sequence[TwinQuestion], verified: Sequence[bool]) -> None:
        """Score q3: right for both of two foils; random maps are others for the second foil."""
        for (first, second), (column, credits) in product(pairs(asked), list(self._credits.items())):
            name, reading = column.split("/")
            if reading == "all" or (verified[first] and verified[second]):
                both = credits[first] * credits[second].roll(1, dims=1)
                self._values[f"{name}/{PAIRS}/{reading}"].append(both.nanmean(1))

    def _note(self, name: str, place: int, question: TwinQuestion, reading: str, values: Tensor) -> None:
        """Keep the values of a question, (cells, draws), if they stand in a column."""
        if name in _names(question.kind, reading):
            self._values[f"{name}/{question.kind}/{reading}"].append(values.nanmean(1))
        if question.kind == "q1" and name in _names(PAIRS, reading):
            self._credits[f"{name}/{reading}"][place] = values

    def _facts(self, asked: Sequence[TwinQuestion], verified: Sequence[bool]) -> dict[str, float]:
        """Return the columns of `facts`."""
        numbers: dict[str, list[float]] = {name: [] for name in facts()}
        for question, is_verified in zip(asked, verified, strict=True):
            if question.kind == "q4_all" and not self._image.is_complete:
                continue
            numbers[f"asked/{question.kind}"].append(1)
            numbers[f"verified/{question.kind}"].append(is_verified)
            if question.is_single:
                before, turned = self._image.verified(question)
                numbers[f"flip/{question.kind}"] += [float(turned)] if before else []
            if question.kind == "q1" and is_verified:
                truth = self._image.truth(question)
                numbers["other_part/q1"].append(float(int(truth.effects.argmax()) != truth.right))
        for first, second in pairs(asked):
            numbers[f"asked/{PAIRS}"].append(1)
            numbers[f"verified/{PAIRS}"].append(verified[first] and verified[second])
        shares = ("flip", "other_part")
        return {
            name: (float(np.mean(values)) if values else np.nan) if name.startswith(shares) else float(sum(values))
            for name, values in numbers.items()
        }


def _scored(readings: Readings, truth: Truth, question: TwinQuestion) -> Iterator[tuple[str, Tensor]]:
    """Yield the scores of a question's maps by their names, (K,) each."""
    for score in SCORES:
        if _fits(score, question.kind) and (truth.right is not None or not score.needs_right):
            yield from zip(score.columns, score(readings, truth).T, strict=True)


def _fits(score: TruthScore, kind: str) -> bool:
    """Return whether a score is of questions of a kind."""
    return not (score.needs_pixels and kind not in ("q1", "q2")) and not (score.needs_right and kind == "q5")


def _names(kind: str, reading: str) -> list[str]:
    """Return the scores of a kind of questions that stand in a record's columns, under one reading."""
    if kind == PAIRS:
        return [] if reading == "own" else [*_BOTH]
    names = [name for score in SCORES if _fits(score, kind) for name in score.columns]
    if reading == "own":
        return [name for name in names if name in _OWN and kind != "q5"]
    if reading == "others":
        names = names if kind in ("q1", "q2") else []
    if kind == "q5":
        names = names if reading != "all" else []
    return [name for name in names if name != "top_effect" or kind == "q1"]  # elsewhere it is top_mean


__all__ = ["CONTROLS", "READINGS", "CellLayout", "RandomMaps", "Scoring", "centre", "columns_of", "edges", "facts"]
