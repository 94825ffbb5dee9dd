"""What the gallery's figures show (Figs. 1, 4 and 5): maps of chosen images, blurred images, probabilities before and after.

One forward pass an image and one backward pass per (class, contrast), shared by all activation methods; an input-space
method has passes of its own. Nothing is drawn here (wcx/report/gallery.py does).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from wcx import baselines, contrasts
from wcx.errors import WcxError
from wcx.experiments import masks
from wcx.experiments.items import Item
from wcx.experiments.protocol import Cell
from wcx.explainer import Explainer, cotangents, upsample
from wcx.methods import Method


@dataclass(frozen=True)
class Figure:
    """What one figure shows.

    Attributes:
        methods, contrasts: every pair of them is a map; empty means all there are.
        targets: the so many most probable classes are explained.
        rank: images are chosen by the probability of t_rank.
        hides: whether the images with the negative features hidden belong to it.
        most: images at most.
    """

    methods: tuple[str, ...]
    contrasts: tuple[str, ...]
    targets: int
    rank: int = 2
    hides: bool = False
    most: int | None = None


FIGURES = {
    "fig1": Figure(("gradcam",), ("original", "weighted"), targets=2, hides=True),
    "fig4": Figure(("gradcam", "linear_approximation"), ("original", "weighted"), targets=2),
    "fig5": Figure(("gradcam",), ("original", "mean", "max", "weighted"), targets=3, rank=3),
    "methods": Figure((), (), targets=1, most=1),
}


@dataclass(frozen=True)
class Settings:
    """The protocol: which images, and how features are hidden (as in the masking experiment).

    Attributes:
        count: images a figure.
        ids: these images instead of random ones.
        p_t2_min, p_t3_min: images are chosen among those with p_t2 (for Fig. 5 p_t3) above it.
        baseline: what the hidden pixels become.
        baseline_space: what ``zeros`` is, as in `protocol.Settings`; likewise the other three.
        foils: of the contrasts.
        seed: of the images' order, and of drawn sigmas.

    Raises:
        WcxError: a value outside of these.
    """

    count: int = 4
    ids: tuple[str, ...] = ()
    p_t2_min: float = 0.1
    p_t3_min: float = 0.1
    baseline: str = "blur"
    baseline_space: str = "normalized"
    align_corners: bool = False
    blur_sigma: float | tuple[float, float] = 15.0
    blur_kernel: int = 101
    foils: int | tuple[int, ...] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise WcxError(f"count = {self.count} images; give at least 1.")
        for name in ("p_t2_min", "p_t3_min"):
            if not 0 <= getattr(self, name) < 1:
                raise WcxError(f"{name} = {getattr(self, name)} is no probability; give a number from 0 to below 1.")

    def minimum(self, rank: int) -> float:
        """Return the threshold on the probability of t_rank."""
        return self.p_t3_min if rank >= 3 else self.p_t2_min


@dataclass
class Hidden:
    """One image with what speaks against a class hidden, for each of T classes.

    Attributes:
        pixels: (T, 3, H, W).
        share: (T,) of the pixels hidden.
        after: (T, T); after[i, j] is the probability of t_j when what speaks against t_i is hidden.
    """

    pixels: Tensor
    share: Tensor
    after: Tensor


@dataclass
class Shown:
    """One image of a figure.

    Attributes:
        item: the image.
        classes: the most probable ones, at least 3 where there are so many; the first T are explained.
        probabilities: theirs, float64.
        maps: (T, H, W), signed: at the image's size; those of input-space methods summed over the channels.
        hidden: for each cell, where the figure has it.
    """

    item: Item
    classes: list[int]
    probabilities: Tensor
    maps: dict[Cell, Tensor]
    hidden: dict[Cell, Hidden] = field(default_factory=dict)

    @property
    def targets(self) -> list[int]:
        """The explained classes t_1 ... t_T."""
        return self.classes[: len(next(iter(self.maps.values())))]


@dataclass(frozen=True)
class Lens:
    """A network and the ways it is looked at.

    Attributes:
        model: [0, 1] pixels (N, 3, H, W) -> logits (N, C), on its device.
        layer: of the activation methods; None looks for it.
        methods: by name.
        contrast_options: for each contrast by name.
        zero: pixel value, one a channel, of zero in the normalised space.
        batch_size: images a pass.
    """

    model: nn.Module
    layer: str | None
    methods: Mapping[str, Method]
    contrast_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    zero: Sequence[float] | float = 0.0
    batch_size: int = 32


def show(lens: Lens, items: Sequence[Item], figure: Figure, settings: Settings) -> list[Shown]:
    """Return what a figure shows of each image."""
    device = next(lens.model.parameters()).device
    shown: list[Shown] = []
    for start in range(0, len(items), lens.batch_size):
        batch = items[start : start + lens.batch_size]
        pixels = torch.stack([item.pixels for item in batch]).to(device)
        logits, maps = attributions(lens, pixels, figure, settings)
        classes = contrasts.most_probable(logits, min(logits.shape[1], max(3, figure.targets))).T
        probabilities = logits.double().softmax(1).gather(1, classes).cpu()
        for i, item in enumerate(batch):
            own = {cell: one[:, i].cpu() for cell, one in maps.items()}
            shown.append(Shown(item, classes[i].tolist(), probabilities[i], own))
    if figure.hides:
        for one in shown:
            one.hidden = hide(lens, one, settings)
    return shown


def attributions(lens: Lens, pixels: Tensor, figure: Figure, settings: Settings) -> tuple[Tensor, dict[Cell, Tensor]]:
    """Return the logits (N, C) of pixels (N, 3, H, W), and every cell's maps (T, N, H, W) for t_1 ... t_T."""
    names = list(figure.contrasts)
    foils = list(settings.foils) if isinstance(settings.foils, tuple) else settings.foils
    layered = {name: lens.methods[name] for name in figure.methods if lens.methods[name].space == "activation"}
    groups = [layered] if layered else []  # each of them has a forward pass of its own
    groups += [{name: lens.methods[name]} for name in figure.methods if name not in layered]
    maps: dict[Cell, Tensor] = {}
    for group in groups:
        run = Explainer(lens.model, next(iter(group.values())), lens.layer if group is layered else None)(pixels)
        if not maps:
            logits, targets = run.logits, contrasts.most_probable(run.logits, figure.targets)
        chosen = contrasts.foil_masks(run.logits, targets, foils)
        v = cotangents(names, run.logits, targets, chosen, lens.contrast_options)
        if group is layered:
            small = run.explain_each(layered, v(run.logits) if callable(v) else v)
            large = {name: upsample(stack, pixels.shape[2:], settings.align_corners) for name, stack in small.items()}
        else:
            large = {name: run.explain(v).sum(-3) for name in group}
        for method, stack in large.items():  # (K T, N, H, W)
            maps |= zip((Cell(method, name) for name in names), stack.chunk(len(names)), strict=True)
    return logits, {Cell(method, name): maps[method, name] for method in figure.methods for name in names}


