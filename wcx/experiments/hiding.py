"""What experiments share that hide pixels and look at the logits (section 5.2.2): which images and pixels, and baselines.

The engine works on batches. What is hidden, which masks are the same, and what comes of the logits are tensors of a batch on its
device; Python reads them three times a batch: who is above the threshold, which passes there are to be done, and the rows.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from wcx import contrasts
from wcx.errors import WcxError, choose
from wcx.experiments._passes import Evaluations, SeenImages
from wcx.experiments._versions import NUMBERS, Plan, Versions, enlarged
from wcx.experiments.base import Cell, Experiment, FoilSetting, Keep, Row, Subject, by_image
from wcx.experiments.images import Item, stacked
from wcx.images import BASELINES, drawn_sigma, replacement, sigma_range
from wcx.methods._masked import MaskedMethod
from wcx.methods._parts import distinct
from wcx.models import precision
from wcx.models.evaluation import PRECISIONS

KEPT = ("positive", "negative")  # features of a class


@dataclass(frozen=True)
class Protocol:
    """Which images, which classes, and what hidden pixels become. Defaults are the paper's reading (docs/protocols.md).

    Attributes:
        targets: k, the k most probable classes are explained: t_1 ... t_k.
        threshold: images with p_t2 above it are selected.
        select: which images passes are spent on: ``above`` the threshold, or ``all``.
        baselines: what hidden pixels become.
        baseline_space: what ``zeros`` is: 0 of the ``normalized`` input (the mean colour), or of a ``pixel`` (black).
        align_corners: of the bilinear up-sampling.
        blur_sigma: in pixels at side 224; a pair is a range, drawn uniformly for each image from its index and `seed`.
        blur_kernel: width in pixels at side 224.
        foils: of the contrasts; None is every other class, an int k the k most probable others, ``confused:k`` the k that the
            network confuses the target with.
        seed: of the drawn sigmas.
        evaluation_precision: of the passes of hidden images: ``float32``, ``tf32`` or ``bfloat16``; `Job` gives the subject
            a network for it. Everything else is float32 without TF32.

    Raises:
        WcxError: a value outside of these.
    """

    targets: int = 2
    threshold: float = 0.1
    select: str = "above"
    baselines: tuple[str, ...] = BASELINES
    baseline_space: str = "normalized"
    align_corners: bool = False
    blur_sigma: float | tuple[float, float] = 15.0
    blur_kernel: int = 101
    foils: FoilSetting = None
    seed: int = 0
    evaluation_precision: str = "float32"

    def __post_init__(self) -> None:
        choose("evaluation_precision", self.evaluation_precision, PRECISIONS)
        choose("select", self.select, ["above", "all"])
        choose("baseline_space", self.baseline_space, ["normalized", "pixel"])
        for name in self.baselines:
            choose("baseline", name, BASELINES)
        if self.targets < 2:
            raise WcxError(f"targets = {self.targets}: the experiment compares classes; give at least 2.")
        sigma_range(self.blur_sigma)
        if not 0 <= self.threshold < 1:
            raise WcxError(f"threshold = {self.threshold} is no probability; give a number from 0 to below 1.")

    @property
    def ranks(self) -> list[str]:
        """The targets' names: t_1 ... t_k."""
        return [f"t_{i + 1}" for i in range(self.targets)]

    def described(self) -> list[str]:
        """Return the columns that hold of an image for every cell."""
        scores, unmasked = self.scores()[: 3 * self.targets], self.scores()[3 * self.targets :]
        return ["index", "id", "label", *scores, "above_threshold", "skipped", *unmasked]

    def scores(self) -> list[str]:
        """Return those that `describe` reads off the logits."""
        scores = [f"{letter}_t{i + 1}" for letter, i in product("yp", range(self.targets))]
        return [*self.ranks, *scores, *(f"relative_probability_unmasked/{rank}" for rank in self.ranks)]

    def describe(self, logits: Tensor, targets: Tensor) -> list[Row]:
        """Return what holds of images with logits (N, C) and targets (k, N) for every cell: one read of the host."""
        y, t = logits.double(), targets.T
        scores = y.gather(1, t)
        table = torch.cat([t, scores, y.softmax(1).gather(1, t), relative_probability(scores)], dim=1)
        rows: list[Row] = [dict(zip(self.scores(), numbers, strict=True)) for numbers in table.tolist()]
        for row in rows:
            if np.isnan(row["p_t2"]):
                raise WcxError("logits hold NaN or infinite values: the weights or the images are damaged; check them.")
            row.update({rank: int(row[rank]) for rank in self.ranks}, above_threshold=row["p_t2"] > self.threshold)
        return rows

    def replacements(self, items: Sequence[Item], pixels: Tensor, subject: Subject) -> list[Tensor]:
        """Return what the pixels (N, channels, H, W) become under each baseline, in a shape that broadcasts to theirs."""
        sigmas = [drawn_sigma(self.blur_sigma, self.seed, item.index) for item in items]
        zero = subject.zero if self.baseline_space == "normalized" else 0.0
        return [replacement(name, pixels, sigmas, self.blur_kernel, zero) for name in self.baselines]


