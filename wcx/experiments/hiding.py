"""What experiments share that hide pixels and look at the logits (section 5.2.2): which images and pixels, and baselines."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from wcx import contrasts
from wcx.contrasts import Foils
from wcx.errors import WcxError, choose
from wcx.experiments.base import Cell, Experiment, Keep, Row, Subject, at_pixels, blank
from wcx.experiments.images import Item
from wcx.images import BASELINES, drawn_sigma, make_baseline

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
        foils: of the contrasts; None is every other class, an int k the k most probable others.
        seed: of the drawn sigmas.

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
    foils: int | tuple[int, ...] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        choose("select", self.select, ["above", "all"])
        choose("baseline_space", self.baseline_space, ["normalized", "pixel"])
        for name in self.baselines:
            choose("baseline", name, BASELINES)
        if self.targets < 2:
            raise WcxError(f"targets = {self.targets}: the experiment compares classes; give at least 2.")
        if not 0 <= self.threshold < 1:
            raise WcxError(f"threshold = {self.threshold} is no probability; give a number from 0 to below 1.")

    @property
    def ranks(self) -> list[str]:
        """The targets' names: t_1 ... t_k."""
        return [f"t_{i + 1}" for i in range(self.targets)]

    def described(self) -> list[str]:
        """Return the columns of `describe`."""
        scores = [f"{what}_t{i + 1}" for what in "yp" for i in range(self.targets)]
        unmasked = [f"relative_probability_unmasked/{rank}" for rank in self.ranks]
        return ["index", "id", "label", *self.ranks, *scores, "above_threshold", "skipped", *unmasked]

    def describe(self, logits: Tensor, targets: Tensor) -> Row:
        """Return what holds of an image with logits (C,) and targets (k,) for every cell."""
        probabilities = logits.double().softmax(0)
        row: Row = {}
        for i, (rank, t) in enumerate(zip(self.ranks, targets.tolist(), strict=True)):
            row[rank], row[f"y_t{i + 1}"], row[f"p_t{i + 1}"] = t, float(logits[t]), float(probabilities[t])
            row[f"relative_probability_unmasked/{rank}"] = relative_probability(logits, targets, i)
        row["above_threshold"] = row["p_t2"] > self.threshold
        return row

    def foil_masks(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the foils of targets (k, N) as masks (k, N, C)."""
        return contrasts.foil_masks(logits, targets, as_foils(self.foils))

    def replacements(self, index: int, pixels: Tensor, subject: Subject) -> dict[str, Tensor]:
        """Return what the pixels (channels, H, W) of image `index` become under each baseline; each is made once."""
        sigma = drawn_sigma(self.blur_sigma, self.seed, index)
        zero = subject.zero if self.baseline_space == "normalized" else 0.0
        images, kernel = pixels[None], self.blur_kernel
        return {name: make_baseline(name, images, sigma=sigma, kernel=kernel, zero=zero)[0] for name in self.baselines}


class Evaluations:
    """Images waiting for a forward pass that no backward pass follows: at most a batch, across images and cells.

    Args:
        subject: its network, batch size and counts.
        kind: what the passes are called among `Subject.passes`.
    """

    def __init__(self, subject: Subject, kind: str) -> None:
        self._subject, self._kind = subject, kind
        self._waiting: list[tuple[Tensor, Callable[[Tensor], None]]] = []

    def add(self, image: Tensor, take: Callable[[Tensor], None]) -> None:
        """Queue an image (channels, H, W); `take` gets its logits (C,), at the latest with `flush`."""
        self._waiting.append((image, take))
        if len(self._waiting) == self._subject.batch_size:
            self.flush()

    def flush(self) -> None:
        """Do the passes that wait."""
        if not self._waiting:
            return
        with torch.inference_mode():
            logits = self._subject.model(torch.stack([image for image, _ in self._waiting]))
        self._subject.passes[self._kind] += len(self._waiting)
        for row, (_, take) in zip(logits, self._waiting, strict=True):
            take(row)
        self._waiting.clear()


@dataclass(frozen=True)
class Seen:
    """One selected image, before its pixels are hidden.

    Attributes:
        item: the image.
        pixels: (channels, H, W), on the subject's device.
        logits: (C,).
        targets: t_1 ... t_k, (k,).
        foils: of each, masks (k, C).
        maps: of each cell, at the image's size, (k, H, W).
    """

    item: Item
    pixels: Tensor
    logits: Tensor
    targets: Tensor
    foils: Tensor
    maps: Mapping[Cell, Tensor]


class Hiding(Experiment):
    """An experiment on the images above the threshold, whose `Settings` are a `Protocol`.

    A subclass says what it does with an image (`image`). The forward pass that selects is shared by all cells, and so is the
    backward pass per (target, contrast) by all methods of an activation's gradient.
    """

    selects = True
    keeps_maps = True
    hidden: ClassVar[str] = "masked"  # what the passes of images with hidden pixels are called

    def rows(self, items: Sequence[Item], most: int | None = None, keep: Keep | None = None) -> dict[Cell, list[Row]]:
        """See `Experiment.rows`."""
        rows: dict[Cell, list[Row]] = {
            cell: [blank(item) | {"above_threshold": False} for item in items] for cell in self.cells
        }
        readable = [position for position, item in enumerate(items) if item.pixels is not None]
        pending = Evaluations(self.subject, self.hidden)
        for start in range(0, len(readable), self.subject.batch_size):
            positions = readable[start : start + self.subject.batch_size]
            batch = [{cell: rows[cell][position] for cell in self.cells} for position in positions]
            above = self._batch([items[position] for position in positions], batch, pending, most, keep)
            if most is not None:
                most -= above
                if most == 0:
                    last = [p for p in positions if rows[self.cells[0]][p]["above_threshold"]][-1]
                    rows = {cell: column[: last + 1] for cell, column in rows.items()}
                    break
        pending.flush()
        return rows

    @property
    def explained(self) -> Sequence[Cell]:
        """The cells whose maps are needed."""
        return self.cells

    @abstractmethod
    def image(self, seen: Seen, rows: Mapping[Cell, Row], pending: Evaluations) -> None:
        """Queue the versions of one image; its rows are filled when their passes have been done."""

    def explanations(self) -> Counter[str]:
        """Return the forward and backward passes that an image's maps need."""
        groups = self.subject.groups()
        pairs = sum(len({cell.contrast for cell in self.explained if cell.method in group}) for group in groups)
        return Counter(forward=len(groups), backward=self.settings.targets * pairs)

    def plan(self, probe: Sequence[Item], images: int, most: int | None = None) -> dict[str, Any]:
        """See `Experiment.plan`; the probe tells the share of images above the threshold."""
        pixels = torch.stack([item.pixels for item in probe if item.pixels is not None]).to(self.subject.device)
        seconds = self.seconds(probe)
        with torch.no_grad():
            p_t2 = self.subject.model(pixels).softmax(1).topk(2).values[:, 1]
        above = float((p_t2 > self.settings.threshold).double().mean())
        expected = images if self.settings.select == "all" else round(above * images)
        expected = expected if most is None else min(expected, most)
        masked = expected * self.passes()[self.hidden]
        return {
            "above_threshold": f"about {expected} (probe of {len(probe)})",
            "forward_passes": images,
            f"{self.hidden}_passes": f"at most about {masked}",
            "seconds": f"about {(images + masked) * seconds:.0f}",
            "megabytes": f"about {len(self.cells) * images * 0.0006:.1f}",
        }

    def _batch(
        self, items: list[Item], rows: list[dict[Cell, Row]], pending: Evaluations, most: int | None, keep: Keep | None
    ) -> int:
        """Do what there is to do for a batch; return how many images are above the threshold (at most `most`)."""
        pixels = torch.stack([item.pixels for item in items if item.pixels is not None]).to(self.subject.device)
        look = self.subject.look(pixels)
        targets = contrasts.most_probable(look.logits, self.settings.targets)
        selected, above = [], 0
        for i, image in enumerate(rows):
            if most is not None and above == most:
                break
            shared = self.settings.describe(look.logits[i], targets[:, i])
            above += shared["above_threshold"]
            for row in image.values():
                row.update(shared)
            if shared["above_threshold"] or self.settings.select == "all":
                selected.append(i)
        if not selected:
            return above
        foils = self.settings.foil_masks(look.logits, targets)
        maps = look.maps(self.explained, targets, foils)
        for i in selected:
            single = {cell: batch[:, i : i + 1] for cell, batch in maps.items()}
            if keep is not None:
                for cell in self.cells:
                    keep(cell, items[i].index, single[cell][:, 0])
            large = {c: at_pixels(m, pixels.shape, self.settings.align_corners)[:, 0] for c, m in single.items()}
            seen = Seen(items[i], pixels[i], look.logits[i], targets[:, i], foils[:, i], large)
            self.image(seen, rows[i], pending)
        return above


def as_foils(foils: int | tuple[int, ...] | None) -> Foils:
    """Return a setting as `contrasts.foil_masks` takes it: a tuple, from a list in YAML, is a list of class ids."""
    return list(foils) if isinstance(foils, tuple) else foils


def by_sign(attribution: Tensor, kept: str) -> Tensor:
    """Return the mask (H, W) of the pixels of the other sign than what is kept; zeros stay (section 5.2.2)."""
    return attribution < 0 if kept == "positive" else attribution > 0


def by_rank(attribution: Tensor, kept: str, count: int) -> Tensor:
    """Return the mask (H, W) of the `count` lowest ranks (positive kept) or highest (negative kept); ties by index."""
    order = attribution.flatten().argsort(stable=True)
    chosen = order[:count] if kept == "positive" else order[len(order) - count :]
    mask = torch.zeros(len(order), dtype=torch.bool, device=attribution.device)
    mask[chosen] = True
    return mask.reshape(attribution.shape)


def equal_count(pair: Sequence[Tensor], kept: str, n_minus_one: bool) -> int:
    """Return how many pixels all contrasts hide so that none hides more than another (the authors' code).

    Positive kept: the smaller number of positive pixels of the pair. Negative kept: the larger number of negative
    pixels, and one less with `n_minus_one`, as their comparison of ranks has it.
    """
    if kept == "positive":
        return min(int((attribution > 0).sum()) for attribution in pair)
    return max(0, max(int((attribution < 0).sum()) for attribution in pair) - int(n_minus_one))


def relative_probability(logits: Tensor, targets: Tensor, i: int) -> float:
    """Return e^{y_ti} / (e^{y_ti} + e^{y_tj}) for target i (from 0): t_1's rival is t_2, everyone else's t_1.

    As a sigmoid of the difference, in float64: the exponentials themselves may overflow.
    """
    y = logits.double()
    return float(torch.sigmoid(y[targets[i]] - y[targets[int(i == 0)]]))
