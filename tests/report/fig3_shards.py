"""Small synthetic records of the sign_perturbation experiment, written through wcx.records; not a test itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from wcx import records
from wcx.records import Shard

COUNTS = (1, 2, 10)
NINE = (
    "vgg16", "alexnet", "resnet18", "densenet161", "googlenet", "mobilenet_v3_large", "mobilenet_v3_small", "mnasnet1_0",
    "efficientnet_b1",
)  # fmt: skip
FOUR = ("original", "mean", "max", "weighted")
# contrast -> how much it moves y_t, and p_t and accuracy: as the paper's figure has them
GAINS = {
    "original": (1, 0.3),
    "mean": (0.97, 0.33),
    "max": (0.55, 0.75),
    "weighted": (0.6, 1),
    "probability": (0.6, 0.9),
}


def make(
    root: Path,
    contrast: str,
    n: int = 40,
    *,
    dataset: str = "imagenet",
    model: str = "vgg16",
    method: str = "gradient",
    epsilon: float = 0.003,
    iterations: Sequence[int] = COUNTS,
    skipped: Iterable[int] = (),
    zero: int = 0,
    gain: tuple[float, float] | None = None,
    images: int = 0,
    labels: dict | None = None,
    settings: dict | None = None,
) -> Shard:
    """Write one shard of two chunks: random changes around those of `gain`, the images the same for all contrasts.

    Args:
        skipped: images that could not be read.
        zero: images with a gradient of zero.
        gain: mean change of y_t, and of p_t and accuracy, at one iteration of epsilon 0.003, over 0.1.
        images: index of the first.
    """
    rng = np.random.default_rng([*model.encode()])
    y, p = rng.normal(15, 4, n), rng.beta(2, 1, n)
    correct = (p > rng.uniform(0.1, 0.5, n)).astype(int)
    scale = epsilon / 0.003 * rng.uniform(0.3, 1.2)
    own = np.random.default_rng([*model.encode(), *contrast.encode()])
    logit, probability = gain or GAINS[contrast]
    rows: list[dict] = []
    after = {}
    for k, count in enumerate(iterations):
        more = scale * (1 + 0.35 * k)
        moved = p + 0.1 * more * probability * own.uniform(0.5, 1.5, n) * 4 * p * (1 - p)
        flips = own.uniform(0, 1, n) < 0.12 * more * abs(probability)
        after[count] = (
            y + 2 * more * logit * own.normal(1, 0.4, n),
            moved.clip(0, 1),
            np.where(flips, int(probability > 0), correct),
        )
    for i in range(n):
        row: dict = {"index": images + i, "id": f"{i:05d}.JPEG", "label": i % 10, "skipped": i in set(skipped)}
        if not row["skipped"]:
            row |= {"target": i % 10, "y_t": y[i], "p_t": p[i], "correct": correct[i]}
            for count, (y_after, p_after, correct_after) in after.items():
                row |= {f"y_t/{count}": y_after[i], f"p_t/{count}": p_after[i]}
                row |= {f"correct/{count}": correct_after[i], f"zero_gradient/{count}": int(i < zero)}
        rows.append(row)
    protocol = {"epsilon": epsilon, "iterations": list(iterations), "target_rule": "label", "precision": "float32"}
    protocol |= {"foils": None} | (settings or {})
    about = {"dataset": "ImageNet", "weights": "IMAGENET1K_V1", "stand_in": False, "seed": None}
    about |= {"subset": "sample: 1000 images, not the official validation set, likely from the training split"}
    about |= labels or {}
    parts = {"version": 1, "settings": protocol, "dataset": "listing", "weights": f"hash {about['weights']}"}
    shard = Shard(root, (dataset, model, method, contrast), "sign_perturbation", parts, about)
    shard.describe({})
    records.collect([shard], 2, lambda chunk: [rows[: n // 2] if chunk == 0 else rows[n // 2 :]], columns(iterations))
    return shard


def columns(iterations: Sequence[int]) -> list[str]:
    """Return the columns of the records."""
    each = [f"{name}/{n}" for n in iterations for name in ("y_t", "p_t", "correct", "zero_gradient")]
    return ["index", "id", "label", "skipped", "target", "y_t", "p_t", "correct", *each]


def block(root: Path, contrasts: Sequence[str] = FOUR, **options: object) -> list[Shard]:
    """Write several contrasts of one network."""
    return [make(root, contrast, **options) for contrast in contrasts]
