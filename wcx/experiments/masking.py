"""The masking experiment (section 5.2.2, Table 1): keep the positive or the negative features of a class, and look at its share.

One engine for any number of cells (method, contrast) at once, with no pass done twice:

- one forward pass an image, shared by all cells;
- one backward pass through the head per (target, contrast), shared by all activation methods;
- one forward pass per *distinct* masked image: masks that agree (max: t1-positive and t2-negative) share theirs, and a mask that
  hides nothing costs none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from wcx import baselines, contrasts
from wcx.errors import WcxError, choose
from wcx.experiments.items import Item
from wcx.explainer import Explainer, upsample
from wcx.methods.activation import ActivationMethod, ActivationRun

VERSION = 1  # part of the fingerprint: raise it with every change that may change a number
KEPT = ("positive", "negative")
MASKS = ("sign",)


class Cell(NamedTuple):
    """One cell of the table: names as on the command line."""

    method: str
    contrast: str


@dataclass(frozen=True)
class Settings:
    """The protocol. Defaults are the paper's reading (docs/protocols.md).

    Attributes:
        targets: k, the k most probable classes are explained: t_1 ... t_k.
        threshold: images with p_t2 above it are selected.
        select: which images masked passes are spent on: ``above`` the threshold, or ``all``.
        mask: ``sign``: keeping positive features masks the pixels of negative attribution, and the other way round; zeros stay.
        baselines: what masked pixels become.
        baseline_space: what ``zeros`` means: 0 of the ``normalized`` input (the mean colour), or of the ``pixel``s (black).
        align_corners: of the bilinear up-sampling.
        blur_sigma: in pixels at side 224; a pair is a range, drawn uniformly for each image from its index and `seed`.
        blur_kernel: width in pixels at side 224.
        foils: of the contrasts; None is every other class, an int k the k most probable others.
        seed: of the drawn sigmas.
    """

    targets: int = 2
    threshold: float = 0.1
    select: str = "above"
    mask: str = "sign"
    baselines: tuple[str, ...] = baselines.NAMES
    baseline_space: str = "normalized"
    align_corners: bool = False
    blur_sigma: float | tuple[float, float] = 15.0
    blur_kernel: int = 101
    foils: int | tuple[int, ...] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        choose("select", self.select, ["above", "all"])
        choose("mask", self.mask, MASKS)
        choose("baseline_space", self.baseline_space, ["normalized", "pixel"])
        for name in self.baselines:
            choose("baseline", name, baselines.NAMES)
        if self.targets < 2:
            raise WcxError(f"targets = {self.targets}: the experiment compares classes; give at least 2.")
        if not 0 <= self.threshold < 1:
            raise WcxError(f"threshold = {self.threshold} is no probability; give a number from 0 to below 1.")


@dataclass
class Masking:
    """The engine.

    Args:
        model: [0, 1] pixels (N, 3, H, W) -> logits (N, C), on its device.
        layer: the activation layer.
        methods: by the name that cells use.
        cells: what to compute.
        settings: the protocol.
        zero: the pixel value, one a channel, of zero in the normalised space (the mean colour).
        contrast_options: for each contrast by name.
        batch_size: images a pass, masked ones too.

    Attributes:
        passes: counts images: forward, backward (through the head), masked.
    """

    model: nn.Module
    layer: str | None
    methods: dict[str, ActivationMethod]
    cells: Sequence[Cell]
    settings: Settings
    zero: Sequence[float] = (0.0, 0.0, 0.0)
    contrast_options: dict[str, dict[str, Any]] = field(default_factory=dict)
    batch_size: int = 32
    passes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.device = next(self.model.parameters()).device
        first = self.methods[self.cells[0].method]
        self._explainer = Explainer(self.model, first, self.layer)

    def chunk(self, items: Sequence[Item], most: int | None = None) -> dict[Cell, list[dict[str, Any]]]:
        """Return for each cell one row an image, in the order of `items`; end with the image that is the `most`-th above the threshold."""
        rows: dict[Cell, list[dict[str, Any]]] = {cell: [_blank(item) for item in items] for cell in self.cells}
        readable = [position for position, item in enumerate(items) if item.pixels is not None]
        pending = _Pending(self)
        for start in range(0, len(readable), self.batch_size):
            positions = readable[start : start + self.batch_size]
            above = self._batch(
                [items[p] for p in positions],
                [{cell: rows[cell][p] for cell in self.cells} for p in positions],
                pending,
                most,
            )
            if most is not None and above >= most:
                last = [p for p in positions if rows[self.cells[0]][p]["above_threshold"]][-1]
                rows = {cell: those[: last + 1] for cell, those in rows.items()}
                break
            most = None if most is None else most - above
        pending.flush()
        return rows

    def _batch(
        self, items: list[Item], rows: list[dict[Cell, dict[str, Any]]], pending: _Pending, most: int | None
    ) -> int:
        """Queue the masked versions of a batch; return how many images are above the threshold (at most `most`)."""
        pixels = torch.stack([item.pixels for item in items]).to(self.device)
        run = self._explainer(pixels)
        self.passes["forward"] += len(items)
        targets = self._targets(run.logits)
        wanted, above = [], 0
        for i, row in enumerate(rows):
            if most is not None and above == most:
                break
            shared = _describe(run.logits[i], targets[:, i], self.settings)
            above += shared["above_threshold"]
            for one in row.values():
                one.update(shared)
            if shared["above_threshold"] or self.settings.select == "all":
                wanted.append(i)
        if wanted:
            maps = self._maps(run, targets, pixels.shape[2:])
            for i in wanted:
                own = {cell: maps[cell][:, i] for cell in self.cells}
                self._mask(items[i], pixels[i], run.logits[i], targets[:, i], own, rows[i], pending)
        return above

    def explain(self, pixels: Tensor, cell: Cell) -> tuple[Tensor, Tensor]:
        """Return the pixels (N, 3, H, W) and one cell's up-sampled maps (T, N, H, W) for their k most probable classes."""
        pixels = pixels.to(self.device)
        run = self._explainer(pixels)
        return pixels, self._maps(run, self._targets(run.logits), pixels.shape[2:])[cell]

    def _targets(self, logits: Tensor) -> Tensor:
        """Return the k most probable classes (T, N); of equals the lower id first."""
        classes = logits.shape[1]
        if classes < self.settings.targets:
            raise WcxError(f"targets = {self.settings.targets}, but the model has {classes} classes.")
        return logits.sort(dim=1, descending=True, stable=True).indices[:, : self.settings.targets].T

    def _maps(self, run: ActivationRun, targets: Tensor, size: Sequence[int]) -> dict[Cell, Tensor]:
        """Return for each cell the up-sampled maps (T, N, H, W), on the CPU."""
        masks = contrasts.foil_masks(run.logits, targets, self._foils())
        maps = {}
        for contrast in dict.fromkeys(cell.contrast for cell in self.cells):
            v = contrasts.evaluate(contrast, run.logits, targets, masks, **self.contrast_options.get(contrast, {}))
            gradients = run.gradients(v)
            self.passes["backward"] += gradients.shape[0] * gradients.shape[1]
            for cell in (cell for cell in self.cells if cell.contrast == contrast):
                small = torch.stack([self.methods[cell.method].combine(run.activation, one) for one in gradients])
                maps[cell] = upsample(small, tuple(size), self.settings.align_corners)
        return maps

    def _mask(
        self,
        item: Item,
        pixels: Tensor,
        logits: Tensor,
        targets: Tensor,
        maps: dict[Cell, Tensor],
        rows: dict[Cell, dict[str, Any]],
        pending: _Pending,
    ) -> None:
        """Queue every distinct masked version of one image; the rows are filled when their pass has been done."""
        replacements = self._replacements(item.index, pixels)
        jobs: dict[bytes, tuple[Tensor, list[tuple[dict[str, Any], int, str]]]] = {}
        for cell, both in maps.items():
            for i, attribution in enumerate(both):
                for kept in KEPT:
                    hidden = attribution < 0 if kept == "positive" else attribution > 0
                    share = float(hidden.double().mean())
                    rows[cell][f"masked_fraction/t_{i + 1}/{kept}"] = share
                    key = np.packbits(hidden.cpu().numpy()).tobytes()
                    jobs.setdefault(key, (hidden, []))[1].append((rows[cell], i, kept))
        for hidden, wanting in jobs.values():
            for baseline, replacement in replacements.items():
                sinks = [(row, f"relative_probability/t_{i + 1}/{baseline}/{kept}", i) for row, i, kept in wanting]
                if bool(hidden.any()):
                    pending.add(torch.where(hidden, replacement, pixels), targets, sinks)
                else:  # nothing is hidden: the clean logits are the answer
                    _record(logits, targets, sinks)

    def _replacements(self, index: int, pixels: Tensor) -> dict[str, Tensor]:
        settings = self.settings
        sigma = settings.blur_sigma
        if not isinstance(sigma, (int, float)):
            sigma = float(np.random.default_rng([settings.seed, index]).uniform(*sigma))
        zero = self.zero if settings.baseline_space == "normalized" else 0.0
        return {
            name: baselines.make(name, pixels[None], sigma=sigma, kernel=settings.blur_kernel, zero=zero)[0]
            for name in settings.baselines
        }

    def _foils(self) -> int | list[int] | None:
        foils = self.settings.foils
        return list(foils) if isinstance(foils, tuple) else foils


