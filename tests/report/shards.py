"""Small synthetic records of the masking experiment, written through wcx.records."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from wcx import records
from wcx.experiments import masking
from wcx.experiments.hiding import KEPT
from wcx.experiments.masking import Settings
from wcx.records import Shard
from wcx.report import sections
from wcx.report.masking import paper
from wcx.report.sections import Section

Values = Callable[[str, str, str], np.ndarray]  # target, baseline, kept -> a number an image


def make(
    root: Path,
    contrast: str,
    n: int = 30,
    *,
    dataset: str = "cub",
    label: str = "CUB-200",
    model: str = "vgg16",
    method: str = "gradcam",
    settings: Settings | None = None,
    values: Values | None = None,
    boxes: bool = False,
    skipped: Iterable[int] = (),
    weights: str = "cub checkpoint (vgg16, recipe head, accuracy 0.834)",
    seed: int | None = None,
    images: int = 0,
    labels: dict | None = None,
    version: int = masking.Masking.version,
    parts: dict | None = None,
    masked: float = 0.6,
) -> Shard:
    """Write one shard; every third image lies below the threshold, and `skipped` ones could not be read.

    Its values are random, seeded by the cell and `seed`, and shifted towards the better for weighted.
    """
    settings = settings or Settings(baselines=("blur", "zeros"))
    rng = np.random.default_rng([*contrast.encode(), *method.encode(), *dataset.encode(), seed or 0])
    gain = 0.1 if contrast == "weighted" else 0.0

    def some(target: str, baseline: str, kept: str) -> np.ndarray:
        return np.clip(rng.beta(4, 4, n) + (gain if kept == "positive" else -gain), 0, 1)

    columns = {
        cell: (values or some)(*cell)
        for cell in ((t, b, k) for t in settings.ranks for b in settings.baselines for k in KEPT)
    }
    rows = []
    for i in range(n):
        row: dict = {
            "index": images + i,
            "id": f"{i:03d}.jpg",
            "label": 0,
            "above_threshold": False,
            "skipped": i in set(skipped),
        }
        if not row["skipped"]:
            below = i % 3 == 2
            p = settings.threshold * 0.5 if below else settings.threshold + 0.1 + 0.001 * i
            row |= {"t_1": 3, "t_2": 5, "p_t1": 1 - p, "p_t2": p, "above_threshold": not below}
            row |= {"relative_probability_unmasked/t_1": 1 - p, "relative_probability_unmasked/t_2": p}
            if not below or settings.select == "all":
                row |= {
                    f"masked_fraction/{t}/{k}": masked if k == "positive" else 1 - masked
                    for t in settings.ranks
                    for k in KEPT
                }
                row |= {f"relative_probability/{'/'.join(cell)}": numbers[i] for cell, numbers in columns.items()}
                if boxes:
                    row |= {
                        "box_fraction": 0.25,
                        "inside_box/t_1": 0.5 - gain + 0.01 * (i % 5),
                        "inside_box/t_2": np.nan if i == 0 else 0.4,
                    }
        rows.append(row)
    parts = (parts or {}) | {
        "settings": json.loads(json.dumps(asdict(settings))),
        "dataset": "listing",
        "weights": f"hash {weights} {seed}",
        "version": version,
    }
    about = {
        "dataset": label,
        "weights": weights,
        "stand_in": "stand-in" in weights,
        "subset": "subset: 2 of 200 classes, 30 of 5794 test images",
    }
    about |= {"seed": seed} if seed is not None else {}
    shard = Shard(root, (dataset, model, method, contrast), "masking", parts, about | (labels or {}))
    shard.describe({})
    records.collect(
        [shard],
        2,
        lambda chunk: [rows[: n // 2] if chunk == 0 else rows[n // 2 :]],
        masking.Masking.columns(settings, boxes),
    )
    return shard


def pair(root: Path, **options: object) -> list[Shard]:
    """Write original and weighted of one network and method."""
    return [make(root, contrast, **options) for contrast in ("original", "weighted")]


def written(shards: list[Shard], folder: Path, **options: object) -> tuple[Section, list[str]]:
    """Write the report of masking records into a folder; return the section and the lines of the screen."""
    folder.mkdir(parents=True, exist_ok=True)
    section = sections.of("masking", shards, **options)
    section.write(folder)
    return section, section.to_text().splitlines()


def papers(root: Path, model: str = "vgg16") -> list[Shard]:
    """Records whose every image has exactly the paper's number."""
    published = paper.read(paper.FOLDER, paper.PAPER)
    shards = []
    for (label, method, contrast), cells in published.groupby(["dataset", "method", "contrast"], sort=False):
        numbers = cells.set_index(["target", "baseline", "features_kept"])["relative_probability"]
        folder = label.lower().replace(" ", "")
        options = {"dataset": folder, "label": label, "model": model, "method": method, "settings": Settings()}
        shards.append(make(root, contrast, 9, values=lambda *cell, x=numbers: np.full(9, x[cell]), **options))
    return shards
