"""Where float32's probability leaves weighted's way, by p_t: in exact arithmetic they are proportional, and one step the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import pandas as pd
from torch import Tensor

from wcx.checks.base import Request, Verification, by_bins, gathered, summary_table
from wcx.checks.perturbation import NETWORKS, walked
from wcx.experiments import Cell
from wcx.experiments.base import Row
from wcx.experiments.images import Item
from wcx.experiments.sign_perturbation import Settings
from wcx.pipeline import Job
from wcx.records import Shard
from wcx.report.tables import Table

BATCH = 25
BINS = (0, 0.5, 0.9, 0.99, 0.999, 0.99999, 0.9999999, 1.0)  # of p_t; its complement is what float32 loses
LIMIT = 0.01  # of the values
CHANGES = [f"{name}_{score}" for score, name in product(("y_t", "p_t", "correct"), ("probability", "weighted"))]
MEANINGS = {
    "network": "",
    "p_t": "of the clean image",
    "n": "images",
    "apart": "share of pixel values that end elsewhere, mean",
    "apart_1%": "share of images of whose values more than 1 % do",
    "zero": "images whose gradient vanished under probability",
    **{name: f"mean change of {name.partition('_')[2]} under {name.partition('_')[0]}" for name in CHANGES},
}


@dataclass(frozen=True)
class StepSettings:
    """The step.

    Attributes:
        epsilon: largest change of a pixel, in [0, 1].
    """

    epsilon: float = 1e-3


class Proportional(Verification):
    """One step under probability, x, beside one under weighted, z: apart = share of the values with x != z."""

    protocol = StepSettings
    spaces = ("input",)
    recorded = ("p_t", "apart", "zero_gradient", *CHANGES)

    @classmethod
    def jobs(cls, request: Request) -> Iterator[Job]:
        for network in NETWORKS:
            cells, settings = [Cell("gradient", "probability")], cls.protocol(request.epsilon)
            yield request.job(cls, BATCH, BATCH, cells=cells, settings=settings, **request.opened(network))

    def passes(self) -> Counter[str]:
        return Settings(iterations=(1,)).passes(2)

    def measured(self, batch: Sequence[Item], pixels: Tensor) -> Mapping[Cell, Sequence[Row]]:  # noqa: ARG002
        protocol = Settings(epsilon=self.settings.epsilon, iterations=(1,))
        walks = walked(self.subject.model, batch, protocol, ["probability", "weighted"])
        (first, probability), (second, weighted) = walks["probability", 1], walks["weighted", 1]
        shares = (first != second).double().flatten(1).mean(1).tolist()
        rows = []
        for share, p, w in zip(shares, probability, weighted, strict=True):
            row = {"p_t": p["p_t"], "apart": share, "zero_gradient": p["zero_gradient/1"]}
            for name, (score, walk) in zip(CHANGES, product(("y_t", "p_t", "correct"), (p, w)), strict=True):
                row[name] = walk[f"{score}/1"] - walk[score]
            rows.append(row)
        return {self.cells[0]: rows}

    @classmethod
    def summaries(cls, shards: Sequence[Shard]) -> list[Table]:
        title = "float32: probability beside weighted, one step, by p_t"
        return [summary_table(cls.name(), title, partings(gathered(shards)), MEANINGS)]


def partings(rows: pd.DataFrame) -> pd.DataFrame:
    """Return probability beside weighted by network and bin of p_t: how often and how far apart they are, and the bars."""
    lines = []
    for network, images in rows.groupby("network", sort=False):
        for label, chosen in by_bins(images, images.p_t, BINS, include_lowest=True):
            line = {"network": network, "p_t": label, "n": len(chosen), "apart": chosen.apart.mean()}
            line |= {"apart_1%": (chosen.apart > LIMIT).mean(), "zero": int(chosen.zero_gradient.sum())}
            lines.append(line | chosen[CHANGES].mean().to_dict())
    return pd.DataFrame(lines)
