"""Integrated gradients: completeness against the number of steps, for every quadrature rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from torch import Tensor

import wcx
from wcx.checks.base import Fixed, Request, Verification, gathered
from wcx.experiments import Cell
from wcx.experiments.base import Row
from wcx.experiments.images import Item
from wcx.methods.integrated_gradients import RULES, IntegratedGradients
from wcx.pipeline import Job
from wcx.records import Shard
from wcx.report.tables import Column, Span, Spread, Table

NETWORK = "squeezenet1_1"
METHOD = "integrated_gradients"
STEPS = (4, 8, 16, 32, 64, 128)
LIMIT = 8  # images
CHUNK = 4  # and a pass
POINTS = 16  # of a path, a pass


class Completeness(Verification):
    """For the predicted class under weighted, with x' the baseline.

    change = sum_s v_s (y_s(x) - y_s(x')),  residual = abs(sum of the map - change).
    """

    spaces = ("input",)
    recorded = ("residual", "change")

    @classmethod
    def jobs(cls, request: Request) -> Iterator[Job]:
        opened = request.opened(NETWORK)
        opened |= {"cells": [Cell(METHOD, "weighted")], "limit": min(request.limit or LIMIT, LIMIT)}
        for steps, rule in product(STEPS, RULES):
            options = {METHOD: {"steps": steps, "rule": rule, "batch_size": POINTS}}
            yield request.job(cls, CHUNK, CHUNK, settings=Fixed(), method_options=options, **opened)

    def passes(self) -> Counter[str]:
        (method,) = self.subject.methods.values()
        assert isinstance(method, IntegratedGradients)
        steps = len(method.nodes)
        return Counter(forward=steps + 1, backward=steps)

    def measured(self, batch: Sequence[Item], pixels: Tensor) -> Mapping[Cell, Sequence[Row]]:  # noqa: ARG002
        (cell,) = self.cells
        explainer = wcx.Explainer(self.network, self.subject.methods[cell.method])
        run: Any = explainer(self.normalised(pixels))  # with a residual, as this method's are
        maps = run.explain(wcx.cotangent(run.logits, run.logits.argmax(1), cell.contrast))
        change = (maps.double().sum((1, 2, 3)) - run.residual).tolist()
        residual = run.residual.abs().tolist()
        return {cell: [{"residual": r, "change": c} for r, c in zip(residual, change, strict=True)]}

    @classmethod
    def summaries(cls, shards: Sequence[Shard]) -> list[Table]:
        columns = (
            Column("rule", "of the quadrature"),
            Column("steps", "of the path"),
            Column("n", "images"),
            Column("residual", "abs(residual) / abs(change), median over images", format=".2g"),
        )
        spread = Spread(("rule",), (Span("residual", ("steps",)),))
        title = "Completeness: abs(residual) / abs(change), median, by steps"
        return [Table(cls.name(), title, columns, medians(shards), spread=spread)]

    @classmethod
    def drawing(cls, shards: Sequence[Shard]) -> Figure:
        """Draw the residual against steps."""
        figure = Figure(figsize=(4.5, 3.6), layout="constrained")
        ax = figure.add_subplot()
        for (rule, line), marker in zip(medians(shards).groupby("rule", sort=False), "os^Dv", strict=False):
            ax.plot(line.steps, line.residual, f"{marker}-", markersize=4, linewidth=1, label=rule)
        ax.set(xscale="log", yscale="log", xlabel="steps", ylabel="|residual| / |change|, median")
        ax.set_xticks(list(STEPS), list(map(str, STEPS)), minor=False)
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
        ax.legend(frameon=False, fontsize=8)
        return figure


def medians(shards: Sequence[Shard]) -> pd.DataFrame:
    """Return the median of abs(residual) / abs(change) of each rule and number of steps."""
    lines = []
    for shard in shards:
        rows, options = gathered([shard]), shard.parts["method"]
        share = (rows.residual / rows.change.abs()).median()
        lines.append({"rule": options["rule"], "steps": options["steps"], "n": len(rows), "residual": share})
    return pd.DataFrame(lines)