class _Pending:
    """Masked images waiting for their pass: at most a batch, across images and cells."""

    def __init__(self, engine: Masking) -> None:
        self._engine = engine
        self._waiting: list[tuple[Tensor, Tensor, list[tuple[dict[str, Any], str, int]]]] = []

    def add(self, image: Tensor, targets: Tensor, sinks: list[tuple[dict[str, Any], str, int]]) -> None:
        self._waiting.append((image, targets, sinks))
        if len(self._waiting) == self._engine.batch_size:
            self.flush()

    def flush(self) -> None:
        if not self._waiting:
            return
        with torch.no_grad():
            logits = self._engine.model(torch.stack([image for image, _, _ in self._waiting]))
        self._engine.passes["masked"] += len(self._waiting)
        for one, (_, targets, sinks) in zip(logits, self._waiting, strict=True):
            _record(one, targets, sinks)
        self._waiting.clear()


def relative_probability(logits: Tensor, targets: Tensor, i: int) -> float:
    """Return e^{y_ti} / (e^{y_ti} + e^{y_tj}) as a sigmoid, in float64: j = 2 for i = 1, else j = 1 (targets count from 1; `i` from 0)."""
    rival = 1 if i == 0 else 0
    y = logits.double()
    return float(torch.sigmoid(y[targets[i]] - y[targets[rival]]))


