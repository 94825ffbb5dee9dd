"""What the checks share: what is asked of them, what they answer, and cells that resume."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pandas as pd
from tqdm import tqdm

from wcx import records
from wcx.datasets import ImageDataset
from wcx.experiments.images import Item
from wcx.models import LoadedModel

WCX = Path(__file__).resolve().parent.parent
_EVERYWHERE = ("contrasts", "explainer", "images", "models", "methods/base", "checks/cells", "checks/specimens")
_LIBRARIES = ("torch", "torchvision", "zennit", "captum")
_T = TypeVar("_T")


class Result(NamedTuple):
    """What a check found.

    Attributes:
        text: for the screen.
        agreed: False if a number is not what the theory says.
    """

    text: str
    agreed: bool = True


@dataclass(frozen=True)
class Request(ABC):
    """What is asked of the checks; a process of its own gets a copy (pickle).

    Attributes:
        folder: where tables, figures and cells go.
        networks: of the oracle, see `specimens.NETWORKS`.
        methods, contrasts: names.
        typed: the settings beside these lists that were chosen, as text: part of the cells' stamps.
        limit: so many images; None is each check's own number.
        seed: of the images' order.
        epsilon: largest change of a pixel, of the perturbation.
        checkpoints_dir: of fine-tuned networks.
    """

    folder: Path
    networks: Sequence[str]
    methods: Sequence[str]
    contrasts: Sequence[str]
    typed: tuple[str, ...] = ()
    limit: int | None = None
    seed: int = 0
    epsilon: float = 1e-3
    checkpoints_dir: Path = Path("checkpoints")

    @abstractmethod
    def images(self, dataset: str, model: str) -> ImageDataset:
        """Open the test images of a dataset, transformed as a model wants them."""

    @abstractmethod
    def network(self, model: str, dataset: ImageDataset | None = None) -> LoadedModel:
        """Load a model with ImageNet's weights, or as fine-tuned on another dataset."""

    @abstractmethod
    def fresh(self, model: str, weights: str) -> LoadedModel:
        """Load a model of ImageNet's 1000 classes with weights `random`, or `auto`: what the file has, the classifier random."""


def code_hash(names: Sequence[str]) -> str:
    """Return a hash over the code that numbers come from, and the versions of the libraries below it.

    Args:
        names: files and folders below wcx, without ".py", beside those that every number depends on.
    """
    digest = hashlib.sha256(str([_version(library) for library in _LIBRARIES]).encode())
    for name in sorted({*_EVERYWHERE, *names}):
        files = sorted((WCX / name).glob("*.py")) or [WCX / f"{name}.py"]
        for file in files:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


@dataclass
class Cells:
    """The cells of one part: each a small CSV that appears whole, and is not made again for the same code.

    Attributes:
        folder: the results of verify.
        part: name of the part, that of its file.
        code: what its numbers depend on beside that file, see `code_hash`.
        settings: everything beside the code that could change a number, as JSON values.
    """

    folder: Path
    part: str
    code: Sequence[str]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.stamp = records.fingerprint(
            {"code": code_hash([f"checks/{self.part}", *self.code]), "settings": self.settings}
        )

    def rows(self, key: str, compute: Callable[[], list[dict[str, Any]]]) -> pd.DataFrame:
        """Return the rows of the cell `key`, computed if they are not there."""
        file = self.folder / "cells" / self.part / f"{key}-{self.stamp}.csv"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(f".{os.getpid()}.part")
            pd.DataFrame(compute()).to_csv(part, index=False, na_rep="nan")
            part.replace(file)
        return pd.read_csv(file, keep_default_na=False, na_values=["nan"])


def readable(items: Iterable[Item]) -> list[Item]:
    """Return images as they are.

    Raises:
        DataError: one of them cannot be read.
    """
    images = list(items)
    for item in images:
        if item.error is not None:
            raise item.error
    return images


def progress(steps: Sequence[_T], label: str) -> tqdm[_T]:
    """Return `steps` under a progress bar with the time left."""
    return tqdm(steps, desc=label, dynamic_ncols=True, mininterval=1.0)


def save(table: pd.DataFrame, folder: Path, name: str) -> None:
    """Write a table as <folder>/<name>.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
