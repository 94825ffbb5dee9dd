"""What float32 does to the gradient under the weighted contrast and under probability, by the logit gap y_t - max_s y_s."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import wcx
from wcx.checks.base import Fixed, Request, Verification, by_bins, by_target, gathered, summary_table, target_columns
from wcx.experiments import Cell
from wcx.experiments.base import Row
from wcx.experiments.images import Item
from wcx.pipeline import Job
from wcx.records import Shard
from wcx.report.tables import Table

NETWORK = "squeezenet1_1"
BATCH, CHUNK = 10, 20
BINS = (0, 1, 2, 4, 8, 12, 16, 18, np.inf)
SIGN_LIMIT = 0.01  # of the values
MEANINGS = {
    "target": "the most probable class, or the second",
    "contrast": "of the gradient",
    "gap": "absolute logit gap",
    "n": "images",
    "error_median": "norm(float32 - exact) / norm(exact), median",
    "error_max": "the largest",
    "cosine_median": "cosine of float32 and exact, median",
    "cosine_min": "the smallest",
    "exactly_zero": "share of images whose gradient vanished in float32",
    "wrong_sign": "share of images of whose values more than 1 % have the wrong sign",
}


class Stability(Verification):
    """For the two most probable classes t, with g the gradient in the network's input space.

        relative_error = norm(g32 - g) / norm(g),  wrong_sign = share of the values g_i != 0 with sign(g32_i) != sign(g_i).

    The exact g is weighted's in float64; for probability that times p_t (1 - p_t), since float64 loses it, too, from a gap
    of 36 on.
    """

    spaces = ("input",)
    recorded = target_columns("p_t", "gap", "relative_error", "cosine", "zero", "wrong_sign")

    @classmethod
    def jobs(cls, request: Request) -> Iterator[Job]:
        cells = [Cell("gradient", "weighted"), Cell("gradient", "probability")]
        yield request.job(cls, BATCH, CHUNK, cells=cells, settings=Fixed(), **request.opened(NETWORK))

    def passes(self) -> Counter[str]:
        return Counter(forward=2, backward=2 + 2 * len(self.cells))

    @cached_property
    def _exact(self) -> nn.Module:
        return copy.deepcopy(self.network).double()

    def measured(self, batch: Sequence[Item], pixels: Tensor) -> Mapping[Cell, Sequence[Row]]:  # noqa: ARG002
        inputs = self.normalised(pixels)
        exact = wcx.Explainer(self._exact, "gradient")(inputs.double())
        rounded = wcx.Explainer(self.network, "gradient")(inputs)
        top = exact.logits.topk(2).indices.T
        foils = exact.logits[None].expand(2, -1, -1).scatter(2, top[..., None], -torch.inf)
        p = exact.logits.softmax(1).gather(1, top.T).T
        not_p = (foils.logsumexp(2) - exact.logits.logsumexp(1)).exp()  # 1 - p_t, with all its digits
        shared = {"p_t": p, "gap": exact.logits.gather(1, top.T).T - foils.amax(2)}
        slope = {"weighted": torch.ones_like(p), "probability": p * not_p}
        weighted = exact.explain(wcx.cotangent(exact.logits, top, "weighted")).flatten(2)
        rows = {}
        for cell in self.cells:
            reference = slope[cell.contrast][..., None] * weighted
            maps = rounded.explain(wcx.cotangent(rounded.logits, top, cell.contrast)).flatten(2).double()
            signed = reference != 0
            measures = {
                "relative_error": (maps - reference).norm(dim=2) / reference.norm(dim=2),
                "cosine": nn.functional.cosine_similarity(maps, reference, dim=2, eps=1e-300),
                "zero": (maps == 0).all(2).long(),
                "wrong_sign": ((maps.sign() != reference.sign()) & signed).sum(2) / signed.sum(2),
            }
            rows[cell] = by_target(shared | measures)
        return rows

    @classmethod
    def summaries(cls, shards: Sequence[Shard]) -> list[Table]:
        title = "float32's gradient beside float64's, by logit gap"
        return [summary_table(cls.name(), title, bins(gathered(shards, "target")), MEANINGS, ".2g")]

    @classmethod
    def drawing(cls, shards: Sequence[Shard]) -> Figure:
        """Draw the relative error against the logit gap, a dot an image, for the predicted class."""
        rows = gathered(shards, "target")
        figure = Figure(figsize=(6, 3.6), layout="constrained")
        ax = figure.add_subplot()
        for name, marker in (("weighted", "o"), ("probability", "x")):
            dots = rows[(rows.contrast == name) & (rows.target == "t_1")]
            ax.plot(dots.gap, dots.relative_error, marker, markersize=3, alpha=0.6, label=name)
        ax.set(yscale="log", xlabel="logit gap $y_{t_1} - y_{t_2}$", ylabel="relative error of float32")
        ax.legend(frameon=False)
        return figure


def bins(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows summed up by target, contrast and bin of the absolute logit gap, and over all images."""
    lines = []
    for (contrast, target), part in rows.groupby(["contrast", "target"], sort=False):
        for label, images in by_bins(part, part.gap.abs(), BINS, right=False):
            lines.append({"target": target, "contrast": contrast, "gap": label, **_summary(images)})
    return pd.DataFrame(lines)


def _summary(rows: pd.DataFrame) -> dict[str, float]:
    return {
        "n": len(rows),
        "error_median": rows.relative_error.median(),
        "error_max": rows.relative_error.max(),
        "cosine_median": rows.cosine.median(),
        "cosine_min": rows.cosine.min(),
        "exactly_zero": rows.zero.astype(bool).mean(),
        "wrong_sign": (rows.wrong_sign > SIGN_LIMIT).mean(),
    }
