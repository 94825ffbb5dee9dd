"""A plate: pictures of one kind, with one scale for what is to be compared, and the tiles that every layout is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.axes import Axes
from torch import Tensor

from wcx.errors import choose
from wcx.experiments.pictures import Picture, View, cosine
from wcx.experiments.selection import subscript
from wcx.report.pictures import STYLES, draw, fonts
from wcx.report.pictures.sheet import Label, Tile, fine, wrap

SCALES = ("contrast", "method")


@dataclass(frozen=True)
class Plate:
    """Pictures and what is said of them all.

    Attributes:
        kind: which layout: a figure of the gallery, ``selected`` or ``photo``.
        pictures: what is shown, all with the same views.
        facts: what stands in the JSON file: dataset, dataset_label, model, weights, subset, rule, command, ...
        foils: of the contrasts, in words; "" for all other classes.
        baseline: what became of hidden pixels, in words.
        scale: what shares a colour scale in an image: the maps of one method and ``contrast``, or all of one ``method``.
        style: ``colour`` or ``print``, see `draw.paint_map`.

    Raises:
        WcxError: unknown scale or style.
    """

    kind: str
    pictures: Sequence[Picture]
    facts: Mapping[str, Any] = field(default_factory=dict)
    foils: str = ""
    baseline: str = "blurred"
    scale: str = "contrast"
    style: str = "colour"

    def __post_init__(self) -> None:
        choose("scale", self.scale, SCALES)
        choose("style", self.style, STYLES)

    @property
    def views(self) -> list[View]:
        """What the maps of every picture show."""
        return list(self.pictures[0].raw)

    @property
    def methods(self) -> list[str]:
        """The methods, in their order."""
        return list(dict.fromkeys(view.method for view in self.views))

    @property
    def contrasts(self) -> list[str]:
        """The contrasts, in their order."""
        return list(dict.fromkeys(view.contrast for view in self.views))

    def in_pixels(self, method: str) -> bool:
        """Return whether a method goes back to the pixels."""
        return any(maps.ndim == 4 for view, maps in self.pictures[0].raw.items() if view.method == method)

    def drawn(self, picture: Picture, view: View) -> Tensor:
        """Return the maps (T, h, w) of a view as they are drawn.

        Those of input-space methods are summed over blocks; under one scale for all contrasts, `probability` is divided
        by p_t (1 - p_t), Proposition 2's factor (with all other classes as foils).
        """
        maps = picture.maps[view].double()
        if view.contrast == "probability" and self.scale == "method" and not self.foils:
            p = picture.probabilities[picture.targets, None, None]
            maps = maps / (p * (1 - p)).clamp(min=1e-30)
        return draw.block_sums(maps) if self.in_pixels(view.method) else maps

    def scale_of(self, picture: Picture, view: View) -> float:
        """Return the value of the deepest colours of one image's maps of a view."""
        quantile = draw.QUANTILE if self.in_pixels(view.method) else 1.0
        comparable = [same for same in self.views if same.method == view.method] if self.scale == "method" else [view]
        drawn = [self.drawn(picture, same) for same in comparable]
        return max((draw.scale_of(maps, quantile) for maps in drawn if maps.any()), default=1.0)

    def photograph(self, picture: Picture, above: Sequence[Label] = (), below: Sequence[Label] = ()) -> Tile:
        """Return the image."""
        return Tile(lambda ax: draw.paint_photograph(ax, picture.pixels), above, below=below)

    def heatmap(
        self,
        picture: Picture,
        view: View,
        i: int,
        above: Sequence[Label] = (),
        below: Sequence[Label] = (),
        has_bar: bool = False,
        is_framed: bool = False,
    ) -> Tile:
        """Return the map of t_(i + 1)."""
        scale, pixels = self.scale_of(picture, view), None if self.in_pixels(view.method) else picture.pixels

        def paint(ax: Axes) -> None:
            draw.paint_map(ax, pixels, self.drawn(picture, view)[i], scale, self.style)
            if is_framed:
                draw.paint_frame(ax)

        return Tile(paint, above, scale if has_bar else None, below)

    def changes(self, picture: Picture, view: View, i: int) -> list[str]:
        """Return each class's probability before and after hiding what speaks against t_(i + 1)."""
        after = picture.after(view)[i].tolist()
        return [change(picture.p(target), p) for target, p in zip(picture.targets, after, strict=True)]

    def share(self, picture: Picture, view: View, i: int) -> str:
        """Return in words how many pixels are hidden because they speak against t_(i + 1)."""
        fraction = float(picture.hidden[view].share[i])
        share = f"{'all' if fraction == 1 else percent(fraction)} of the pixels {self.baseline}"
        return share if fraction else f"nothing is {self.baseline}"

    def hidden(self, picture: Picture, view: View, i: int, names: Sequence[str], side: float) -> Tile:
        """Return the image with what speaks against t_(i + 1) hidden: before and after, the class itself in bold.

        Args:
            view: whose negative features are hidden.
            names: of the explained classes, for the labels.
            side: of the tile, inches.
        """
        hidden, changes = picture.hidden[view], self.changes(picture, view, i)
        lines = [f"{name}: {text}" for name, text in zip(names, changes, strict=True)]
        # Else no number is torn from the other, nor stands before it.
        is_short = all(len(wrap(line, side, 7.5, True)) == 1 for line in lines)
        is_short &= not any(map(fonts.is_right_to_left, names))
        below: list[Label] = []
        own_first = sorted(range(len(names)), key=lambda j: j != i)
        for j in own_first if self.kind == "photo" else range(len(names)):
            name, text = names[j], changes[j]
            colour = draw.FOR if j == i else draw.AGAINST
            texts = [f"{name}: {text}"] if is_short else [f"{name}:", text]
            below += [Label(line, colour, bold=j == i) for line in texts]
        below.append(fine(self.share(picture, view, i)))
        return Tile(lambda ax: draw.paint_photograph(ax, hidden.pixels[i]), below=below)


