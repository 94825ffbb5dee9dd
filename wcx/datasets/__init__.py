"""Datasets: labelled images as [0, 1] pixels, one file a dataset, each in its official layout.

A dataset is a module of this package with a function `load(root, split, **options) -> ImageDataset`; nothing is registered anywhere.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wcx.datasets.base import SPLITS, ImageDataset, Transform
from wcx.errors import DataError, choose

__all__ = ["DataError", "ImageDataset", "Transform", "load", "names"]


def names() -> list[str]:
    """Return the names of the datasets: the modules of this package that define `load`."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in found if hasattr(importlib.import_module(f"{__name__}.{name}"), "load"))


def load(
    name: str,
    root: str | Path,
    split: str = "test",
    transform: Transform | Mapping[str, Any] | None = None,
    **options: Any,
) -> ImageDataset:
    """Open the dataset `name` that lives in the folder `root`.

    Args:
        name: one of `names()`.
        root: the dataset's folder, holding its official layout.
        split: "train" or "test".
        transform: a `Transform`, its arguments as a mapping, or None for the dataset's own.
        options: those of the dataset's own `load`; `download`, `allow_partial` and `official` are common.

    Raises:
        WcxError: unknown name, split or option.
        DataError: the files are missing, incomplete or contradictory.
    """
    module = importlib.import_module(f"{__name__}.{choose('dataset', name, names())}")
    choose("split", split, SPLITS)
    known = list(inspect.signature(module.load).parameters)[2:]
    for option in options:
        choose(f"option of dataset {name}", option, known)
    dataset = module.load(Path(root).expanduser(), split, **options)
    if transform is not None:
        dataset.transform = transform if isinstance(transform, Transform) else Transform(**transform)
    return dataset