class Hiding(Experiment):
    """An experiment on the images above the threshold, whose `Settings` are a `Protocol`.

    A subclass says which versions of an image there are, and what their logits tell. All cells share the forward pass that
    selects, and all methods of an activation's gradient the backward pass per (target, contrast). Versions that agree share theirs.
    """

    selects = True
    means: ClassVar[dict[str, str]] = {
        "relative_probability_unmasked": "e^y_ti / (e^y_ti + e^y_tj) of the image itself, of a target and its rival",
    }
    keeps_maps = True
    hidden: ClassVar[str] = "masked"  # what the passes of images with hidden pixels are called

    @torch.no_grad()
    @precision.tf32(allowed=False)
    def rows(self, items: Sequence[Item], most: int | None = None, keep: Keep | None = None) -> dict[Cell, list[Row]]:
        rows = self.blank(items, above_threshold=False)
        images = by_image(rows)
        pending = Evaluations(self.subject, self.hidden, self.measure)
        waiting: list[SeenImages] = []
        for places in self.batches(items):
            batch = [images[place] for place in places]
            above, seen = self._batch([items[place] for place in places], batch, pending, most, keep)
            waiting += seen
            if most is not None:
                most -= above
                if most == 0:
                    last = [p for p in places if rows[self.cells[0]][p]["above_threshold"]][-1]
                    rows = {cell: column[: last + 1] for cell, column in rows.items()}
                    break
        pending.flush()
        for seen_images in waiting:
            self._fill(seen_images)
        return rows

    @property
    def explained(self) -> Sequence[Cell]:
        """The cells whose maps are needed: the experiment's own, and others behind them."""
        return self.cells

    @property
    @abstractmethod
    def versions(self) -> Sequence[tuple[int, int]]:
        """The versions of an image: for each its field and sign, see `Versions`."""

    @abstractmethod
    def fields(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the fields (n, F, H, W) and bounds (n, M), integers, of maps (explained, k, n, H, W); see `Versions`."""

    @abstractmethod
    def measure(self, seen: SeenImages, logits: Tensor, images: Tensor) -> Tensor:
        """Return what is kept of logits (B, C) of versions of `images` (B,), (B, Q)."""

    @abstractmethod
    def measured(self, seen: SeenImages, clean: Tensor, values: Tensor) -> tuple[list[str], Tensor]:
        """Return columns, and their numbers (N, cells, columns).

        Args:
            seen: the images.
            clean: what `measure` returned for the images themselves, (N, Q).
            values: and for their versions, (N, M, B, Q).
        """

    def facts(self, maps: Tensor, items: Sequence[Item]) -> tuple[list[str], Tensor]:  # noqa: ARG002
        """Return columns, and what maps (explained, k, n, H, W) tell by themselves, float64 (n, cells, columns)."""
        return [], torch.empty(len(items), len(self.cells), 0, dtype=torch.float64, device=self.subject.device)

    def frozen(self, logits: Tensor, targets: Tensor, foils: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        """Return the cotangents (k, N, C) that `measure` wants, by contrast."""
        return {}

    def explanations(self) -> Counter[str]:
        """Return the forward and backward passes that an image's maps need."""
        groups, backward = self.subject.groups(), 0
        for group, name in product(groups, dict.fromkeys(cell.contrast for cell in self.explained)):
            asked = [cell.method for cell in self.explained if cell.contrast == name and cell.method in group]
            backward += len(distinct(group[method] for method in asked))
        masked = [method for method in self.subject.methods.values() if isinstance(method, MaskedMethod)]
        versions = Counter(versions=sum(1 + method.count(224, 224) for method in masked))
        return Counter(forward=len(groups), backward=self.settings.targets * backward) + versions

    def plan(self, probe: Sequence[Item], images: int, most: int | None = None) -> dict[str, Any]:
        """See `Experiment.plan`; the probe tells the share of images above the threshold."""
        seconds, later = self.seconds(probe), self.timed(self.subject.evaluation.logits, probe)
        with torch.no_grad():
            p_t2 = self.subject.model(stacked(probe).to(self.subject.device)).softmax(1).topk(2).values[:, 1]
        above = float((p_t2 > self.settings.threshold).double().mean())
        expected = images if self.settings.select == "all" else round(above * images)
        expected = expected if most is None else min(expected, most)
        masked = expected * self.passes()[self.hidden]
        versions = expected * self.explanations()["versions"]
        return {
            "above_threshold": f"about {expected} (probe of {len(probe)})",
            "forward_passes": images,
            f"{self.hidden}_passes": f"at most about {masked}",
            **({"versions_passes": f"about {versions}"} if versions else {}),
            "seconds": f"about {images * seconds + (masked + versions) * later:.0f}",
            "megabytes": f"about {len(self.cells) * images * 0.0006:.1f}",
        }

    def _batch(
        self, items: list[Item], rows: list[dict[Cell, Row]], pending: Evaluations, most: int | None, keep: Keep | None
    ) -> tuple[int, list[SeenImages]]:
        """Do what there is to do for a batch; return how many images are above the threshold (at most `most`), and those seen."""
        pixels = stacked(items).to(self.subject.device)
        look = self.subject.look(pixels)
        targets = contrasts.most_probable(look.logits, self.settings.targets)
        selected, above = [], 0
        for i, shared in enumerate(self.settings.describe(look.logits, targets)):
            if most is not None and above == most:
                break
            above += shared["above_threshold"]
            for row in rows[i].values():
                row.update(shared)
            if shared["above_threshold"] or self.settings.select == "all":
                selected.append(i)
        if not selected:
            return above, []
        foils = self.subject.foil_masks(look.logits, targets, self.settings.foils)
        index = torch.tensor(selected, device=pixels.device) if len(selected) < len(items) else slice(None)
        maps = look.maps(self.explained, targets, foils, None if isinstance(index, slice) else index)
        if keep is not None:
            for cell, (place, i) in product(self.cells, enumerate(selected)):
                keep(cell, items[i].index, maps[cell][:, place])
        cotangents = {name: v[:, index] for name, v in self.frozen(look.logits, targets, foils).items()}
        targets, foils, of_selected = targets[:, index], foils[:, index], [rows[i] for i in selected]
        seen = SeenImages(of_selected, look.logits[index], targets, foils, cotangents)
        self._hide(seen, [items[i] for i in selected], pixels[index], [maps[cell] for cell in self.explained], pending)
        return above, [seen]

    def _hide(
        self, seen: SeenImages, items: Sequence[Item], pixels: Tensor, maps: Sequence[Tensor], pending: Evaluations
    ) -> None:
        """Queue every distinct version of selected images, with the maps (k, N, ...) of what is explained."""
        versions = self._versions(seen, items, pixels, maps)
        codes, counts = (numbers.view(len(items), -1) for numbers in versions.codes())
        # The first version of the same code; and the plan, which takes the one read of the host.
        first = (codes[:, :, None] == codes[:, None]).byte().argmax(2)
        table = np.array(torch.stack([first, counts]).tolist())
        plan = Plan(table[0], table[1], len(self.settings.baselines), self.subject.batch_size)
        chosen, seen.owners, seen.where = (torch.from_numpy(part).to(pixels.device) for part in plan.tables())
        seen.shares = counts.double() / pixels[0, 0].numel()
        seen.values.append(self.measure(seen, seen.logits, torch.arange(len(items), device=pixels.device)))

        network = self.subject.evaluation
        baselines = list(map(network.prepare, self.settings.replacements(items, pixels, self.subject)))
        by_image = [[base[i % len(base)] for base in baselines] for i in range(len(items))]  # one, or one an image
        parts = versions.chosen(chosen).split(plan.distinct.sum(1).tolist())
        for image, of_image, replaced in zip(network.prepare(pixels).unbind(), parts, by_image, strict=True):
            for piece in of_image.pieces(self.subject.batch_size):
                masks = piece.masks(image.dtype)
                for baseline in replaced:
                    pending.add(seen, masks, baseline, image)

    def _versions(self, seen: SeenImages, items: Sequence[Item], pixels: Tensor, maps: Sequence[Tensor]) -> Versions:
        """Return all versions of images, and note the facts of their maps."""
        side = (pixels.shape[-2], pixels.shape[-1])
        size = max(1, NUMBERS // (len(maps) * self.settings.targets * side[0] * side[1]))
        parts = []
        for start, large in zip(
            range(0, len(items), size), enlarged(maps, side, self.settings.align_corners, size), strict=True
        ):
            seen.columns, facts = self.facts(large, items[start : start + size])
            parts.append((*self.fields(large), facts))
        fields, bounds, seen.facts = (torch.cat(part) for part in zip(*parts, strict=True))
        return Versions.of(fields, bounds, self.versions)

    def _fill(self, seen: SeenImages) -> None:
        """Fill the rows of images whose passes have all been done."""
        table = torch.cat(seen.values)
        names, numbers = self.measured(seen, table[: len(seen.logits)], table[seen.where])
        columns, all_numbers = [*seen.columns, *names], torch.cat([seen.facts, numbers], dim=2).tolist()
        for rows, cells in zip(seen.rows, all_numbers, strict=True):
            for cell, values in zip(self.cells, cells, strict=True):
                rows[cell].update(zip(columns, values, strict=True))


def relative_probability(scores: Tensor) -> Tensor:
    """Return e^{y_ti} / (e^{y_ti} + e^{y_tj}) of the logits of t_1 ... t_k, (..., k): of the same shape, float64.

    t_1's rival is t_2, everyone else's t_1. As a sigmoid of the difference: the exponentials themselves may overflow.
    """
    y = scores.double()
    return torch.sigmoid(y - torch.cat([y[..., 1:2], y[..., :1].expand(*y.shape[:-1], y.shape[-1] - 1)], dim=-1))