def is_a(picture: Picture) -> str:
    """Return "is: <class>"; "" where the class is not known."""
    return f"is: {picture.truth}" if picture.truth else ""


def rank(i: int) -> str:
    """Return t with the number i + 1 in subscript digits."""
    return f"t{subscript(i + 1)}"


def probability(p: float) -> str:
    """Return a probability with three digits; what is not zero is not shown as zero."""
    return f"{p:.3f}" if p >= 0.0005 else "<0.001"


def equation(p: float) -> str:
    """Return "p = 0.300": a probability as a label states it."""
    return f"p {'= ' if p >= 0.0005 else ''}{probability(p)}"


def line_words(style: str) -> str:
    """Return what is to be said of the signs in a map over its image."""
    return "a line marks where the sign changes" + ", and negative features are hatched" * (style == "print")


def block_words(side: int, style: str) -> str:
    """Return what is to be said of a map in blocks of `side` pixels."""
    minus = f"; a minus stands in negative ones from {100 * draw.FAINT:g} % of the scale on" * (style == "print")
    return f"sums over {side} × {side} pixels, colours to the {100 * draw.QUANTILE:g} % quantile{minus}"


def change(before: float, after: float) -> str:
    """Return "0.300 → 0.500 ▲": two probabilities, with an arrow where they differ as shown."""
    first, last = probability(before), probability(after)
    arrow = "" if first == last else " ▲" if after > before else " ▼"
    return f"{first} → {last}{arrow}"


def percent(fraction: float) -> str:
    """Return a share above 0 and below 1 in per cent; never "0%" or "100%"."""
    if fraction < 0.01:
        return f"{100 * fraction:.1g}%" if fraction >= 0.0001 else "<0.01%"
    return f"{100 * fraction:.0f}%" if fraction < 0.995 else f"{min(99.9, 100 * fraction):.1f}%"


def method_title(name: str) -> str:
    """Return a method's name as it is printed."""
    titles = {"gradcam": "GradCAM", "xgradcam": "XGradCAM", "legrad": "LeGrad", "lrp": "LRP", "deeplift": "DeepLIFT"}
    titles |= {name: name.upper() for name in ("case", "scout", "rise")}
    return titles.get(name, name.replace("_", " "))


def similarities(picture: Picture, view: View, i: int) -> list[Label]:
    """Return a map's cosines: with the original map of the same class, and with that of t_1 in the same view."""
    maps, original = picture.maps[view], picture.maps.get(view._replace(contrast="original"))
    numbers = []
    if original is not None and view.contrast != "original":
        numbers.append(f"cos(original) {cosine(maps[i], original[i]):.3f}")
    if i > 0:
        numbers.append(f"cos(t₁) {cosine(maps[i], maps[0]):.3f}")
    return [fine(number.replace("-", "−")) for number in numbers]
