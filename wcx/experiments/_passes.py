"""Hidden images on their way through the network, a full batch a pass, and what is kept of their logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wcx.experiments.base import Cell, Row, Subject


@dataclass
class SeenImages:
    """A batch of selected images whose pixels are hidden; what it keeps until all passes are done is small.

    Attributes:
        rows: of each image, by cell.
        logits: (N, C).
        targets: t_1 ... t_k, (k, N).
        foils: of each, masks (k, N, C).
        cotangents: of contrasts, frozen at the images, (k, N, C), where the experiment wants them.
        columns, facts: of the maps, float64 (N, cells, columns).
        shares: of the pixels that each version hides, (N, M).
        owners: the image of each pass that is done for it, (P,).
        where: for each version and baseline where its values lie: at n those of the clean image n, from N on those of the
            passes, (N, M, B).
        values: what was measured so far, (.., Q) each: first of the clean images, then pass by pass.
        passed: how many passes were done.
    """

    rows: Sequence[Mapping[Cell, Row]]
    logits: Tensor
    targets: Tensor
    foils: Tensor
    cotangents: Mapping[str, Tensor]
    columns: Sequence[str] = ()
    facts: Tensor = field(init=False)
    shares: Tensor = field(init=False)
    owners: Tensor = field(init=False)
    where: Tensor = field(init=False)
    values: list[Tensor] = field(default_factory=list)
    passed: int = 0

    def take(self, measure: Measure, logits: Tensor) -> None:
        """Measure the logits of its next passes, (B, C)."""
        later = self.passed + len(logits)
        self.values.append(measure(self, logits, self.owners[self.passed : later]))
        self.passed = later


Measure = Callable[[SeenImages, Tensor, Tensor], Tensor]  # logits (B, C) of versions of images (B,) -> values (B, Q)


class Evaluations:
    """Hidden images on their way through the network, a full batch a pass, across images and batches of them.

    Args:
        subject: its network, batch size and counts.
        kind: what the passes are called among `Subject.passes`.
        measure: what is kept of the logits.
    """

    def __init__(self, subject: Subject, kind: str, measure: Measure) -> None:
        self._subject, self._kind, self._measure = subject, kind, measure
        self._images = torch.empty(0)  # a batch, written into again and again
        self._filled = 0
        self._waiting: list[tuple[SeenImages, int]] = []  # whose they are, and how many

    def add(self, seen: SeenImages, masks: Tensor, other: Tensor, image: Tensor) -> None:
        """Queue versions of an image.

        Args:
            seen: whose values the logits become.
            masks: 1 where `other` takes the place of the image, 0 elsewhere, (D, 1, H, W).
            other: broadcasts to the image.
            image: prepared for the network, (channels, H, W).
        """
        size = self._subject.batch_size
        if self._images.shape[1:] != image.shape:
            self.flush()
            self._images = image.new_empty(size, *image.shape)
        first = min(len(masks), size - self._filled)
        later = [min(size, len(masks) - start) for start in range(first, len(masks), size)]
        for part in masks.split([first, *later]) if later else [masks]:
            # With weights of 0 and 1 this is exactly torch.where, and on a CPU ten times as fast.
            torch.lerp(image, other, part, out=self._images.narrow(0, self._filled, len(part)))
            self._filled += len(part)
            before = self._waiting.pop()[1] if self._waiting and self._waiting[-1][0] is seen else 0
            self._waiting.append((seen, before + len(part)))
            if self._filled == size:
                self.flush()

    def flush(self) -> None:
        """Do the passes that wait."""
        if not self._filled:
            return
        full = self._filled == len(self._images)
        logits = self._subject.evaluation(self._images if full else self._images[: self._filled])
        self._subject.passes[self._kind] += self._filled
        counts = [count for _, count in self._waiting]
        for (seen, _), part in zip(self._waiting, logits.split(counts) if counts[1:] else [logits], strict=True):
            seen.take(self._measure, part)
        self._filled, self._waiting = 0, []
