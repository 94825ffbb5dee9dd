"""Datasets: labelled images as [0, 1] pixels, one file a dataset, each in its official layout.

A dataset is a module of this package with a function `load(root, split, **options) -> ImageDataset`; nothing is
registered anywhere. Where its files can be fetched, or only by hand, the module has a function `download(root)` too.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from wcx.datasets.base import SPLITS, ImageDataset
from wcx.datasets.cache import CachedImages, cached
from wcx.errors import DataError, WcxError, choose, construct
from wcx.images import Grey, Preset, Transform
from wcx.paths import home

__all__ = ["CachedImages", "DataError", "ImageDataset", "Transform", "cached", "load", "names"]


def names() -> list[str]:
    """Return the names of the datasets: the modules of this package that define `load`."""
    modules = (module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
    return sorted(name for name in modules if hasattr(importlib.import_module(f"{__name__}.{name}"), "load"))


def load(
    name: str,
    root: str | Path,
    split: str = "test",
    transform: Transform | Mapping[str, Any] | None = None,
    channels: int = 3,
    **options: Any,
) -> ImageDataset:
    """Open the dataset `name` that lives in the folder `root`.

    Args:
        name: one of `names()`.
        root: the dataset's folder, holding its official layout.
        split: "train" or "test".
        transform: a `Transform`, its arguments as a mapping, or None for the dataset's own.
        channels: of the pixels: 3 (RGB), or 1 (grey) for a network that takes one.
        options: those of the dataset's own `load`, and `download=True` to fetch missing files first.

    Raises:
        WcxError: unknown name, split or option.
        DataError: the files are missing, incomplete or contradictory.
    """
    module = importlib.import_module(f"{__name__}.{choose('dataset', name, names())}")
    choose("split", split, SPLITS)
    root = home(root)
    for option in options:
        choose(f"option of dataset {name}", option, [*list(inspect.signature(module.load).parameters)[2:], "download"])
    if options.pop("download", False):
        if not hasattr(module, "download"):
            raise WcxError(f"dataset {name} has nothing to download: leave dataset.download out.")
        module.download(root)
    dataset = module.load(root, split, **options)
    if transform is not None:
        dataset.transform = transform if isinstance(transform, Transform) else as_transform(transform)
    if channels != dataset.transform.channels:
        dataset.transform = as_transform({**asdict(dataset.transform), "channels": channels})
    return dataset


def as_transform(arguments: Mapping[str, Any]) -> Transform:
    """Return the `Transform` of these arguments; `channels`, 3 where it is left out, is 1 for a `Grey` one.

    Raises:
        WcxError: an unknown argument, or a value that does not fit.
    """
    if not isinstance(arguments, Mapping):
        raise WcxError(f"transform = {arguments!r}; give its arguments, such as {{'kind': 'squash', 'size': 224}}.")
    for argument in arguments:
        choose("argument of transform", argument, {field.name for field in (*fields(Grey), *fields(Preset))})
    channels = arguments.get("channels", 3)
    if channels not in (1, 3):
        raise WcxError(
            f"images are read in colour (3 channels) or grey (1), and the network takes {channels}; explain it on tensors of "
            f"your own (wcx.explain), or give model.mean and model.std of 3 or 1 numbers."
        )
    if channels == 1:
        return construct("transform: ", Grey, arguments)
    kind = Preset if arguments.get("interpolation", "bilinear") != "bilinear" else Transform
    stated = {k: v for k, v in arguments.items() if k != "channels" and (kind is Preset or k != "interpolation")}
    return construct("transform: ", kind, stated)
