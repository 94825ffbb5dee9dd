"""How near the mean contrast is to original (section 5.3), beside weighted, on real networks and images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import wcx
from scripts import cli, verify_cells
from scripts.verify_cells import Cells
from wcx import models
from wcx.datasets import ImageDataset
from wcx.experiments import items

METHODS = ("gradient", "gradcam", "linear_approximation")
CODE = [f"wcx/methods/{name}" for name in (*METHODS, "activation", "paths")] + ["scripts/verify_mean"]
CHUNK = 20  # images a cell
BATCH = 10
_QUANTILES = (("5%", 0.05), ("median", 0.5), ("95%", 0.95))


def run(folder: Path, overrides: Sequence[str] = (), limit: int = 100) -> pd.DataFrame:
    """Measure how near mean and weighted are to original, on ImageNet's networks and on the fine-tuned ones there are.

    Writes mean.csv (a row an image, target, method and contrast).
    """
    pairs = [("imagenet", "squeezenet1_1"), ("imagenet", "mobilenet_v2")]
    pairs += [("cub", model) for model in ("vgg16", "alexnet", "mobilenet_v2", "squeezenet1_1")]
    tables = []
    for data, network in verify_cells.progress(pairs, len(pairs), "mean"):
        cfg = cli.compose([f"dataset={data}", f"model={network}", *overrides])
        dataset = cli.open_dataset(cfg, "test")
        if data != "imagenet" and not _checkpoint(cfg, dataset, network).is_file():
            print(f"mean: no checkpoint of {network} on {data}; python scripts/finetune.py makes one")
            continue
        loaded = cli.open_model(cfg, dataset)
        cells = Cells(folder, "mean", CODE, {"weights": loaded.weights_hash, "data": dataset.listing_hash()})
        for indices in items.cut(items.order(len(dataset), cfg.limit or limit, cfg.seed), CHUNK):
            key = f"{data}-{network}-{indices[0]:04d}-{len(indices)}"
            table = cells.rows(key, lambda part=indices, d=dataset, m=loaded: _near(d, m, part))
            tables.append(table.assign(dataset=data, network=network, classes=len(dataset.class_names)))
    table = pd.concat(tables, ignore_index=True)
    verify_cells.save(table, folder, "mean")
    return table


def _checkpoint(cfg: Any, dataset: ImageDataset, network: str) -> Path:
    return models.checkpoint_path(cfg.paths.checkpoints_dir, dataset.name, network, dataset.class_names, cfg.seed)


def _near(dataset: ImageDataset, loaded: models.LoadedModel, indices: Sequence[int]) -> list[dict[str, Any]]:
    rows = []
    device = next(loaded.net.parameters()).device
    for part in items.cut(indices, BATCH):
        pixels = torch.stack([dataset[i][0] for i in part]).to(device)
        for method in METHODS:
            layer = loaded.layer if method != "gradient" else None
            run = wcx.Explainer(loaded.model, method, layer)(pixels)
            top = run.logits.topk(2).indices.T
            v = [wcx.cotangent(run.logits, top, name) for name in ("original", "mean", "weighted")]
            maps = torch.stack([run.explain(one).flatten(2) for one in v]).double()
            for k, name in enumerate(("mean", "weighted"), start=1):
                distance = (maps[k] - maps[0]).norm(dim=2) / maps[0].norm(dim=2)
                cosine = torch.nn.functional.cosine_similarity(maps[k], maps[0], dim=2)
                rows += [
                    {"index": i, "target": f"t{r + 1}", "method": method, "contrast": name}
                    | {"distance": float(distance[r, j]), "cosine": float(cosine[r, j])}
                    for r in range(2)
                    for j, i in enumerate(part)
                ]
    return rows


def text(table: pd.DataFrame) -> str:
    """Return medians and 90 % ranges of distance and cosine to original, by network, method, target and contrast."""
    groups = table.groupby(["dataset", "network", "classes", "method", "target", "contrast"], sort=False)
    rows = [
        dict(zip(groups.keys, key, strict=True))
        | {"n": len(some)}
        | {f"{column} {q}": some[column].quantile(at) for column in ("distance", "cosine") for q, at in _QUANTILES}
        for key, some in groups
    ]
    return pd.DataFrame(rows).to_string(index=False, float_format="{:.3f}".format)
