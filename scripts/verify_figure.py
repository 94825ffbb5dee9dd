"""Every method under every contrast on one photograph, as one figure."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.cbook import get_sample_data
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights

import wcx
from scripts import cli
from scripts.verify_oracle import Variant
from wcx import contrasts, methods, models
from wcx.datasets.base import Transform
from wcx.report import render

BLOCK = 8  # pixels; input-space maps are summed over blocks of this side, or nothing would be seen of them
OPTIONS = {"integrated_gradients": {"steps": 32}}
EXTRA = (Variant("gradient (smooth)", "gradient", {"samples": 16}),)


def photograph() -> Tensor:
    """Return the portrait of Grace Hopper that matplotlib ships (public domain), pixels (3, 224, 224) in [0, 1]."""
    with get_sample_data("grace_hopper.jpg") as file:
        return Transform("crop")(Image.open(file).convert("RGB"))


def block_sums(maps: Tensor) -> Tensor:
    """Return maps (..., 3, H, W) summed over channels and over blocks of pixels, (..., H / BLOCK, W / BLOCK)."""
    return nn.functional.avg_pool2d(maps.sum(-3).flatten(0, -3)[:, None], BLOCK)[:, 0] * BLOCK**2


def picture(overrides: Sequence[str] = (), network: str = "squeezenet1_1") -> Figure:
    """Draw a row a method and a column a contrast: the predicted class, red for and blue against.

    The scale of a row is the largest absolute value in it, for input-space maps the 99.5 % quantile. `probability` is divided by
    p_t (1 - p_t), Proposition 2's factor.
    """
    cfg = cli.compose(["dataset=imagenet", f"model={network}", *overrides])
    loaded = models.load(**cli.plain(cfg.model), weights_dir=cfg.paths.weights_dir)
    pixels = photograph()
    with torch.no_grad():
        p = loaded.model(pixels[None]).softmax(1)[0].double()
    (p_t, p_2), (target, rival) = (x.tolist() for x in p.topk(2))
    names = contrasts.names()
    chosen = [Variant(name, name, OPTIONS.get(name, {})) for name in methods.names()] + list(EXTRA)
    chosen.sort(key=lambda variant: methods.get(variant.method).space)
    figure = Figure(figsize=(1.3 * (len(names) + 1), 1.22 * len(chosen) + 0.7), layout="constrained")
    axes = figure.subplots(len(chosen), len(names) + 1, squeeze=False)
    for row, variant in zip(axes, chosen, strict=True):
        space = methods.get(variant.method).space
        layer = loaded.layer if space == "activation" else None
        arguments = {"layer": layer, **variant.options}
        maps = wcx.explain(loaded.model, pixels[None], target, variant.method, names, **arguments)[:, 0].double()
        maps = maps if space == "activation" else block_sums(maps)
        maps[names.index("probability")] /= p_t * (1 - p_t)
        scale = draw(row[1:], maps, pixels, overlaid=space == "activation")
        row[0].set_axis_off()
        row[0].text(0, 0.5, f"{variant.label.replace('_', chr(10))}\n±{scale:.2g}", fontsize=8, va="center")
    for ax, name in zip(axes[0, 1:], names, strict=True):
        ax.set_title("probability\n÷ $p_t(1-p_t)$" if name == "probability" else name, fontsize=8)
    labels = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    figure.suptitle(
        f"{network} ({loaded.weights}): why {labels[target]} (p = {p_t:.2f}), and not {labels[rival]} ({p_2:.2f}), ...?\n"
        f"Red for, blue against, one scale a row. Input-space maps: sums over channels and {BLOCK}×{BLOCK} pixels.",
        fontsize=8,
    )
    return figure


def draw(row: Sequence[Axes], maps: Tensor, pixels: Tensor, overlaid: bool) -> float:
    """Draw a row's maps (contrast, h, w), over the photograph or alone, and return their scale."""
    scale = render.scale_of(maps) if overlaid else float(maps.abs().flatten().quantile(0.995)) or 1.0
    for ax, one in zip(row, maps, strict=True):
        if overlaid:
            render.overlay(ax, pixels, wcx.upsample(one[None], pixels.shape[-1])[0], scale)
        else:
            ax.imshow(one.numpy(), cmap=render.COLOURS, vmin=-scale, vmax=scale)
            ax.set_axis_off()
    return scale


def save(figure: Figure, file: Path) -> None:
    """Write a figure as a PNG of 256 colours, a third of the size."""
    canvas = io.BytesIO()
    figure.savefig(canvas, dpi=110)
    Image.open(canvas).convert("RGB").quantize(256).save(file, optimize=True)
