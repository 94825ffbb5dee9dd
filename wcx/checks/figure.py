"""Every method under every contrast on one photograph, as one figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.cbook import get_sample_data
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torchvision.models import ResNet18_Weights

from wcx import contrasts, methods
from wcx.checks.base import Request
from wcx.experiments import Subject
from wcx.experiments.gallery import FigureKind, GallerySettings
from wcx.experiments.images import Item
from wcx.images import Transform
from wcx.models import LoadedModel
from wcx.report.pictures.draw import write_figure
from wcx.report.pictures.layouts import plate_figure
from wcx.report.pictures.plate import Plate

NETWORK = "squeezenet1_1"
OPTIONS: dict[str, dict[str, Any]] = {"integrated_gradients": {"steps": 32}}


def photograph() -> Tensor:
    """Return the portrait of Grace Hopper that matplotlib ships (public domain), pixels (3, 224, 224) in [0, 1]."""
    return Transform("crop")(Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB"))


def drawing(loaded: LoadedModel, style: str = "colour") -> Figure:
    """Draw a row a method and a column a contrast: the gallery's figure `methods`, for the predicted class."""
    created = {name: methods.create(name, **OPTIONS.get(name, {})) for name in methods.of_gradients()}
    created["gradient (smooth)"] = methods.create("gradient", samples=16)
    created = dict(sorted(created.items(), key=lambda pair: pair[1].space))
    kind = FigureKind(tuple(created), tuple(contrasts.names()), targets=1)
    item = Item(0, "A portrait of Grace Hopper", -1, photograph())
    names = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    subject = Subject(loaded.model, loaded.layer, created)
    facts = {"dataset_label": "ImageNet's classes", "model": loaded.name, "weights": loaded.weights}
    pictures = GallerySettings().explain(subject, [item], kind, names)
    return plate_figure(Plate("methods", pictures, facts, style=style))


def shrink(file: Path) -> None:
    """Leave a PNG 256 colours: a third of the size."""
    small = Image.open(file).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, 3)  # few colours fill no area
    small.save(file, optimize=True)


def drawn(request: Request, folder: Path, formats: str | Sequence[str] = "png", style: str = "colour") -> list[Path]:
    """Draw methods_x_contrasts.png, or in other formats, into a folder; return the files."""
    figure = drawing(request.network(NETWORK), style)
    files = write_figure(figure, folder / "methods_x_contrasts", formats, dpi=110)
    for file in files:
        if file.suffix == ".png":
            shrink(file)
    return files
