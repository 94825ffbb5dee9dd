"""A page of the gallery: what a figure shows and everything that is said of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from wcx.errors import choose
from wcx.experiments import pictures
from wcx.experiments.base import Cell
from wcx.experiments.pictures import Shown
from wcx.report import render

SCALES = ("contrast", "method")
BLOCK = 8  # pixels; input-space maps are drawn as sums over blocks of this side, or nothing would be seen of them
QUANTILE = 0.995  # of the absolute values of such maps: the end of their scale


@dataclass(frozen=True)
class Page:
    """A figure of the gallery.

    Attributes:
        figure: its name, one of `pictures.FIGURES`.
        shown: what it shows.
        class_names: of the model's outputs.
        dataset, model: names as on the command line.
        label: the dataset's name in tables.
        weights: of the model, for tables.
        subset: what is to be said of the images; "" for all official ones.
        rule: how the images were chosen, a sentence without a full stop.
        command: what makes this figure again.
        spaces: each method's: ``input`` or ``activation``, which is the default.
        foils: of the contrasts, in words; "" for all other classes.
        baseline: what became of hidden pixels, in words.
        scale: what shares a colour scale in an image: the maps of one method and ``contrast``, or all of one ``method``.
        style: of `render.overlay`.
        facts: more for the JSON file.

    Raises:
        WcxError: unknown figure, scale or style.
    """

    figure: str
    shown: Sequence[Shown]
    class_names: Sequence[str]
    dataset: str
    model: str
    label: str = ""
    weights: str = ""
    subset: str = ""
    rule: str = ""
    command: str = ""
    spaces: Mapping[str, str] = field(default_factory=dict)
    foils: str = ""
    baseline: str = "blurred"
    scale: str = "contrast"
    style: str = "colour"
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        choose("figure", self.figure, pictures.FIGURES)
        choose("scale", self.scale, SCALES)
        choose("style", self.style, render.STYLES)

    @property
    def name(self) -> str:
        """The files' name, without a suffix."""
        return f"{self.dataset}-{self.model}-{self.figure}"

    @property
    def cells(self) -> list[Cell]:
        """The methods and contrasts of every image."""
        return list(self.shown[0].maps)

    @property
    def methods(self) -> list[str]:
        """The methods, in their order."""
        return list(dict.fromkeys(cell.method for cell in self.cells))

    @property
    def contrasts(self) -> list[str]:
        """The contrasts, in their order."""
        return list(dict.fromkeys(cell.contrast for cell in self.cells))

    def in_pixels(self, method: str) -> bool:
        """Return whether a method goes back to the pixels."""
        return self.spaces.get(method, "activation") == "input"

    def names(self, shown: Shown) -> list[str]:
        """Return the names of an image's most probable classes."""
        return [self.class_names[one] for one in shown.classes]

    def truth(self, shown: Shown) -> str:
        """Return the name of an image's own class; "" where it is not known (label -1)."""
        return self.class_names[shown.item.label] if shown.item.label >= 0 else ""

    def drawn(self, shown: Shown, cell: Cell) -> Tensor:
        """Return the maps (T, h, w) of a cell as they are drawn.

        Those of input-space methods are summed over blocks; under one scale for all contrasts, `probability` is divided
        by p_t (1 - p_t), Proposition 2's factor (with all other classes as foils).
        """
        maps = shown.maps[cell].double()
        if cell.contrast == "probability" and self.scale == "method" and not self.foils:
            p = shown.probabilities[: len(maps), None, None]
            maps = maps / (p * (1 - p)).clamp(min=1e-30)
        return block_sums(maps) if self.in_pixels(cell.method) else maps

    def scale_of(self, shown: Shown, cell: Cell) -> float:
        """Return the value of the deepest colours of one image's maps of a cell."""
        names = self.contrasts if self.scale == "method" else [cell.contrast]
        quantile = QUANTILE if self.in_pixels(cell.method) else 1.0
        return max(render.scale_of(self.drawn(shown, Cell(cell.method, name)), quantile) for name in names)


def block_sums(maps: Tensor) -> Tensor:
    """Return maps (T, H, W) summed over blocks of pixels, (T, H // BLOCK, W // BLOCK); small images keep 12 blocks a side."""
    block = max(1, min(BLOCK, maps.shape[-1] // 12))
    return nn.functional.avg_pool2d(maps[:, None], block)[:, 0] * block**2
