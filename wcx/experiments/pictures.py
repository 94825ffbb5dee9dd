"""What the gallery's figures show (Figs. 1, 4 and 5): maps of chosen images, blurred images, probabilities before and after.

One forward pass an image and one backward pass per (class, contrast), shared by all activation methods; an input-space
method has passes of its own. Nothing is drawn here (wcx/report/gallery.py does).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import torch
from torch import Tensor

from wcx import contrasts
from wcx.errors import WcxError
from wcx.experiments import hiding
from wcx.experiments.base import Cell, Subject, at_pixels
from wcx.experiments.images import Item
from wcx.images import drawn_sigma, make_baseline


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


def show(subject: Subject, items: Sequence[Item], figure: Figure, settings: Settings) -> list[Shown]:
    """Return what a figure shows of each image that could be read."""
    readable = [(item, item.pixels) for item in items if item.pixels is not None]
    pictures: list[Shown] = []
    for start in range(0, len(readable), subject.batch_size):
        batch = readable[start : start + subject.batch_size]
        pixels = torch.stack([image for _, image in batch]).to(subject.device)
        logits, maps = attributions(subject, pixels, figure, settings)
        classes = contrasts.most_probable(logits, min(logits.shape[1], max(3, figure.targets))).T
        probabilities = logits.double().softmax(1).gather(1, classes).cpu()
        for i, (item, _) in enumerate(batch):
            images_maps = {cell: stack[:, i].cpu() for cell, stack in maps.items()}
            pictures.append(Shown(item, classes[i].tolist(), probabilities[i], images_maps))
    if figure.hides:
        for picture in pictures:
            picture.hidden = hide(subject, picture, settings)
    return pictures


def attributions(
    subject: Subject, pixels: Tensor, figure: Figure, settings: Settings
) -> tuple[Tensor, dict[Cell, Tensor]]:
    """Return the logits (N, C) of pixels (N, channels, H, W), and every cell's maps (T, N, H, W) for t_1 ... t_T."""
    look = subject.look(pixels)
    targets = contrasts.most_probable(look.logits, figure.targets)
    foils = contrasts.foil_masks(look.logits, targets, hiding.as_foils(settings.foils))
    cells = [Cell(method, contrast) for method in figure.methods for contrast in figure.contrasts]
    maps = look.maps(cells, targets, foils)
    return look.logits, {cell: at_pixels(maps[cell], pixels.shape, settings.align_corners) for cell in cells}


def hide(subject: Subject, picture: Shown, settings: Settings) -> dict[Cell, Hidden]:
    """Return one image with the pixels of negative attribution hidden, by every cell's map and for each of its classes."""
    pixels = picture.item.pixels
    if pixels is None:
        return {}
    sigma = drawn_sigma(settings.blur_sigma, settings.seed, picture.item.index)
    zero = subject.zero if settings.baseline_space == "normalized" else 0.0
    baseline = make_baseline(settings.baseline, pixels[None], sigma=sigma, kernel=settings.blur_kernel, zero=zero)[0]
    attributions = torch.cat(list(picture.maps.values()))
    negative = hiding.by_sign(attributions, "positive")
    changed = torch.where(negative[:, None], baseline, pixels)
    with torch.inference_mode():
        logits = torch.cat([subject.model(batch.to(subject.device)) for batch in changed.split(subject.batch_size)])
    after = logits.double().softmax(1)[:, picture.targets].cpu()
    share = negative.double().mean((1, 2))
    by_cell = (stack.unflatten(0, (len(picture.maps), -1)) for stack in (changed, share, after))
    return {cell: Hidden(*parts) for cell, *parts in zip(picture.maps, *by_cell, strict=True)}


def cosines(picture: Shown) -> dict[str, dict[str, float]]:
    """Return how alike an image's maps are, as cosines (NaN where one is all zero).

    Returns:
        for each method "a, b: t_i" (two contrasts, one class) and "a: t_i, t_j" (one contrast, two classes).
    """
    alike: dict[str, dict[str, float]] = {}
    for cell, maps in picture.maps.items():
        pairs = alike.setdefault(cell.method, {})
        for i, j in combinations(range(len(maps)), 2):
            pairs[f"{cell.contrast}: t_{i + 1}, t_{j + 1}"] = cosine(maps[i], maps[j])
    for first, second in combinations(picture.maps, 2):
        if first.method == second.method:
            for i, pair in enumerate(zip(picture.maps[first], picture.maps[second], strict=True)):
                alike[first.method][f"{first.contrast}, {second.contrast}: t_{i + 1}"] = cosine(*pair)
    return alike


def cosine(first: Tensor, second: Tensor) -> float:
    """Return the cosine of two maps, in float64; NaN where one is all zero."""
    a, b = first.double().flatten(), second.double().flatten()
    return float(a @ b / (a.norm() * b.norm()))