def columns(settings: Settings) -> list[str]:
    """Return the columns of a row, in their order."""
    ranks = [f"t_{i + 1}" for i in range(settings.targets)]
    names = ["index", "id", "label", *ranks, *(f"y_{t}" for t in ranks), *(f"p_{t}" for t in ranks)]
    names += ["above_threshold", "skipped", *(f"relative_probability_unmasked/{t}" for t in ranks)]
    names += [f"masked_fraction/{t}/{kept}" for t in ranks for kept in KEPT]
    return names + [f"relative_probability/{t}/{b}/{kept}" for t in ranks for b in settings.baselines for kept in KEPT]


def _blank(item: Item) -> dict[str, Any]:
    skipped = item.pixels is None
    return {"index": item.index, "id": item.id, "label": item.label, "above_threshold": False, "skipped": skipped}


def _describe(logits: Tensor, targets: Tensor, settings: Settings) -> dict[str, Any]:
    """Return what holds of an image for every cell."""
    probabilities = logits.double().softmax(0)
    row: dict[str, Any] = {}
    for i, t in enumerate(targets.tolist()):
        rank = f"t_{i + 1}"
        row[rank], row[f"y_{rank}"], row[f"p_{rank}"] = t, float(logits[t]), float(probabilities[t])
        row[f"relative_probability_unmasked/{rank}"] = relative_probability(logits, targets, i)
    row["above_threshold"] = row["p_t_2"] > settings.threshold
    return row


def _record(logits: Tensor, targets: Tensor, sinks: list[tuple[dict[str, Any], str, int]]) -> None:
    for row, column, i in sinks:
        row[column] = relative_probability(logits, targets, i)
