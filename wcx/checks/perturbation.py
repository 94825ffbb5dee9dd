"""The perturbation engine against the formulas in float64."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from wcx import methods
from wcx.checks.base import FACTS, Request, Verification, gathered, summary_table
from wcx.errors import choose
from wcx.experiments import Cell, Subject
from wcx.experiments.base import Row
from wcx.experiments.images import Item
from wcx.experiments.sign_perturbation import Settings, SignPerturbation
from wcx.pipeline import Job
from wcx.records import Shard
from wcx.report.tables import Table

NETWORKS = ("squeezenet1_1", "mobilenet_v3_small")
CONTRASTS = ("original", "mean", "max", "weighted", "probability")
LIMIT = 32  # images
CHUNK = 4  # and a pass
SCORES = ("y_t", "p_t")
KEYS = ["network", "precision", "contrast", "iterations"]
MEANINGS = {
    "network": "",
    "precision": "of the engine",
    "contrast": "",
    "iterations": "steps of the walk",
    "n": "images",
    "elsewhere": "share of pixel values that end more than half a step from the reference's, mean",
    "elsewhere_max": "the largest",
    "y_t_error_median": "of abs(y_t - the reference's)",
    "y_t_error_max": "the largest",
    "y_t_bar": "the reference's mean change of y_t",
    "y_t_off": "by how much the engine's differs",
    "p_t_error_median": "of abs(p_t - the reference's)",
    "p_t_error_max": "the largest",
    "p_t_bar": "the reference's mean change of p_t",
    "p_t_off": "by how much the engine's differs",
}

Scalar = Callable[[Tensor, int, list[int]], Tensor]  # logits (C,), target, the other classes -> what is derived
SCALARS: dict[str, Scalar] = {
    "original": lambda y, t, _: y[t],
    "mean": lambda y, t, foils: y[t] - y[foils].sum() / len(foils),
    "max": lambda y, t, foils: y[t] - y[max(foils, key=lambda s: float(y[s].detach()))],
    "weighted": lambda y, t, foils: y[t] - (y[foils].detach().softmax(0) * y[foils]).sum(),
    "probability": lambda y, t, _: y.softmax(0)[t],
    "finer": lambda y, t, foils: y[t] - 0.6 * y[_nearest(y, t, foils)].mean(),
    "finer_code": lambda y, t, foils: y[t] - (y[near := _nearest(y, t, foils)].softmax(0) * y[near]).sum(),
    "counterfactual": lambda y, t, _: -y[t],
    "cross_entropy": lambda y, _, foils: -y.log_softmax(0)[foils].mean(),
    "clrp": lambda y, t, foils: y[t].detach() * (y[t] - y[foils].mean()),
}


def _nearest(y: Tensor, t: int, foils: list[int]) -> list[int]:
    return sorted(foils, key=lambda s: (abs(float(y[s].detach() - y[t].detach())), s))[:3]


def explanation(model: nn.Module, x: Tensor, t: int, contrast: str) -> Tensor:
    """Return the gradient (3, H, W) of the paper's own formula for one image; what Eq. 1 freezes is detached.

    Raises:
        WcxError: a contrast without a formula here.
    """
    x = x.clone().requires_grad_()
    y = model(x[None])[0]
    scalar = SCALARS[choose("contrast of the reference in float64", contrast, SCALARS)]
    return torch.autograd.grad(scalar(y, t, [s for s in range(len(y)) if s != t]), x)[0]


def walk(model: nn.Module, x0: Tensor, t: int, contrast: str, epsilon: float, n: int) -> Tensor:
    """Return x^n (3, H, W) of one image, as the errata print the update."""
    low, high = torch.clamp(x0 - epsilon, min=0.0), torch.clamp(x0 + epsilon, max=1.0)
    x = x0
    for _ in range(n):
        step = x + epsilon / n * explanation(model, x, t, contrast).sign()
        x = torch.minimum(torch.maximum(step, low), high)
    return x


@contextmanager
def last_images(experiment: SignPerturbation) -> Iterator[list[Tensor]]:
    """Collect what the engine evaluates, walk by walk: the images after the last step, (N, 3, H, W) each."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, arguments: tuple[Tensor]) -> None:
        if torch.is_inference_mode_enabled():
            seen.append(arguments[0].clone())

    with experiment.subject.model.register_forward_pre_hook(keep):
        yield seen


def walked(
    model: nn.Module, batch: Sequence[Item], settings: Settings, names: Sequence[str]
) -> dict[tuple[str, int], tuple[Tensor, list[Row]]]:
    """Return for each (contrast, n) the engine's last images (N, 3, H, W) and its rows."""
    subject = Subject(model, None, {"gradient": methods.create("gradient")}, batch_size=len(batch))
    experiment = SignPerturbation(subject, [Cell("gradient", name) for name in names], settings)
    with last_images(experiment) as seen:
        rows = experiment.rows(batch)
    ends = seen[experiment.separate :]  # the first may be the clean images'
    walks = product(experiment.cells, settings.iterations)
    return {(cell.contrast, n): (end, rows[cell]) for (cell, n), end in zip(walks, ends, strict=True)}


