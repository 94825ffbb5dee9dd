"""The one model of a picture: an image, its logits, its maps, and the image with what speaks against a class hidden.

Whatever is drawn is made of these: Figs. 1, 4 and 5, methods x contrasts, the figure beside a cell's records, one's own
photograph. One forward pass an image and one backward pass per (class, contrast, set of foils), shared by the methods of an
activation's gradient; a path is walked once for all. Nothing is drawn here (wcx/report/pictures does).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from wcx import contrasts
from wcx.experiments.base import Cell, FoilSetting, Subject, at_pixels
from wcx.experiments.images import Item


class View(NamedTuple):
    """What a map shows of a class.

    Attributes:
        method, contrast: names as on the command line.
        foils: ``asked``: the other classes of a question; ``others``: all other classes; ``none``: the class stands alone;
            "" where all views have the same.
    """

    method: str
    contrast: str
    foils: str = ""


@dataclass
class Hidden:
    """One image with what speaks against a class hidden, for each of T classes.

    Attributes:
        pixels: (T, channels, H, W).
        share: (T,) of the pixels hidden.
        logits: (T, C).
    """

    pixels: Tensor
    share: Tensor
    logits: Tensor


@dataclass
class Picture:
    """One image and what is found about it; all on the CPU.

    Attributes:
        item: the image, its id and label.
        names: of the model's outputs.
        logits: (C,).
        targets: class ids of the T explained classes.
        raw: for each view the signed maps as the method gives them: (T, h, w), or (T, channels, H, W) of an input method.
        align_corners: of the up-sampling.
        hidden: for each view, where the picture has it.
        foils: class ids: the classes that a question names beside the target; empty if there is no question.
    """

    item: Item
    names: Sequence[str]
    logits: Tensor
    targets: list[int]
    raw: dict[View, Tensor]
    align_corners: bool = False
    hidden: dict[View, Hidden] = field(default_factory=dict)
    foils: list[int] = field(default_factory=list)

    @property
    def pixels(self) -> Tensor:
        """(channels, H, W) in [0, 1]: what the network sees."""
        if self.item.pixels is None:
            raise ValueError(f"image {self.item.id} could not be read")  # `explain` makes no picture of it
        return self.item.pixels

    @cached_property
    def probabilities(self) -> Tensor:
        """float64 (C,)."""
        return self.logits.double().softmax(0)

    @cached_property
    def maps(self) -> dict[View, Tensor]:
        """(T, H, W), signed: up-sampled to the image, or summed over the channels."""
        shape, corners = self.pixels.shape, self.align_corners
        return {view: at_pixels(maps[:, None], shape, corners)[:, 0] for view, maps in self.raw.items()}

    @property
    def truth(self) -> str:
        """The name of the image's class; "" where it is not known (label -1)."""
        return self.names[self.item.label] if self.item.label >= 0 else ""

    def predicted(self, most: int) -> list[int]:
        """Return the ids of the most probable classes, of equals the lower id first."""
        return contrasts.most_probable(self.logits[None], min(most, len(self.logits)))[:, 0].tolist()

    def p(self, index: int) -> float:
        """Return the probability of a class."""
        return float(self.probabilities[index])

    def after(self, view: View) -> Tensor:
        """Return the probabilities once features are hidden, float64 (T, T): [i, j] of t_j where what speaks against t_i is."""
        return self.hidden[view].logits.double().softmax(1)[:, self.targets]


Asked = Mapping[View, Tensor]  # the foils' masks (T, N, C) of each view
Ask = Callable[[Tensor], tuple[Tensor, Asked]]  # logits (N, C) -> targets (T, N), and what is asked about them


def most_probable(subject: Subject, count: int, cells: Sequence[Cell], foils: FoilSetting) -> Ask:
    """Ask for the maps of cells of a subject for the `count` most probable classes."""

    def ask(logits: Tensor) -> tuple[Tensor, Asked]:
        targets = contrasts.most_probable(logits, count)
        masks = subject.foil_masks(logits, targets, foils)
        return targets, {View(*cell): masks for cell in cells}

    return ask


def explain(
    subject: Subject, items: Sequence[Item], names: Sequence[str], ask: Ask, align_corners: bool = False
) -> list[Picture]:
    """Return the pictures of the images that could be read.

    Args:
        subject: a network and methods.
        items: images.
        names: of the model's outputs.
        ask: which classes and views.
        align_corners: of the up-sampling.
    """
    pictures: list[Picture] = []
    readable = [(item, item.pixels) for item in items if item.pixels is not None]
    for start in range(0, len(readable), subject.batch_size):
        batch = readable[start : start + subject.batch_size]
        look = subject.look(torch.stack([pixels for _, pixels in batch]).to(subject.device))
        targets, asked = ask(look.logits)
        raw = {view: maps.cpu() for view, maps in look.answers(asked, targets).items()}
        logits = look.logits.cpu()
        for i, (item, _) in enumerate(batch):
            maps = {view: stack[:, i] for view, stack in raw.items()}
            pictures.append(Picture(item, names, logits[i], targets[:, i].tolist(), maps, align_corners))
    return pictures


def hide(subject: Subject, picture: Picture, baseline: Tensor, strongest: float = 1.0) -> None:
    """Give a picture its hidden images: pixels of negative attribution become those of `baseline` (channels, H, W).

    Args:
        subject: the network.
        picture: what is given them.
        baseline: what the pixels become.
        strongest: the share of a map's negative pixels that is hidden, in [0, 1]: the lowest first, of equals the upper left.
    """
    maps = torch.cat(list(picture.maps.values()))  # (views * T, H, W)
    negative = maps < 0  # zeros stay
    if strongest < 1:
        ranks = maps.flatten(1).argsort(stable=True).argsort().view_as(maps)
        negative = ranks < (strongest * negative.double().sum((1, 2))).round()[:, None, None]
    changed = torch.where(negative[:, None], baseline, picture.pixels)
    with torch.inference_mode():
        batches = [subject.model(batch.to(subject.device)) for batch in changed.split(subject.batch_size)]
    is_changed = negative.flatten(1).any(1, keepdim=True)  # where nothing is hidden, the same to the last bit
    logits = torch.where(is_changed, torch.cat(batches).cpu().clone(), picture.logits)
    share = negative.double().mean((1, 2))
    by_view = zip(*(stack.split(len(picture.targets)) for stack in (changed, share, logits)), strict=True)
    picture.hidden = {view: Hidden(*parts) for view, parts in zip(picture.maps, by_view, strict=True)}


def cosines(picture: Picture) -> dict[str, dict[str, float]]:
    """Return how alike an image's maps are, as cosines (NaN where one is all zero).

    Returns:
        for each method "a, b: t_i" (two contrasts, one class) and "a: t_i, t_j" (one contrast, two classes).
    """
    alike: dict[str, dict[str, float]] = {}
    for view, maps in picture.maps.items():
        pairs = alike.setdefault(view.method, {})
        for i, j in combinations(range(len(maps)), 2):
            pairs[f"{view.contrast}: t_{i + 1}, t_{j + 1}"] = cosine(maps[i], maps[j])
    for first, second in combinations(picture.maps, 2):
        if first.method == second.method:
            for i, pair in enumerate(zip(picture.maps[first], picture.maps[second], strict=True)):
                alike[first.method][f"{first.contrast}, {second.contrast}: t_{i + 1}"] = cosine(*pair)
    return alike


def cosine(first: Tensor, second: Tensor) -> float:
    """Return the cosine of two maps, in float64; NaN where one is all zero."""
    a, b = first.double().flatten(), second.double().flatten()
    return float(a @ b / (a.norm() * b.norm()))
