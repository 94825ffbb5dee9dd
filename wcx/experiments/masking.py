"""The masking experiment (section 5.2.2, Table 1): keep positive or negative features of a class, look at its share.

One engine for any number of cells (method, contrast) at once, with no pass done twice:

- one forward pass an image, shared by all cells;
- one backward pass through the head per (target, contrast), shared by all activation methods;
- one forward pass per *distinct* masked image: masks that agree (max: t1-positive and t2-negative) share theirs, and a
  mask that hides nothing costs none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wcx import baselines, contrasts
from wcx.experiments import masks
from wcx.experiments.items import Item
from wcx.experiments.protocol import KEPT, Cell, Settings
from wcx.explainer import Explainer, upsample
from wcx.methods.activation import ActivationMethod, ActivationRun

VERSION = 1  # part of the fingerprint: raise it with every change that may change a number

Row = dict[str, Any]
Sink = tuple[Row, str, int]  # a row, its column, and which target's relative probability belongs there


@dataclass
class Masking:
    """The engine.

    Args:
        model: [0, 1] pixels (N, 3, H, W) -> logits (N, C), on its device.
        layer: the activation layer; None looks for it.
        methods: by the name that cells use.
        cells: what to compute.
        settings: the protocol.
        zero: the pixel value, one a channel, of zero in the normalised space (the mean colour).
        contrast_options: for each contrast by name.
        batch_size: images a pass, masked ones too: what bounds the memory.

        keep_maps: keep the maps of the selected images in `maps`.

    Attributes:
        passes: counts images: forward, backward (through the head), masked.
        maps: for each cell (index, map (T, h, w) at the layer's resolution) of the last chunk, with `keep_maps`.
    """

    model: nn.Module
    layer: str | None
    methods: dict[str, ActivationMethod]
    cells: Sequence[Cell]
    settings: Settings
    zero: Sequence[float] | float = 0.0
    contrast_options: dict[str, dict[str, Any]] = field(default_factory=dict)
    batch_size: int = 32
    keep_maps: bool = False
    passes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.device = next(self.model.parameters()).device
        self.maps: dict[Cell, list[tuple[int, np.ndarray]]] = {}
        self._explainer = Explainer(self.model, self.methods[self.cells[0].method], self.layer)

    def chunk(self, items: Sequence[Item], most: int | None = None) -> dict[Cell, list[Row]]:
        """Return for each cell one row an image, in the order of `items`.

        With `most`, the rows end with the image that is the `most`-th above the threshold.
        """
        self.maps = {cell: [] for cell in self.cells}
        rows: dict[Cell, list[Row]] = {cell: [_blank(item) for item in items] for cell in self.cells}
        readable = [position for position, item in enumerate(items) if item.pixels is not None]
        pending = _Pending(self)
        for start in range(0, len(readable), self.batch_size):
            positions = readable[start : start + self.batch_size]
            own = [{cell: rows[cell][p] for cell in self.cells} for p in positions]
            above = self._batch([items[p] for p in positions], own, pending, most)
            if most is not None:
                most -= above
                if most == 0:
                    last = [p for p in positions if rows[self.cells[0]][p]["above_threshold"]][-1]
                    rows = {cell: those[: last + 1] for cell, those in rows.items()}
                    break
        pending.flush()
        return rows

    def explain(self, pixels: Tensor, cells: Sequence[Cell]) -> dict[Cell, Tensor]:
        """Return the up-sampled maps (T, N, H, W) of cells for the k most probable classes of pixels (N, 3, H, W)."""
        run = self._explainer(pixels)
        small = self._maps(run, self._targets(run.logits), list(dict.fromkeys(cell.contrast for cell in cells)))
        return {cell: upsample(small[cell], pixels.shape[2:], self.settings.align_corners) for cell in cells}

    def _batch(self, items: list[Item], rows: list[dict[Cell, Row]], pending: _Pending, most: int | None) -> int:
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
            maps = self._maps(run, targets, self._contrasts())
            for i in wanted:
                small = {cell: those[:, i] for cell, those in maps.items()}
                if self.keep_maps:
                    for cell in self.cells:
                        self.maps[cell].append((items[i].index, small[cell].float().cpu().numpy()))
                own = {c: upsample(one, pixels.shape[2:], self.settings.align_corners) for c, one in small.items()}
                self._localise(items[i], own, rows[i])
                self._mask(items[i].index, pixels[i], run.logits[i], targets[:, i], own, rows[i], pending)
        return above

    def _targets(self, logits: Tensor) -> Tensor:
        """Return the k most probable classes (T, N); of equals the lower id first."""
        return contrasts.most_probable(logits, self.settings.targets)

    def _contrasts(self) -> list[str]:
        """Return the contrasts to back-propagate: those of the cells, and those that `equal` counts."""
        extra = self.settings.equal_pair if self.settings.mask == "equal" else ()
        return list(dict.fromkeys([*(cell.contrast for cell in self.cells), *extra]))

    def _maps(self, run: ActivationRun, targets: Tensor, names: Sequence[str]) -> dict[Cell, Tensor]:
        """Return the maps (T, N, h, w), at the layer's resolution, of every method under every contrast of `names`."""
        foils = self.settings.foils
        foil_masks = contrasts.foil_masks(run.logits, targets, list(foils) if isinstance(foils, tuple) else foils)
        maps = {}
        for name in names:
            options = self.contrast_options.get(name, {})
            v = contrasts.evaluate(name, run.logits, targets, foil_masks, **options)
            self.passes["backward"] += v.shape[0] * v.shape[1]
            maps |= {Cell(method, name): own for method, own in run.explain_each(self.methods, v).items()}
        return maps

    def _localise(self, item: Item, maps: dict[Cell, Tensor], rows: dict[Cell, Row]) -> None:
        """Write the share of positive attribution inside the object's box, where the dataset knows it (section 6)."""
        if item.box is None:
            return
        for cell, row in rows.items():
            _, height, width = maps[cell].shape
            row["box_fraction"] = item.box[2] * item.box[3] / (height * width)
            for rank, attribution in zip(self.settings.ranks, maps[cell], strict=True):
                row[f"inside_box/{rank}"] = masks.share_inside(attribution, item.box)

    def _mask(
        self,
        index: int,
        pixels: Tensor,
        logits: Tensor,
        targets: Tensor,
        maps: dict[Cell, Tensor],
        rows: dict[Cell, Row],
        pending: _Pending,
    ) -> None:
        """Queue every distinct masked version of one image; the rows are filled when its pass has been done."""
        jobs: dict[bytes, tuple[Tensor, list[tuple[Row, int, str]]]] = {}
        for cell, row in rows.items():
            for i, rank in enumerate(self.settings.ranks):
                for kept in KEPT:
                    hidden = self._hidden(cell, i, kept, maps)
                    row[f"masked_fraction/{rank}/{kept}"] = float(hidden.double().mean())
                    key = np.packbits(hidden.cpu().numpy()).tobytes()
                    jobs.setdefault(key, (hidden, []))[1].append((row, i, kept))
        replacements = self._replacements(index, pixels)
        for hidden, wanting in jobs.values():
            for baseline, replacement in replacements.items():
                sinks = [(row, f"relative_probability/t_{i + 1}/{baseline}/{kept}", i) for row, i, kept in wanting]
                if bool(hidden.any()):
                    pending.add(torch.where(hidden, replacement, pixels), targets, sinks)
                else:  # nothing is hidden: the clean logits are the answer
                    _record(logits, targets, sinks)

    def _hidden(self, cell: Cell, i: int, kept: str, maps: dict[Cell, Tensor]) -> Tensor:
        """Return the mask (H, W) of what is hidden when the features `kept` of target i are."""
        settings, attribution = self.settings, maps[cell][i]
        if settings.mask == "sign":
            return masks.by_sign(attribution, kept)
        if settings.mask == "fraction":
            return masks.by_rank(attribution, kept, round(settings.fraction * attribution.numel()))
        pair = [maps[Cell(cell.method, name)][i] for name in settings.equal_pair]
        return masks.by_rank(attribution, kept, masks.equal_count(pair, kept, settings.equal_n_minus_one))

    def _replacements(self, index: int, pixels: Tensor) -> dict[str, Tensor]:
        """Return the baselines of one image, each made once."""
        settings = self.settings
        sigma = baselines.drawn_sigma(settings.blur_sigma, settings.seed, index)
        zero = self.zero if settings.baseline_space == "normalized" else 0.0
        options = {"sigma": sigma, "kernel": settings.blur_kernel, "zero": zero}
        return {name: baselines.make(name, pixels[None], **options)[0] for name in settings.baselines}


class _Pending:
    """Masked images waiting for their pass: at most a batch, across images and cells."""

    def __init__(self, engine: Masking) -> None:
        self._engine = engine
        self._waiting: list[tuple[Tensor, Tensor, list[Sink]]] = []

    def add(self, image: Tensor, targets: Tensor, sinks: list[Sink]) -> None:
        self._waiting.append((image, targets, sinks))
        if len(self._waiting) == self._engine.batch_size:
            self.flush()

    def flush(self) -> None:
        if not self._waiting:
            return
        with torch.inference_mode():
            logits = self._engine.model(torch.stack([image for image, _, _ in self._waiting]))
        self._engine.passes["masked"] += len(self._waiting)
        for one, (_, targets, sinks) in zip(logits, self._waiting, strict=True):
            _record(one, targets, sinks)
        self._waiting.clear()


def relative_probability(logits: Tensor, targets: Tensor, i: int) -> float:
    """Return e^{y_ti} / (e^{y_ti} + e^{y_tj}) for target i (from 0): t_1's rival is t_2, everyone else's t_1.

    As a sigmoid of the difference, in float64: the exponentials themselves may overflow.
    """
    y = logits.double()
    return float(torch.sigmoid(y[targets[i]] - y[targets[int(i == 0)]]))


def _blank(item: Item) -> Row:
    skipped = item.pixels is None
    return {"index": item.index, "id": item.id, "label": item.label, "above_threshold": False, "skipped": skipped}


def _describe(logits: Tensor, targets: Tensor, settings: Settings) -> Row:
    """Return what holds of an image for every cell."""
    probabilities = logits.double().softmax(0)
    row: Row = {}
    for i, (rank, t) in enumerate(zip(settings.ranks, targets.tolist(), strict=True)):
        row[rank], row[f"y_t{i + 1}"], row[f"p_t{i + 1}"] = t, float(logits[t]), float(probabilities[t])
        row[f"relative_probability_unmasked/{rank}"] = relative_probability(logits, targets, i)
    row["above_threshold"] = row["p_t2"] > settings.threshold
    return row


def _record(logits: Tensor, targets: Tensor, sinks: list[Sink]) -> None:
    for row, column, i in sinks:
        row[column] = relative_probability(logits, targets, i)