@dataclass(frozen=True)
class WalkSettings:
    """What is walked.

    Attributes:
        epsilon: largest change of a pixel, in [0, 1].
        iterations: numbers of steps.
        precisions: of the engine.
    """

    epsilon: float = 1e-3
    iterations: tuple[int, ...] = (1, 2, 10)
    precisions: tuple[str, ...] = ("float32", "bfloat16")


class PerturbationPrecision(Verification):
    """Each walk of the engine, x^n, beside the same walk of one image in float64, z^n (`walk`).

        elsewhere = share of the values with abs(x^n - z^n) > epsilon / (2 n),  error_y_t = y_t(x^n) - y_t(z^n).

    For one step, elsewhere are the values whose sign differs (but for those at 0 or 1, which move one way only).
    """

    protocol = WalkSettings
    companions = ("proportional",)
    spaces = ("input",)

    @classmethod
    def jobs(cls, request: Request) -> Iterator[Job]:
        cells = [Cell("gradient", name) for name in CONTRASTS]
        for network in NETWORKS:
            opened = request.opened(network) | {"limit": request.limit or LIMIT}
            settings = cls.protocol(epsilon=request.epsilon)
            yield request.job(cls, CHUNK, CHUNK, cells=cells, settings=settings, **opened)

    @classmethod
    def columns(cls, settings: WalkSettings, boxes: bool = False) -> list[str]:  # noqa: ARG003
        measures = ["elsewhere", *(f"{kind}{score}" for kind, score in product(("", "error_", "gain_"), SCORES))]
        columns = product(measures, settings.precisions, settings.iterations)
        return [*FACTS, *(f"{measure}/{precision}/{n}" for measure, precision, n in columns)]

    def passes(self) -> Counter[str]:
        """See `Experiment.passes`: of a walk in each precision; those in float64 count as much."""
        walk = Settings(epsilon=self.settings.epsilon, iterations=self.settings.iterations).passes(len(self.cells))
        return Counter({kind: count * (len(self.settings.precisions) + 1) for kind, count in walk.items()})

    @cached_property
    def _exact(self) -> nn.Module:
        return copy.deepcopy(self.subject.model).double()

    def measured(self, batch: Sequence[Item], pixels: Tensor) -> Mapping[Cell, Sequence[Row]]:
        settings, names = self.settings, [cell.contrast for cell in self.cells]
        walks = {}
        for precision in settings.precisions:
            protocol = Settings(epsilon=settings.epsilon, iterations=settings.iterations, precision=precision)
            walks[precision] = walked(self.subject.model, batch, protocol, names)
        rows = self.blank(batch)
        for cell, n, (k, item) in product(self.cells, settings.iterations, enumerate(batch)):
            end = walk(self._exact, pixels[k].double(), item.label, cell.contrast, settings.epsilon, n)
            with torch.no_grad():
                y = self._exact(end[None])[0]
            reference = {"y_t": float(y[item.label]), "p_t": float(y.softmax(0)[item.label])}
            for precision, ends in walks.items():
                images, measured = ends[cell.contrast, n]
                distant = (images[k].double() - end).abs() > settings.epsilon / n / 2
                values = {"elsewhere": float(distant.double().mean())}
                for score, exact in reference.items():
                    value = measured[k][f"{score}/{n}"]
                    values |= {
                        score: value,
                        f"error_{score}": value - exact,
                        f"gain_{score}": exact - measured[k][score],
                    }
                rows[cell][k] |= {f"{name}/{precision}/{n}": value for name, value in values.items()}
        return rows

    @classmethod
    def summaries(cls, shards: Sequence[Shard]) -> list[Table]:
        rows = agreement(gathered(shards, "precision", "iterations"))
        return [summary_table(cls.name(), "The perturbation beside float64's", rows, MEANINGS, ".2g")]


def agreement(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the comparison with float64 by network, precision, contrast and number of steps, see `MEANINGS`."""
    lines = []
    for values, walks in rows.groupby(KEYS, sort=False):
        line: dict[str, Any] = dict(zip(KEYS, values, strict=True)) | {"n": len(walks)}
        line |= {"elsewhere": walks.elsewhere.mean(), "elsewhere_max": walks.elsewhere.max()}
        for score in SCORES:
            error = walks[f"error_{score}"]
            line |= {f"{score}_error_median": error.abs().median(), f"{score}_error_max": error.abs().max()}
            line |= {f"{score}_bar": walks[f"gain_{score}"].mean(), f"{score}_off": error.mean()}
        lines.append(line)
    return pd.DataFrame(lines)
