"""Every method under every contrast on one photograph, as one figure."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.cbook import get_sample_data
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torchvision.models import ResNet18_Weights

from scripts import cli
from scripts.verify_oracle import Variant
from wcx import contrasts, methods, models
from wcx.datasets.base import Transform
from wcx.experiments import gallery
from wcx.experiments.items import Item
from wcx.report import gallery_layouts
from wcx.report.gallery_page import Page

OPTIONS = {"integrated_gradients": {"steps": 32}}
EXTRA = (Variant("gradient (smooth)", "gradient", {"samples": 16}),)


def photograph() -> Tensor:
    """Return the portrait of Grace Hopper that matplotlib ships (public domain), pixels (3, 224, 224) in [0, 1]."""
    with get_sample_data("grace_hopper.jpg") as file:
        return Transform("crop")(Image.open(file).convert("RGB"))


def picture(overrides: Sequence[str] = (), network: str = "squeezenet1_1") -> Figure:
    """Draw a row a method and a column a contrast: the gallery's figure `methods`, for the predicted class."""
    cfg = cli.compose(["dataset=imagenet", f"model={network}", *overrides])
    loaded = models.load(**cli.plain(cfg.model), weights_dir=cfg.paths.weights_dir)
    variants = [Variant(name, name, OPTIONS.get(name, {})) for name in methods.names()] + list(EXTRA)
    variants.sort(key=lambda variant: methods.get(variant.method).space)
    made = {one.label: methods.create(one.method, **one.options) for one in variants}
    figure = gallery.Figure(tuple(made), tuple(contrasts.names()), targets=1)
    item = Item(0, "A portrait of Grace Hopper", -1, photograph())
    return gallery_layouts.draw(
        Page(
            figure="methods",
            shown=gallery.show(gallery.Lens(loaded.model, loaded.layer, made), [item], figure, gallery.Settings()),
            class_names=ResNet18_Weights.IMAGENET1K_V1.meta["categories"],
            dataset="imagenet",
            model=network,
            label="ImageNet's classes",
            weights=loaded.weights,
            spaces={name: method.space for name, method in made.items()},
        )
    )


def save(figure: Figure, file: Path) -> None:
    """Write a figure as a PNG of 256 colours, a third of the size."""
    canvas = io.BytesIO()
    figure.savefig(canvas, dpi=110)
    Image.open(canvas).convert("RGB").quantize(256).save(file, optimize=True)
