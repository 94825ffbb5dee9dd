"""Drawing signed maps: one perceptual colour map centred at zero, over a faded photograph; and writing figures.

In grey, equal strengths of both signs are equally dark: there the line at zero, and hatching or minus signs (`style="print"`),
tell the signs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

from wcx.errors import choose
from wcx.report.pictures import STYLES, file_formats

FOR, AGAINST = "#a8172b", "#1c5fa8"  # of numbers and frames
BLOCK = 8  # pixels; input-space maps are drawn as sums over blocks of this side, or nothing would be seen of them
QUANTILE = 0.995  # of the absolute values of such maps: the end of their scale
FAINT = 0.1  # of the scale: weaker blocks are hardly seen, a sign in them would be
_HATCH = {"hatch.linewidth": 0.35}  # points, of maps; Matplotlib reads it when hatching is made, or when it is drawn
_FADE = 0.45  # how far the photograph below a map is moved towards white


def signed_colours(n: int = 257) -> ListedColormap:
    """Return blue - white - red, perceptual: in OKLab, lightness and chroma are linear in the distance from the middle.

    Both ends are equally light (L = 0.45), so equal strengths look equally strong, in colour and in grey.
    Source: B. Ottosson, "A perceptual color space for image processing" (2020).
    """
    x = np.linspace(-1, 1, n)
    hue = np.deg2rad(np.where(x < 0, 255.0, 22.0))
    lightness, chroma = 0.985 - 0.535 * np.abs(x), 0.165 * np.abs(x)
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
    to_lms = np.array(
        [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.291485548]]
    )
    to_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.707614701],
        ]
    )
    linear = np.clip((lab @ to_lms.T) ** 3 @ to_rgb.T, 0, 1)
    return ListedColormap(
        np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055), "wcx signed"
    )


COLOURS = signed_colours()  # red for, blue against; white at zero


def scale_of(maps: Tensor, quantile: float = 1.0) -> float:
    """Return the end of the common scale of maps that are to be compared (1 if all are zero).

    Args:
        maps: of any shape.
        quantile: of the absolute values: 1 is the largest; a little less where single pixels stand out.
    """
    values = maps.abs().flatten().double().cpu().numpy()
    return float(np.quantile(values, quantile)) or float(values.max()) or 1.0


def block_side(maps: Tensor) -> int:
    """Return the side of the blocks, in pixels, that maps (..., W) are summed over: less than `BLOCK` in a small image."""
    return max(1, min(BLOCK, maps.shape[-1] // 12))


def block_sums(maps: Tensor) -> Tensor:
    """Return maps (T, H, W) summed over blocks of pixels of the side B = `block_side`, (T, H // B, W // B)."""
    block = block_side(maps)
    return nn.functional.avg_pool2d(maps[:, None], block)[:, 0] * block**2


def paint_photograph(ax: Axes, pixels: Tensor) -> None:
    """Show pixels (3, H, W), or grey ones (1, H, W), in [0, 1]."""
    ax.imshow(pixels.expand(3, -1, -1).movedim(0, 2).clamp(0, 1).cpu().numpy())
    ax.set_axis_off()


def paint_map(
    ax: Axes, pixels: Tensor | None, attribution: Tensor, scale: float, style: str = "colour", *, has_line: bool = True
) -> None:
    """Show a signed map (H, W) over its photograph, in grey and faded, with a line where the sign changes if `has_line`.

    Args:
        pixels: (channels, H, W) in [0, 1]; where the map is zero they alone are seen. None: the map alone, in a thin frame.
        scale: value of the deepest colours, the same for all maps that are to be compared.
        style: ``colour``, or ``print``: what is negative is hatched, so that the sign is seen in grey too; without a
            photograph, each negative pixel from `FAINT` on bears a minus.

    Raises:
        WcxError: an unknown style.
    """
    values = attribution.double().cpu().numpy()
    colours = {"cmap": COLOURS, "norm": Normalize(-scale, scale)}
    choose("style", style, STYLES)
    if pixels is None:
        ax.imshow(values, interpolation="nearest", **colours)
        if style == "print":  # the lines of hatching lie wider apart than blocks do
            rows, columns = np.nonzero(values <= -FAINT * scale)
            ends = np.stack([[columns - 0.3, rows], [columns + 0.3, rows]]).transpose(2, 0, 1)
            is_dark = values[rows, columns] < -scale / 2
            ax.add_collection(LineCollection(ends, colors=np.where(is_dark, "white", "black"), linewidths=0.5))
        paint_frame(ax, "0.6", 0.4)
        return
    ax.imshow(_FADE + (1 - _FADE) * pixels.mean(0).clamp(0, 1).cpu().numpy(), cmap="gray", vmin=0, vmax=1)
    ax.imshow(values, alpha=0.85 * np.clip(np.abs(values) / scale, 0, 1) ** 0.35, **colours)
    if has_line and values.min() < 0 < values.max():
        colour, width = ("0.1", 0.9) if style == "print" else ("0.25", 0.6)
        ax.contour(values, levels=[0], colors=colour, linewidths=width)
    if style == "print" and values.min() < 0:
        with mpl.rc_context(_HATCH):
            negative = ax.contourf(values, levels=[2 * values.min(), 0], colors="none", hatches=["////"])
        negative.set(edgecolor="0.15", linewidth=0)
    ax.set_axis_off()


def paint_frame(ax: Axes, colour: str = FOR, width: float = 1.6) -> None:
    """Draw a frame around a picture."""
    ax.set_axis_on()
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(linewidth=width, color=colour)


def paint_bar(ax: Axes, scale: float, size: float = 6.0) -> None:
    """Draw a colour bar into flat axes, with its values below."""
    mappable = ScalarMappable(Normalize(-scale, scale), COLOURS)
    bar = ax.get_figure().colorbar(mappable, cax=ax, orientation="horizontal", ticks=[-scale, 0, scale])
    bar.solids.set_rasterized(True)  # in a PDF, the seams between 257 vector patches would be seen
    bar.ax.set_xticklabels([f"−{scale:.2g}", "0", f"{scale:.2g}"], fontsize=size)
    for label, place in zip(bar.ax.get_xticklabels(), ("left", "center", "right"), strict=True):
        label.set_horizontalalignment(place)
    bar.ax.tick_params(length=1.5, width=0.4, pad=1)
    bar.outline.set_linewidth(0.4)


def frame(pixels: Tensor, paint: Callable[[Axes], object], side: int) -> Image.Image:
    """Return what `paint` draws into axes that fill a picture, RGB, in the proportions of pixels (channels, H, W).

    Args:
        side: the shorter side of the picture, in pixels.
    """
    height, width = pixels.shape[-2:]
    inches = side / 100 / min(height, width)
    figure = Figure(figsize=(width * inches, height * inches), dpi=100)
    paint(figure.add_axes((0, 0, 1, 1)))
    return image(figure)


def image(figure: Figure) -> Image.Image:
    """Return a figure as an RGB image."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def write_figure(
    figure: Figure, path: Path, formats: str | Sequence[str] = "png", dpi: float = 150, hatch: float = 0.35
) -> list[Path]:
    """Write a figure; the same figure gives the same bytes.

    Args:
        path: of the files; each format's suffix is appended to its name.
        formats: ``png``, ``pdf``, ``svg``; in the last two lines and letters are vectors, a PDF's letters with
            their fonts, an SVG's as outlines: a viewer may lack the font.
        dpi: of a PNG, and of the photographs inside the others.
        hatch: width of hatching, points.

    Raises:
        WcxError: no format, or an unknown one.
    """
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells of every letter that it embeds
    FigureCanvasAgg(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    files = []
    without_date = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
    with mpl.rc_context({"hatch.linewidth": hatch, "pdf.fonttype": 42, "svg.hashsalt": "wcx"}):
        for name in file_formats(formats):
            files.append(path.with_name(f"{path.name}.{name}"))
            figure.savefig(files[-1], dpi=dpi, metadata=without_date[name])
    return files
