"""How near the mean contrast is to original (section 5.3), beside weighted, on real networks and images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import pandas as pd
import torch
from torch import Tensor

from wcx import contrasts, models
from wcx.checks.base import Fixed, Request, Verification, by_target, gathered, summary_table, target_columns
from wcx.experiments import Cell
from wcx.experiments.base import Row
from wcx.experiments.images import Item
from wcx.pipeline import Job
from wcx.records import Shard
from wcx.report.tables import Table

METHODS = ("gradient", "gradcam", "linear_approximation")
CONTRASTS = ("mean", "weighted")
PAIRS = (
    *product(["imagenet"], ["squeezenet1_1", "mobilenet_v2"]),
    *product(["cub"], ["vgg16", "alexnet", "mobilenet_v2", "squeezenet1_1"]),
)
LIMIT, BATCH, CHUNK = 100, 10, 20
QUANTILES = {"5%": 0.05, "median": 0.5, "95%": 0.95}


class MeanAgainstOriginal(Verification):
    """For the two most probable classes, distance = norm(phi - phi_original) / norm(phi_original), and their cosine."""

    recorded = target_columns("distance", "cosine")

    @classmethod
    def jobs(cls, request: Request) -> Iterator[Job]:
        cells = [Cell(method, contrast) for method, contrast in product(METHODS, CONTRASTS)]
        for name, network in PAIRS:
            dataset = request.images(name, network)
            place = request.checkpoints_dir, name, network, dataset.class_names, request.seed
            path = models.checkpoint_path(*place, request.recipe)
            if name != "imagenet" and not path.is_file():
                print(f"mean: no checkpoint of {network} on {name}; wcx finetune makes one")
                continue
            opened = {"dataset": dataset, "loaded": request.network(network, dataset), "limit": request.limit or LIMIT}
            yield request.job(cls, BATCH, CHUNK, cells=cells, settings=Fixed(), **opened)

    def passes(self) -> Counter[str]:
        """See `Experiment.passes`; each contrast and original, for two classes."""
        groups = len(self.subject.groups())
        return Counter(forward=groups, backward=2 * groups * (1 + len({cell.contrast for cell in self.cells})))

    def measured(self, batch: Sequence[Item], pixels: Tensor) -> Mapping[Cell, Sequence[Row]]:  # noqa: ARG002
        look = self.subject.look(pixels)
        top = look.logits.topk(2).indices.T
        originals = [Cell(method, "original") for method in self.subject.methods]
        explained = look.maps([*originals, *self.cells], top, contrasts.foil_masks(look.logits, top))
        maps = {cell: each.flatten(2).double() for cell, each in explained.items()}
        rows = {}
        for cell in self.cells:
            original, contrasted = maps[Cell(cell.method, "original")], maps[cell]
            distance = (contrasted - original).norm(dim=2) / original.norm(dim=2)
            cosine = torch.nn.functional.cosine_similarity(contrasted, original, dim=2)
            rows[cell] = by_target({"distance": distance, "cosine": cosine})
        return rows

    @classmethod
    def summaries(cls, shards: Sequence[Shard]) -> list[Table]:
        rows = gathered(shards, "target")
        classes = {shard.key[:2]: len(shard.labels["class_names"]) for shard in shards}
        rows["classes"] = [classes[pair] for pair in zip(rows.dataset, rows.network, strict=True)]
        lines = []
        keys = ["dataset", "network", "classes", "method", "target", "contrast"]
        for values, group in rows.groupby(keys, sort=False):
            line = dict(zip(keys, values, strict=True)) | {"n": len(group)}
            for measure, (name, q) in product(("distance", "cosine"), QUANTILES.items()):
                line[f"{measure} {name}"] = group[measure].quantile(q)
            lines.append(line)
        meanings = dict.fromkeys(keys, "") | {"classes": "of the network", "n": "images"}
        meanings |= {f"distance {q}": "to original, relative to its norm" for q in QUANTILES}
        meanings |= {f"cosine {q}": "with original" for q in QUANTILES}
        title = "How near mean and weighted are to original"
        return [summary_table(cls.name(), title, pd.DataFrame(lines), meanings, ".3f")]
