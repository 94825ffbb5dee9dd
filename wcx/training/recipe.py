"""Recipes: every value of a fine-tuning in one frozen record of plain values, and what follows from them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import nn
from torchvision.transforms import v2

from wcx.errors import WcxError, choose, construct

# Name -> (value from the YAML, side of the image) -> transform of a PIL image. They run in the YAML's order.
AUGMENTATIONS = {
    "horizontal_flip": lambda p, _: v2.RandomHorizontalFlip(p),
    "vertical_flip": lambda p, _: v2.RandomVerticalFlip(p),
    "rotation": lambda degrees, _: v2.RandomRotation(degrees),
    "color_jitter": lambda ranges, _: v2.ColorJitter(*ranges),  # brightness, contrast, saturation, hue
    "translation": lambda share, _: v2.RandomAffine(0, translate=(share, share)),
    "random_resized_crop": lambda scale, side: v2.RandomResizedCrop(side, scale=tuple(scale)),
    "perspective": lambda pair, _: v2.RandomPerspective(pair[0], p=pair[1]),  # distortion, probability
    "grayscale": lambda p, _: v2.RandomGrayscale(p),
    "blur": lambda o, _: v2.RandomApply([v2.GaussianBlur(o["kernel"], sigma=tuple(o["sigma"]))], p=o["p"]),
}

# Name -> what of its value may be a range [lowest, highest]: torchvision takes some turned round, without a word.
_RANGES: Mapping[str, Callable[[Any], Iterable[Any]]] = {
    "rotation": lambda degrees: [degrees],
    "color_jitter": lambda ranges: ranges,
    "random_resized_crop": lambda scale: [scale],
    "blur": lambda options: [options.get("sigma")],
}


@dataclass(frozen=True)
class Recipe:
    """How to fine-tune; conf/recipe/<name>.yaml holds one.

    Attributes:
        name: kept in the checkpoint.
        train: "all" trains every layer; "tail" computes the inputs of the module `cut` once and trains what comes behind it on
            them (`wcx.training.tail`); "head" is the tail whose cut is the classifying head.
        cut: train=tail: a module of the network, by name; None: where the last block of convolutions begins.
        optimizer: "sgd" or "adamw".
        lr: learning rate (its peak, with a schedule).
        momentum: of SGD.
        weight_decay: on all parameters.
        schedule: of the learning rate over the steps: "constant", "cosine" (to zero), or "one_cycle" (up to `lr` in the
            first 30%, then down; torch's OneCycleLR without its cycling of the momentum).
        epochs, batch_size: a last batch of a single image is left out (BatchNorm needs two).
        label_smoothing: of the cross entropy.
        freeze_batchnorm: BatchNorm keeps its running statistics (it trains its weights in eval mode).
        select: "last" epoch, or "best" accuracy on a seeded `holdout` of train, never on test.
        holdout: share of train that "best" is chosen on, and that is not trained on.
        augment: name -> value, see `AUGMENTATIONS`; run in this order.
        mirror: train=head and tail learn from the mirror images as well.
        variants: train=head and tail learn from so many augmented variants of each image, besides the image itself.
        kept: dtype of the inputs that train=head and tail keep: "float16", "float32" or "float64".
    """

    name: str
    train: str = "all"
    optimizer: str = "sgd"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "constant"
    epochs: int = 1
    batch_size: int = 32
    label_smoothing: float = 0.0
    freeze_batchnorm: bool = False
    select: str = "last"
    holdout: float = 0.1
    augment: Mapping[str, Any] = field(default_factory=dict)
    mirror: bool = False
    cut: str | None = None
    variants: int = 0
    kept: str = "float32"

    def __post_init__(self) -> None:
        for option, choices in {
            "train": ("all", "head", "tail"),
            "kept": ("float16", "float32", "float64"),
            "optimizer": ("sgd", "adamw"),
            "schedule": ("constant", "cosine", "one_cycle"),
            "select": ("last", "best"),
        }.items():
            choose(f"recipe.{option}", getattr(self, option), choices)
        for name, value in self.augment.items():
            choose("augmentation", name, AUGMENTATIONS)
            for pair in _RANGES[name](value) if name in _RANGES else ():
                if isinstance(pair, Sequence) and len(pair) == 2 and pair[0] > pair[1]:
                    raise WcxError(f"recipe.augment.{name} = {value!r}: {pair!r} is no range; give [lowest, highest].")
        if self.train != "all" and bool(self.augment) != bool(self.variants):
            raise WcxError(
                f"recipe.train={self.train} learns from features computed once: recipe.variants says how many variants of each "
                f"image recipe.augment makes, so give both or neither"
            )
        if self.train == "all" and (self.variants or self.mirror):
            raise WcxError("recipe.variants and mirror have no effect with recipe.train=all; use augment")
        if self.cut is not None and self.train != "tail":
            raise WcxError(f"recipe.cut has no effect with recipe.train={self.train}; give recipe.train=tail")
        if self.variants < 0:
            raise WcxError(f"recipe.variants={self.variants}: expected a whole number from 0 on")
        if min(self.epochs, self.batch_size) < 1 or self.lr <= 0 or not 0 < self.holdout < 1:
            raise WcxError("recipe: epochs and batch_size must be at least 1, lr above 0, holdout between 0 and 1")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Recipe:
        """Return the recipe with these values; WcxError on an unknown name."""
        for option in options:
            choose("option of recipe", option, [f.name for f in fields(cls)])
        return construct("recipe.", cls, options)

    def augmentation(self, side: int) -> v2.Transform:
        """Return the augmentations as one transform of PIL images with sides of `side` pixels."""
        return v2.Compose([AUGMENTATIONS[name](value, side) for name, value in self.augment.items()] or [v2.Identity()])

    def build_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return the optimiser of `parameters`."""
        if self.optimizer == "sgd":
            kind, options = torch.optim.SGD, {"momentum": self.momentum}
        else:
            kind, options = torch.optim.AdamW, {}
        return kind(parameters, self.lr, weight_decay=self.weight_decay, fused=True, **options)  # one pass over memory

    def lr_at(self, step: int, steps: int) -> float:
        """Return the learning rate of step `step` (from 0) of `steps`; no state, so that nothing is to be resumed."""
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * step / steps)) / 2
        # torch.optim.lr_scheduler.OneCycleLR: pct_start, div_factor, final_div_factor
        peak, last = 0.3 * steps - 1, steps - 1
        start, end = self.lr / 25, self.lr / 25 / 1e4
        if step <= peak:
            return _anneal(start, self.lr, step / peak if peak > 0 else 1.0)
        return _anneal(self.lr, end, (step - peak) / (last - peak) if last > peak else 1.0)


def _anneal(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def derive(*parts: int | str) -> int:
    """Return a seed below 2^63 made of `parts`: the same for the same parts, unrelated for others."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1
