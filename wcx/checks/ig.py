"""Integrated gradients: how far weighted (alpha frozen at the image) is from probability (alpha along the path)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

import wcx
from wcx.checks.base import Fixed, Request, Verification, by_target, gathered, summary_table, target_columns
from wcx.checks.completeness import CHUNK, METHOD, NETWORK, POINTS
from wcx.experiments import Cell
from wcx.experiments.base import Row
from wcx.experiments.images import Item
from wcx.pipeline import Job
from wcx.records import Shard
from wcx.report.tables import Table

LIMIT = 100  # images
STEPS = 32
EDGES = [0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0000001]  # of p_t
MEANINGS = {
    "p_t": "of the target",
    "count": "maps",
    "min": "the smallest cosine",
    "5%": "",
    "50%": "the median",
    "95%": "",
    "max": "the largest",
}


class FrozenAlpha(Verification):
    """For the two most probable classes, the cosine of the maps under weighted and probability."""

    companions = ("completeness",)
    spaces = ("input",)
    recorded = target_columns("p_t", "cosine")

    @classmethod
    def jobs(cls, request: Request) -> Iterator[Job]:
        opened = request.opened(NETWORK) | {"cells": [Cell(METHOD, "probability")], "limit": request.limit or LIMIT}
        options = {METHOD: {"steps": STEPS, "batch_size": POINTS}}
        yield request.job(cls, CHUNK, CHUNK, settings=Fixed(), method_options=options, **opened)

    def passes(self) -> Counter[str]:
        return Counter(forward=STEPS + 1, backward=4 * STEPS)  # two contrasts for two classes

    def measured(self, batch: Sequence[Item], pixels: Tensor) -> Mapping[Cell, Sequence[Row]]:  # noqa: ARG002
        (cell,) = self.cells
        run = wcx.Explainer(self.network, self.subject.methods[cell.method])(self.normalised(pixels))
        top = run.logits.topk(2).indices.T
        weighted = wcx.cotangent(run.logits, top, "weighted")

        def both(logits: Tensor) -> Tensor:
            return torch.cat([weighted, wcx.cotangent(logits, top, cell.contrast)])

        maps = run.explain(both).double().flatten(2).unflatten(0, (2, 2))  # contrast, target, image
        cosine = torch.nn.functional.cosine_similarity(maps[0], maps[1], dim=2, eps=1e-300)
        p = run.logits.double().softmax(1).gather(1, top.T).T
        return {cell: by_target({"p_t": p, "cosine": cosine})}

    @classmethod
    def summaries(cls, shards: Sequence[Shard]) -> list[Table]:
        rows = gathered(shards, "target")
        groups = rows.groupby(pd.cut(rows.p_t, EDGES, right=False), observed=True).cosine
        described = groups.describe(percentiles=[0.05, 0.5, 0.95])[["count", "min", "5%", "50%", "95%", "max"]]
        frame = described.rename_axis("p_t").reset_index().astype({"p_t": str, "count": int})
        title = f"Integrated gradients: cosine of weighted and probability, {STEPS} steps, by p_t"
        return [summary_table(cls.name(), title, frame, MEANINGS, ".3f")]

    @classmethod
    def drawing(cls, shards: Sequence[Shard]) -> Figure:
        """Draw the cosine against p_t on a logit axis."""
        rows = gathered(shards, "target")
        figure = Figure(figsize=(4.5, 3.6), layout="constrained")
        ax = figure.add_subplot()
        for rank, marker in ((1, "o"), (2, "^")):
            dots = rows[rows.target == f"t_{rank}"]
            p = dots.p_t.clip(1e-6, 1 - 1e-6)
            ax.plot(p, dots.cosine, marker, markersize=3, alpha=0.6, label=f"$t_{rank}$")
        ax.set(xscale="logit", xlabel="$p_t$", ylabel="cosine of IG: weighted, probability")
        ax.set_ylim(min(0.98, rows.cosine.min() - 0.02), 1.02)
        ticks = {1e-6: "$10^{-6}$", 1e-3: "$10^{-3}$", 0.5: "0.5", 1 - 1e-3: "$1-10^{-3}$", 1 - 1e-6: "$1-10^{-6}$"}
        ax.set_xticks(list(ticks), list(ticks.values()))
        ax.axhline(1, color="0.7", linewidth=0.6)
        ax.legend(frameon=False, fontsize=8)
        return figure
