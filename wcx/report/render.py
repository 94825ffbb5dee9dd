"""Drawing signed maps: one perceptual colour map centred at zero, over a faded photograph."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage
from torch import Tensor

COLOURS = "RdBu_r"  # red for, blue against; white at zero
_FADE = 0.65  # how far the photograph below is moved towards white


def scale_of(maps: Tensor) -> float:
    """Return the largest absolute value of maps that are to be compared: the end of their common scale (1 if all are zero)."""
    return float(maps.abs().max()) or 1.0


def photograph(ax: Axes, pixels: Tensor) -> None:
    """Show pixels (3, H, W) in [0, 1]."""
    ax.imshow(pixels.movedim(0, 2).clamp(0, 1).cpu().numpy())
    ax.set_axis_off()


def overlay(ax: Axes, pixels: Tensor, attribution: Tensor, scale: float, alpha: float = 0.7) -> AxesImage:
    """Show a signed map (H, W) over its photograph (3, H, W), in grey and faded, with a line where the sign changes.

    Args:
        scale: value of the deepest colours, the same for all maps that are to be compared.
        alpha: of the colours where the map is strongest; at zero the photograph alone is seen.
    """
    grey = pixels.mean(0).clamp(0, 1).cpu().numpy()
    ax.imshow(_FADE + (1 - _FADE) * grey, cmap="gray", vmin=0, vmax=1)
    values = attribution.double().cpu().numpy()
    strength = np.clip(np.abs(values) / scale, 0, 1) ** 0.5
    ax.imshow(grey, cmap="gray", vmin=0, vmax=1, alpha=0.45)
    image = ax.imshow(values, cmap=COLOURS, norm=Normalize(-scale, scale), alpha=alpha * strength)
    if values.min() < 0 < values.max():
        ax.contour(values, levels=[0], colors="0.25", linewidths=0.6)
    ax.set_axis_off()
    return image


def colour_bar(figure: Figure | SubFigure, image: AxesImage, axes: Sequence[Axes], scale: float) -> None:
    """Draw the colour bar of `overlay` beside axes that share a scale: for above, against below."""
    bar = figure.colorbar(image, ax=list(axes), shrink=0.8, pad=0.02, aspect=18, ticks=[-scale, 0, scale])
    bar.solids.set_alpha(1)
    bar.ax.set_yticklabels(["against", "0", "for"], fontsize=7)
    bar.outline.set_linewidth(0.4)


def wrap(name: str, width: int = 24) -> str:
    """Return a class name broken into lines that fit above a picture."""
    return textwrap.fill(name, width)
