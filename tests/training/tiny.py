"""A dataset, a network and recipes so small that a training takes a second."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from wcx import models, training
from wcx.datasets.base import ImageDataset
from wcx.errors import DataError
from wcx.images import Transform
from wcx.training.recipe import Recipe, derive


class Drawn(ImageDataset):
    """Stripes whose direction is the class, under noise; `count` says how many images were asked for."""

    def __init__(self, split: str, size: int = 24, classes: int = 3, side: int = 16) -> None:
        ids = [f"{split}-{i}" for i in range(size)]
        names = ["rows", "columns", "checks"][:classes]
        labels = [i % classes for i in range(size)]
        super().__init__("drawn", split, None, ids, labels, class_names=names, transform=Transform("squash", side))
        self.count, self.broken = 0, None

    def image(self, i: int) -> Image.Image:
        self.count += 1
        if i == self.broken:
            raise DataError(f"cannot read image {self.ids[i]}: it is broken.")
        rows, columns = np.indices((16, 16)) // 4 % 2
        pattern = [rows, columns, rows ^ columns][self.labels[i]][:, :, None]
        noise = np.random.default_rng(derive(self.split, i) % 2**32).normal(0, 60, (16, 16, 3))
        return Image.fromarray((pattern * 120 + 60 + noise).clip(0, 255).astype(np.uint8))


class Tiny(nn.Module):
    """Convolution, BatchNorm, and a classifier with dropout: all that training must take care of."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(8 * 49, 16), nn.ReLU(), nn.Linear(16, classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(images).flatten(1))


def start(seed: int = 0) -> models.LoadedModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Tiny(3).eval()
    return models.LoadedModel(
        net=net,
        model=models.Normalized(net).eval(),
        name="tiny",
        layer="features",
        class_names=None,
        weights="stand-in: tiny.pth",
        stand_in=True,
        weights_hash=models.weights_hash(net.state_dict()),
        transform={},
    )


ALL = Recipe("t", optimizer="adamw", lr=5e-3, epochs=3, batch_size=8, augment={"horizontal_flip": 0.5, "rotation": 5})
BEST = Recipe("b", lr=0.05, epochs=3, batch_size=8, select="best", schedule="one_cycle", holdout=0.3)
HEAD = Recipe("h", train="head", lr=0.05, epochs=3, batch_size=8, mirror=True)
TAIL = replace(
    HEAD, train="tail", cut="features.1", kept="float16", variants=1, augment={"random_resized_crop": (0.7, 1.0)}
)


def run(path: Path, recipe: Recipe, **options: object) -> models.LoadedModel:
    loaded = start()
    training.finetune(loaded, Drawn("train"), Drawn("test", 9), recipe, path, num_workers=0, **options)
    return loaded
