"""The answers of an image's twins: what its pixels are put together from, and the truth of each question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from wcx.datasets.twins import TwinImages
from wcx.experiments._games import log_odds, shapley
from wcx.experiments._questions import TwinQuestion, is_complete, questions
from wcx.measures.truth import Truth

Value = Callable[[Tensor], Tensor]  # logits (..., C) -> values (...,)


@dataclass
class Answered:
    """An image whose twins went through the network.

    Attributes:
        pixels: of the image itself, (channels, H, W).
        twins: the image's.
        label: its class.
        logits: of the image and of its twins, float64 (1 + S, C).
    """

    pixels: Tensor
    twins: TwinImages
    label: int
    logits: Tensor

    @cached_property
    def questions(self) -> list[TwinQuestion]:
        """What is asked of it; the last is against all other classes."""
        return questions(self.twins, self.label, int(self.logits[0].argmax()))

    @property
    def is_complete(self) -> bool:
        """Whether there is a twin for each set of parts, so that questions of several foils have an answer."""
        return is_complete(self.twins)

    @cached_property
    def _codes(self) -> tuple[Tensor, Tensor]:
        """Return the cell of each pixel (H W,), and of each cell its part or -1, who is outlined there, which twins differ."""
        twins = self.twins
        differs = (twins.pixels - self.pixels).abs().amax(1) > twins.tolerance + 1e-6
        part = torch.where(twins.regions.any(0), twins.regions.byte().argmax(0), -1)
        facts = torch.cat([part[None], twins.outlines.long(), differs.long()]).flatten(1)
        kinds, cells = facts.unique(dim=1, return_inverse=True)
        return cells, kinds

    @property
    def cells(self) -> Tensor:
        """The cell of each pixel, (H W,)."""
        return self._codes[0]

    @cached_property
    def sizes(self) -> Tensor:
        """Pixels of each cell, float64 (A,)."""
        return torch.bincount(self.cells).double()

    def foils(self, question: TwinQuestion) -> Tensor:
        """Return the foils of a question as a mask (C,)."""
        mask = torch.zeros(self.logits.shape[1], dtype=torch.bool)
        mask[list(question.foils) if question.foils else slice(None)] = True
        mask[question.target] = False
        return mask

    def log_odds(self, question: TwinQuestion) -> Value:
        """Return the answer that all maps of a question are compared with: y_t - logsumexp over the foils."""
        foils = self.foils(question)
        return lambda logits: log_odds(logits, question.target, foils)

    def verified(self, question: TwinQuestion) -> tuple[bool, bool]:
        """Return whether the network answers a question for the target, and whether it does no more once the parts are swapped."""
        if question.kind.startswith("q4"):
            correct = int(self.logits[0].argmax()) == self.label
            return correct, correct
        if question.kind == "q5":
            return True, True
        g = self.log_odds(question)(self.logits)
        place = 1 + self.twins.swaps.index(question.swapped)
        return bool(g[0] > 0), bool(g[place] < 0)

    def truth(self, question: TwinQuestion, value: Value | None = None) -> Truth:
        """Return the truth of a question.

        Args:
            question: one of the image's.
            value: the answer as a function of the logits, where it is not the log-odds.
        """
        values = (value or self.log_odds(question))(self.logits)
        sets = [frozenset[str](), *self.twins.swaps]
        effects_of = shapley(dict(zip(sets, values, strict=True)), self.twins.varying)
        effects = torch.tensor([float(effects_of.get(part, 0.0)) for part in self.twins.parts], dtype=torch.float64)
        swapped = self._flags(question.swapped)
        members = self._members(swapped)
        candidates = (self.sizes @ members) >= self.twins.visible_from
        if question.kind.startswith("q4"):
            candidates &= self._flags(self.twins.varying)
        changed = self._changed(question)
        mask = torch.isin(self._codes[1][0], swapped.nonzero()[:, 0])
        right: int | None = None
        if question.kind == "q1":
            right = self.twins.parts.index(next(iter(question.swapped)))
        elif question.kind != "q5" and bool(candidates.any()):
            right = int(effects.masked_fill(~candidates, -torch.inf).argmax())
        return Truth(
            effects,
            candidates,
            swapped,
            right,
            members,
            changed,
            mask,
            self.sizes,
            self._pixels(changed),
            self._pixels(mask),
        )

    def regions(self, swapped: frozenset[str]) -> dict[str, Tensor]:
        """Return the region of each visible part, bool (H, W), in a question about `swapped` parts."""
        members = self._members(self._flags(swapped))
        shown = members.bool()[self.cells].T.view(-1, *self.pixels.shape[-2:])
        areas = self.sizes @ members
        return {
            part: region
            for part, region, area in zip(self.twins.parts, shown, areas, strict=True)
            if area >= self.twins.visible_from
        }

    def _flags(self, parts: Sequence[str] | frozenset[str]) -> Tensor:
        return torch.tensor([part in parts for part in self.twins.parts])

    def _members(self, swapped: Tensor) -> Tensor:
        """Return which cells make up each part, float64 (A, R): its visible pixels, and its outline where it is swapped.

        A pixel that shows a swapped part is that part's; one that another will show belongs to the first that does.
        """
        kinds = self._codes[1]
        part, outlined = kinds[0], kinds[1 : 1 + len(swapped)].T.bool() & swapped
        shown = torch.nn.functional.one_hot(part + 1, len(swapped) + 1)[:, 1:].bool()
        taken = outlined.any(1) & ~(shown & swapped).any(1)
        first = torch.nn.functional.one_hot(outlined.byte().argmax(1), len(swapped)).bool()
        return torch.where(taken[:, None], first, shown).double()

    def _changed(self, question: TwinQuestion) -> Tensor:
        """Return the cells, bool (A,), in which the image and its twin of the question differ."""
        if question.swapped not in self.twins.swaps:
            return torch.zeros(len(self.sizes), dtype=torch.bool)
        return self._codes[1][1 + len(self.twins.parts) + self.twins.swaps.index(question.swapped)].bool()

    def _pixels(self, chosen: Tensor) -> Tensor:
        """Return the pixels of cells that are chosen, bool (A,), as indices into the flat image, int64 (n,)."""
        return chosen[self.cells].nonzero()[:, 0]
