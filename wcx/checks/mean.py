"""How near the mean contrast is to original (section 5.3), beside weighted, on real networks and images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

import pandas as pd
import torch

import wcx
from wcx import models
from wcx.checks import cells
from wcx.checks.cells import Cells, Request, Result
from wcx.datasets import ImageDataset
from wcx.experiments.images import cut, order
from wcx.images import device_of
from wcx.models import LoadedModel

METHODS = ("gradient", "gradcam", "linear_approximation")
CODE = [f"methods/{name}" for name in (*METHODS, "activation", "paths")]
PAIRS = (
    *product(["imagenet"], ["squeezenet1_1", "mobilenet_v2"]),
    *product(["cub"], ["vgg16", "alexnet", "mobilenet_v2", "squeezenet1_1"]),
)
LIMIT = 100  # images
CHUNK = 20  # images a cell
BATCH = 10
_QUANTILES = (("5%", 0.05), ("median", 0.5), ("95%", 0.95))


def check(request: Request) -> Result:
    """Measure how near mean and weighted are to original, on ImageNet's networks and on the fine-tuned ones there are.

    Writes mean.csv (a row an image, target, method and contrast).
    """
    tables = []
    for data, network in cells.progress(PAIRS, "mean"):
        dataset = request.images(data, network)
        path = models.checkpoint_path(request.checkpoints_dir, data, network, dataset.class_names, request.seed)
        if data != "imagenet" and not path.is_file():
            print(f"mean: no checkpoint of {network} on {data}; python scripts/finetune.py makes one")
            continue
        loaded = request.network(network, dataset)
        settings = {"weights": loaded.weights_hash, "data": dataset.listing_hash()}
        store = Cells(request.folder, "mean", CODE, settings)
        for indices in cut(order(len(dataset), request.limit or LIMIT, request.seed), CHUNK):
            key = f"{data}-{network}-{indices[0]:04d}-{len(indices)}"
            table = store.rows(key, partial(compare, dataset, loaded, indices))
            tables.append(table.assign(dataset=data, network=network, classes=len(dataset.class_names)))
    table = pd.concat(tables, ignore_index=True)
    cells.save(table, request.folder, "mean")
    return Result(text(table))


def compare(dataset: ImageDataset, loaded: LoadedModel, indices: Sequence[int]) -> list[dict[str, Any]]:
    """Return a row an image, target (the two most probable classes), method and contrast: distance and cosine to original."""
    rows = []
    for part, method in product(cut(indices, BATCH), METHODS):
        pixels = torch.stack([dataset[i][0] for i in part]).to(device_of(loaded.model))
        run = wcx.Explainer(loaded.model, method, loaded.layer if method != "gradient" else None)(pixels)
        top = run.logits.topk(2).indices.T
        original, *contrasted = (
            run.explain(wcx.cotangent(run.logits, top, name)).flatten(2).double()
            for name in ("original", "mean", "weighted")
        )
        for name, maps in zip(("mean", "weighted"), contrasted, strict=True):
            distance = (maps - original).norm(dim=2) / original.norm(dim=2)
            cosine = torch.nn.functional.cosine_similarity(maps, original, dim=2)
            rows += [
                {"index": i, "target": f"t{r + 1}", "method": method, "contrast": name}
                | {"distance": float(distance[r, k]), "cosine": float(cosine[r, k])}
                for r, (k, i) in product(range(2), enumerate(part))
            ]
    return rows


def text(table: pd.DataFrame) -> str:
    """Return medians and 90 % ranges of distance and cosine to original, by network, method, target and contrast."""
    keys = ["dataset", "network", "classes", "method", "target", "contrast"]
    rows = []
    for values, group in table.groupby(keys, sort=False):
        row: dict[str, Any] = dict(zip(keys, values, strict=True)) | {"n": len(group)}
        for column, (name, q) in product(("distance", "cosine"), _QUANTILES):
            row[f"{column} {name}"] = group[column].quantile(q)
        rows.append(row)
    return str(pd.DataFrame(rows).to_string(index=False, float_format="{:.3f}".format))
