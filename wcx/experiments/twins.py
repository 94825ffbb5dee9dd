r"""Twins: does a map show the part by which the network tells a class from its foils?

An image's twins show it with some of its parts in their other look, each a class that the network knows. For a question "why t, and
not the foils F?" the network's answer is g(x') = y_t(x') - logsumexp over F of y(x'), and a part's effect its Shapley value in the
game e(S) = g(x) - g(x_S), where x_S is the twin with the parts S swapped: exact, from one forward pass of the image and of each of
its twins (8 for three parts), which serve every map, method, contrast, question and score. A map's numbers a part are compared with
the effects, and its pixels with those that change. Where there are twins of single parts alone, the effect is e of that part.

A record holds, an image, the mean over its questions of a kind: ``score/question/reading``. The scores are those of
`wcx.measures.truth`, the questions those of `_questions.QUESTIONS`, and the readings

    verified   the map under the contrast, over the questions that the network answers by the parts swapped
    all        over all questions that can be asked
    clipped    verified, of max(map, 0)
    others     verified, but the map is the one against all other classes, whatever the question
    own        verified, but the answer is g = v.y, v the cotangent frozen at the image: the contrast's own question
    chance     verified, of random maps at the layer's grid
    centre     verified, of a Gaussian in the middle of the image
    edges      verified, of the image's edges (Sobel)
    ceiling    verified, of the truth itself, painted
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from wcx import contrasts
from wcx.errors import WcxError
from wcx.experiments._answers import Answered
from wcx.experiments._scoring import CellLayout, RandomMaps, Scoring, columns_of, facts
from wcx.experiments.base import Cell, Experiment, Keep, Row, Subject, at_pixels
from wcx.experiments.images import Item, stacked
from wcx.models import precision


@dataclass(frozen=True)
class Settings:
    """The protocol.

    Attributes:
        chance: random maps an image; 0: none.
        align_corners: of the bilinear up-sampling.
        seed: of the random maps.

    Raises:
        WcxError: a value outside of these.
    """

    chance: int = 1000
    align_corners: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if type(self.chance) is not int or self.chance < 0:
            raise WcxError(f"chance = {self.chance!r} is no number of random maps; give a whole number, such as 1000.")


class PartTwins(Experiment):
    """The experiment; `Subject.passes` counts forward, backward and evaluation passes, in images."""

    protocol = Settings
    axes = ("score", "question", "reading")
    needs_twins = True
    means: ClassVar[dict[str, str]] = {
        "asked": "questions of a kind",
        "verified": "of them those that the network answers by the parts swapped",
        "flip": "share of the questions answered for the target that the twin turns",
        "other_part": "share of verified questions in which another part has a larger effect than the one asked for",
    }
    version = 2  # 2: AUROC and average precision of the part's mask, beside the changed pixels

    def __init__(self, subject: Subject, cells: Sequence[Cell], settings: Settings) -> None:
        super().__init__(subject, cells, settings)
        self._random = RandomMaps(settings.chance, settings.align_corners, settings.seed)

    @classmethod
    def columns(cls, settings: Settings, boxes: bool = False) -> list[str]:  # noqa: ARG003
        return ["index", "id", "label", "predicted", "skipped", *facts(), *columns_of(has_chance=settings.chance > 0)]

    @classmethod
    def evaluations(cls, settings: Settings) -> int:  # noqa: ARG003
        """See `Experiment.evaluations`: the image and seven twins."""
        return 8

    def passes(self) -> Counter[str]:
        """See `Experiment.passes`; questions that agree under several contrasts share their backward passes."""
        groups = self.subject.groups()
        names = len({cell.contrast for cell in self.cells})
        return Counter(forward=len(groups), evaluation=8, backward=len(groups) * (1 + 12 * names))

    @torch.no_grad()
    @precision.tf32(allowed=False)
    def rows(self, items: Sequence[Item], most: int | None = None, keep: Keep | None = None) -> dict[Cell, list[Row]]:  # noqa: ARG002
        rows = self.blank(items)
        known = [place for place, item in enumerate(items) if item.pixels is not None and item.twins is not None]
        for start in range(0, len(known), self.subject.batch_size):
            batch = known[start : start + self.subject.batch_size]
            for place, columns in zip(batch, self._batch([items[place] for place in batch]), strict=True):
                for number, cell in enumerate(self.cells):
                    rows[cell][place] |= {name: float(values[number]) for name, values in columns.items()}
                    rows[cell][place]["predicted"] = int(columns["predicted"][number])
        return rows

    def _batch(self, items: Sequence[Item]) -> Iterator[dict[str, Tensor]]:
        """Yield for each image its columns, a number a cell, (cells,) each."""
        pixels = stacked(items).to(self.subject.device)
        look = self.subject.look(pixels)
        answered = self.answered(items)
        v, index = self._cotangents(look.logits, answered)
        maps = look.attributions(v)
        side = pixels.shape[-2:]
        methods, names = list(self.subject.methods), list(dict.fromkeys(cell.contrast for cell in self.cells))
        layout = CellLayout(
            [methods.index(cell.method) for cell in self.cells],
            [names.index(cell.contrast) for cell in self.cells],
            [tuple(maps[name].shape[-2:]) for name in methods],
        )
        for i, image in enumerate(answered):
            large = [at_pixels(maps[name][:, i : i + 1], side, self.settings.align_corners) for name in methods]
            flat = torch.stack([phi[:, 0].flatten(1).cpu() for phi in large])
            yield Scoring(image, layout, flat, index[:, i], v[:, i].double().cpu(), self._random).columns()

    @torch.no_grad()
    @precision.tf32(allowed=False)
    def answered(self, items: Sequence[Item]) -> list[Answered]:
        """Return the images with the logits of them and of their twins: the passes that all else is read off."""
        stacks = [torch.cat([i.pixels[None], i.twins.pixels]) for i in items if i.pixels is not None and i.twins]
        pixels = torch.cat(stacks)
        parts = pixels.split(self.subject.batch_size)
        logits = torch.cat([self.subject.evaluation.logits(part.to(self.subject.device)).cpu() for part in parts])
        self.subject.passes["evaluation"] += len(pixels)
        by_image = logits.double().split([len(stack) for stack in stacks])
        return [
            Answered(item.pixels, item.twins, item.label, values)
            for item, values in zip(items, by_image, strict=True)
            if item.pixels is not None and item.twins is not None
        ]

    def _cotangents(self, logits: Tensor, answered: Sequence[Answered]) -> tuple[Tensor, np.ndarray]:
        """Return the distinct cotangents of each image, (U, N, C), and which of them every question has under a contrast.

        Against a single foil most contrasts agree, and `original` has one for all; images of fewer distinct ones repeat theirs.

        Returns:
            v; and the index into U, int (contrasts, N, questions), the questions of an image filled up with its last one.
        """
        count = max(len(image.questions) for image in answered)
        asked = [image.questions + image.questions[-1:] * (count - len(image.questions)) for image in answered]
        targets = torch.tensor([[question.target for question in row] for row in asked]).T
        masks = torch.stack(
            [torch.stack([image.foils(q) for q in row]) for image, row in zip(answered, asked, strict=True)], dim=1
        )
        names, options = dict.fromkeys(cell.contrast for cell in self.cells), self.subject.contrast_options
        where = logits.device
        v = torch.stack(
            [
                contrasts.evaluate(name, logits, targets.to(where), masks.to(where), **options.get(name, {}))
                for name in names
            ]
        )
        distinct = [v[:, :, i].flatten(0, 1).unique(dim=0, return_inverse=True) for i in range(len(answered))]
        most = max(len(rows) for rows, _ in distinct)
        stacked = torch.stack([torch.cat([rows, rows[:1].expand(most - len(rows), -1)]) for rows, _ in distinct], 1)
        index = np.stack([inverse.view(len(names), count).cpu().numpy() for _, inverse in distinct], 1)
        return stacked, index