def hide(lens: Lens, shown: Shown, settings: Settings) -> dict[Cell, Hidden]:
    """Return one image with the pixels of negative attribution hidden, by every cell's map and for each of its classes."""
    pixels = shown.item.pixels
    sigma = baselines.drawn_sigma(settings.blur_sigma, settings.seed, shown.item.index)
    zero = lens.zero if settings.baseline_space == "normalized" else 0.0
    other = baselines.make(settings.baseline, pixels[None], sigma=sigma, kernel=settings.blur_kernel, zero=zero)[0]
    negative = torch.stack([masks.by_sign(one, "positive") for maps in shown.maps.values() for one in maps])
    changed = torch.where(negative[:, None], other, pixels)
    device = next(lens.model.parameters()).device
    with torch.inference_mode():
        logits = torch.cat([lens.model(some.to(device)) for some in changed.split(lens.batch_size)])
    after = logits.double().softmax(1)[:, shown.targets].cpu()
    share = negative.double().mean((1, 2))
    each = (x.unflatten(0, (len(shown.maps), -1)) for x in (changed, share, after))
    return {cell: Hidden(*own) for cell, *own in zip(shown.maps, *each, strict=True)}


def cosines(shown: Shown) -> dict[str, dict[str, float]]:
    """Return how alike an image's maps are, as cosines (NaN where one is all zero).

    Returns:
        for each method "a, b: t_i" (two contrasts, one class) and "a: t_i, t_j" (one contrast, two classes).
    """
    found: dict[str, dict[str, float]] = {}
    for cell, maps in shown.maps.items():
        own = found.setdefault(cell.method, {})
        for i, j in combinations(range(len(maps)), 2):
            own[f"{cell.contrast}: t_{i + 1}, t_{j + 1}"] = cosine(maps[i], maps[j])
    for one, other in combinations(shown.maps, 2):
        if one.method == other.method:
            for i, pair in enumerate(zip(shown.maps[one], shown.maps[other], strict=True)):
                found[one.method][f"{one.contrast}, {other.contrast}: t_{i + 1}"] = cosine(*pair)
    return found


def cosine(one: Tensor, other: Tensor) -> float:
    """Return the cosine of two maps, in float64; NaN where one is all zero."""
    a, b = one.double().flatten(), other.double().flatten()
    return float(a @ b / (a.norm() * b.norm()))
