"""What the parts of scripts/verify.py share: cells that resume, networks, and images."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from tqdm import tqdm

from scripts import cli
from wcx import models, records
from wcx.datasets import ImageDataset
from wcx.experiments import items

ROOT = Path(__file__).resolve().parent.parent
_EVERYWHERE = ("contrasts", "explainer", "models", "weights", "methods/base")  # of wcx, under every number
_LIBRARIES = ("torch", "torchvision", "zennit", "captum")


def code_hash(patterns: Sequence[str]) -> str:
    """Return a hash over the code that numbers come from, and the versions of the libraries below it.

    Args:
        patterns: files below the repository's root, without ".py", beside those that every number depends on.
    """
    known = [f"wcx/{name}" for name in _EVERYWHERE] + ["scripts/verify_cells"]
    files = sorted({file for pattern in [*known, *patterns] for file in ROOT.glob(f"{pattern}.py")})
    digest = hashlib.sha256(str([version(name) for name in _LIBRARIES]).encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


@dataclass
class Cells:
    """The cells of one part: each a small CSV that appears whole, and is not made again for the same code.

    Attributes:
        folder: the results of verify.
        part: name of the part.
        code: the files that its numbers depend on, see `code_hash`.
        settings: everything beside the code that could change a number, as JSON values.
    """

    folder: Path
    part: str
    code: Sequence[str]
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.stamp = records.fingerprint({"code": code_hash(self.code), "settings": self.settings})

    def rows(self, key: str, compute: Callable[[], list[dict[str, Any]]]) -> pd.DataFrame:
        """Return the rows of the cell `key`, computed if they are not there."""
        file = self.folder / "cells" / self.part / f"{key}-{self.stamp}.csv"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(f".{os.getpid()}.part")
            pd.DataFrame(compute()).to_csv(part, index=False, na_rep="nan")
            part.replace(file)
        return pd.read_csv(file, keep_default_na=False, na_values=["nan"])


def progress(what: Iterable[Any], total: int, label: str) -> Iterable[Any]:
    """Return `what` under a progress bar with the time left."""
    return tqdm(what, total=total, desc=label, dynamic_ncols=True, mininterval=1.0)


def save(table: pd.DataFrame, folder: Path, name: str) -> None:
    """Write a table as <folder>/<name>.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")


@dataclass
class Subject:
    """A network in eval mode and images in its input space, both float32.

    Attributes:
        name: of the network.
        weights: the label for tables.
        net: normalised images -> logits.
        images: (N, 3, H, W), normalised.
        layer: the activation layer, or None (found).
    """

    name: str
    weights: str
    net: nn.Module
    images: Tensor
    layer: str | None = None

    def to(self, dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
        """Return a copy of the network, and the images, in another dtype."""
        return copy.deepcopy(self.net).to(dtype), self.images.to(dtype)


SMALL = ("conv_batchnorm", "bias_free")
TRAINED = ("squeezenet1_1", "mobilenet_v2")
CONVOLUTIONS = ("vgg16", "alexnet")
RANDOM = ("resnet18", "densenet161", "googlenet", "mobilenet_v3_small", "efficientnet_b1", "mnasnet1_0")
NETWORKS = (*SMALL, *TRAINED, *CONVOLUTIONS, *RANDOM)
SIDE = {
    **dict.fromkeys(NETWORKS, 96),
    "vgg16": 64,
    "densenet161": 64,
    "squeezenet1_1": 128,
    "mobilenet_v2": 128,
}  # pixels


def subject(name: str, count: int, overrides: Sequence[str] = (), side: int | None = None) -> Subject:
    """Return one of `NETWORKS` with `count` images.

    The small networks of the tests get noise, all others photographs of the ImageNet sample at `side` pixels (default:
    `SIDE`). squeezenet1_1 and mobilenet_v2 come with their weights, vgg16 and alexnet with their convolutions below a
    fresh classifier, the others with random weights.
    """
    if name in SMALL:
        from tests import nets

        return Subject(name, "random", nets.ALL[name](), nets.images(count))
    cfg = cli.compose(["dataset=imagenet", f"model={name}", *overrides])
    dataset = cli.open_dataset(cfg, "test")
    loaded = load(cfg, name, dataset)
    shape = (side or SIDE[name],) * 2
    pixels = torch.stack([dataset[i][0] for i in items.order(len(dataset), count, cfg.seed)])
    if pixels.shape[-2:] != shape:
        pixels = nn.functional.interpolate(pixels, shape, mode="bilinear", antialias=True)
    images = loaded.model.normalise(pixels.to(cli.device(cfg)))
    if name in RANDOM:
        calibrate(loaded.net, images)
    label = {**dict.fromkeys(CONVOLUTIONS, f"{loaded.weights}, fresh classifier")}.get(name, loaded.weights)
    return Subject(name, label, loaded.net, images, loaded.layer)


def load(cfg: DictConfig, name: str, dataset: ImageDataset) -> models.LoadedModel:
    """Return the network with the weights that `subject` promises."""
    if name not in CONVOLUTIONS + RANDOM:
        return cli.open_model(cfg, dataset)
    arguments = cli.plain(cfg.model) | {"weights": "auto" if name in CONVOLUTIONS else "random", "checkpoint": None}
    return models.load(
        **arguments, num_classes=1000, weights_dir=cfg.paths.weights_dir, device=cli.device(cfg), seed=cfg.seed
    )


@torch.no_grad()
def calibrate(net: nn.Module, images: Tensor) -> None:
    """Give a random network's BatchNorms the statistics of noisy images, without which deep ones fade or explode."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(8, *images.shape[1:], generator=generator).to(images)
    net(images[:1] + noise)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum


def rival_classes(logits: Tensor, limit: int = 50, count: int = 20, seed: int = 0) -> tuple[int, list[int] | None]:
    """Return the predicted class of one image's logits (1, C), and its foils.

    None (all others) up to `limit` classes, else `count` at random.
    """
    target, classes = int(logits.argmax(1)), logits.shape[1]
    if classes <= limit:
        return target, None
    shuffled = torch.randperm(classes, generator=torch.Generator().manual_seed(seed)).tolist()
    return target, sorted([s for s in shuffled if s != target][:count])
