"""The perturbation engine against the formulas in float64; and where float32's probability leaves weighted's way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from scripts import cli, verify_cells
from scripts.verify_cells import Cells
from wcx import methods, records
from wcx.datasets import ImageDataset
from wcx.errors import choose
from wcx.experiments import items
from wcx.experiments.items import Item
from wcx.experiments.protocol import Cell
from wcx.experiments.sign_perturbation import Perturbation, Settings

NETWORKS = ("squeezenet1_1", "mobilenet_v3_small")
CONTRASTS = ("original", "mean", "max", "weighted", "probability")
PRECISIONS = ("float32", "bfloat16")
CODE = [
    "wcx/methods/gradient",
    "wcx/methods/paths",
    "wcx/precision",
    "wcx/experiments/sign_perturbation",
    "scripts/verify_perturbation",
]
CHUNK = 4  # images a cell of the comparison with float64
BATCH = 25  # images a cell of the other
BINS = (0, 0.5, 0.9, 0.99, 0.999, 0.99999, 0.9999999, 1.0)  # of p_t; its complement is what float32 loses


Scalar = Callable[[Tensor, int, list[int]], Tensor]  # logits (C,), target, the other classes -> what is derived
SCALARS: dict[str, Scalar] = {
    "original": lambda y, t, _: y[t],
    "mean": lambda y, t, others: y[t] - y[others].sum() / len(others),
    "max": lambda y, t, others: y[t] - y[max(others, key=lambda s: float(y[s].detach()))],
    "weighted": lambda y, t, others: y[t] - (y[others].detach().softmax(0) * y[others]).sum(),
    "probability": lambda y, t, _: y.softmax(0)[t],
    "finer": lambda y, t, others: y[t] - 0.6 * y[_nearest(y, t, others)].mean(),
}


def _nearest(y: Tensor, t: int, others: list[int]) -> list[int]:
    return sorted(others, key=lambda s: (abs(float(y[s].detach() - y[t].detach())), s))[:3]


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
def last_images(engine: Perturbation) -> Iterator[list[Tensor]]:
    """Collect what the engine evaluates, walk by walk: the images after the last step, (N, 3, H, W) each."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, arguments: tuple[Tensor]) -> None:
        if torch.is_inference_mode_enabled():
            seen.append(arguments[0].clone())

    handle = engine.model.register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def walked(
    model: nn.Module, batch: Sequence[Item], settings: Settings, names: Sequence[str]
) -> dict[tuple[str, int], tuple[Tensor, list[dict]]]:
    """Return for each (contrast, n) the engine's last images (N, 3, H, W) and its rows."""
    cells = [Cell("gradient", name) for name in names]
    engine = Perturbation(model, {"gradient": methods.create("gradient")}, cells, settings, batch_size=len(batch))
    with last_images(engine) as seen:
        rows = engine.chunk(batch)
    ends = seen[engine.separate :]  # the first may be the clean images'
    pairs = [(cell, n) for cell in cells for n in settings.iterations]
    return {(cell.contrast, n): (end, rows[cell]) for (cell, n), end in zip(pairs, ends, strict=True)}


def compare(model: nn.Module, exact: nn.Module, batch: Sequence[Item], epsilon: float) -> list[dict[str, Any]]:
    """Return a row an image, contrast, number of steps and precision: the engine beside the reference.

    `elsewhere` is the share of pixel values that end more than half a step from the reference's: for one step, those whose
    sign differs (but for values at 0 or 1, which move one way only).
    """
    settings = Settings(epsilon=epsilon)
    found = {p: walked(model, batch, replace(settings, precision=p), CONTRASTS) for p in PRECISIONS}
    rows = []
    for contrast, n in found[PRECISIONS[0]]:
        for k, item in enumerate(batch):
            x0 = item.pixels.double()
            end = walk(exact, x0, item.label, contrast, epsilon, n)
            with torch.no_grad():
                y = exact(end[None])[0]
            for name, those in found.items():
                images, measured = those[contrast, n]
                far = (images[k].double() - end).abs() > epsilon / n / 2
                rows.append(
                    {
                        "index": item.index,
                        "contrast": contrast,
                        "iterations": n,
                        "precision": name,
                        "elsewhere": float(far.double().mean()),
                        "y_t": measured[k][f"y_t/{n}"],
                        "p_t": measured[k][f"p_t/{n}"],
                        "error_y_t": measured[k][f"y_t/{n}"] - float(y[item.label]),
                        "error_p_t": measured[k][f"p_t/{n}"] - float(y.softmax(0)[item.label]),
                        "gain_y_t": float(y[item.label]) - measured[k]["y_t"],
                        "gain_p_t": float(y.softmax(0)[item.label]) - measured[k]["p_t"],
                    }
                )
    return rows


def part_ways(model: nn.Module, batch: Sequence[Item], epsilon: float) -> list[dict[str, Any]]:
    """Return a row an image: float32's probability beside weighted, after one step.

    In exact arithmetic they are proportional, and the two steps the same.
    """
    found = walked(model, batch, Settings(epsilon=epsilon, iterations=(1,)), ["probability", "weighted"])
    (first, probability), (second, weighted) = found["probability", 1], found["weighted", 1]
    apart = (first != second).double().flatten(1).mean(1).tolist()
    rows = []
    for item, share, p, w in zip(batch, apart, probability, weighted, strict=True):
        row = {"index": item.index, "p_t": p["p_t"], "apart": share, "zero_gradient": p["zero_gradient/1"]}
        for column in ("y_t", "p_t", "correct"):
            row |= {
                f"probability_{column}": p[f"{column}/1"] - p[column],
                f"weighted_{column}": w[f"{column}/1"] - w[column],
            }
        rows.append(row)
    return rows


@dataclass
class Subject:
    """A network with its weights, in float32 and in float64, and the images."""

    name: str
    dataset: ImageDataset
    model: nn.Module
    exact: nn.Module
    epsilon: float
    seed: int
    cells: Cells

    def rows(
        self, what: str, limit: int | None, size: int, compute: Callable[[list[Item]], list[dict[str, Any]]]
    ) -> pd.DataFrame:
        """Return the rows of all images up to `limit`, computed `size` images a cell."""
        plan = items.cut(items.order(len(self.dataset), limit, self.seed), size)
        tables = []
        for some in verify_cells.progress(plan, len(plan), f"{self.name} {what}"):
            key = f"{self.name}-{what}-{records.fingerprint({'images': some})}"
            tables.append(self.cells.rows(key, lambda some=some: compute(list(items.read(self.dataset, some)))))
        return pd.concat(tables, ignore_index=True).assign(network=self.name)


def subject(folder: Path, network: str, overrides: Sequence[str]) -> Subject:
    """Open a network and the ImageNet sample."""
    cfg = cli.compose(["dataset=imagenet", f"model={network}", *overrides])
    dataset = cli.open_dataset(cfg, "test")
    loaded, exact = cli.open_model(cfg, dataset), cli.open_model(cfg, dataset).model.double()
    facts = {"weights": loaded.weights_hash, "channels_last": loaded.channels_last, "epsilon": cfg.epsilon}
    cells = Cells(folder, "perturbation", CODE, facts | {"data": dataset.listing_hash()})
    return Subject(network, dataset, loaded.model, exact, cfg.epsilon, cfg.seed, cells)


def run(folder: Path, overrides: Sequence[str] = (), limit: int = 32) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare with float64 on `limit` images and find where probability leaves weighted's way on all of them.

    With limit=n among the overrides, both take the first n images of the permutation. Writes perturbation.csv and
    perturbation_probability.csv, a row an image and walk.
    """
    agreement, ways = [], []
    given = cli.compose(["dataset=imagenet", *overrides]).limit
    for network in NETWORKS:
        one = subject(folder, network, overrides)
        agreement.append(
            one.rows("float64", given or limit, CHUNK, lambda b, o=one: compare(o.model, o.exact, b, o.epsilon))
        )
        ways.append(one.rows("probability", given, BATCH, lambda b, o=one: part_ways(o.model, b, o.epsilon)))
    tables = pd.concat(agreement, ignore_index=True), pd.concat(ways, ignore_index=True)
    for table, name in zip(tables, ("perturbation", "perturbation_probability"), strict=True):
        verify_cells.save(table, folder, name)
    return tables


def agreement(table: pd.DataFrame) -> pd.DataFrame:
    """Return the comparison with float64 by network, precision, contrast and number of steps.

    `bar` is the reference's mean change, `off` by how much the engine's differs.
    """
    keys = ["network", "precision", "contrast", "iterations"]
    rows = []
    for values, some in table.groupby(keys, sort=False):
        row = dict(zip(keys, values, strict=True)) | {"n": len(some), "elsewhere": some.elsewhere.mean()}
        row |= {"elsewhere_max": some.elsewhere.max()}
        for what in ("y_t", "p_t"):
            error = some[f"error_{what}"]
            row |= {f"{what}_error_median": error.abs().median(), f"{what}_error_max": error.abs().max()}
            row |= {f"{what}_bar": some[f"gain_{what}"].mean(), f"{what}_off": error.mean()}
        rows.append(row)
    return pd.DataFrame(rows)


def ways(table: pd.DataFrame) -> pd.DataFrame:
    """Return probability beside weighted by network and bin of p_t: how often and how far apart they are, and the bars."""
    labels = [f"{low:g}-{high:g}" for low, high in pairwise(BINS)]
    cut = pd.cut(table.p_t, BINS, right=True, include_lowest=True, labels=labels).astype(str)
    rows = []
    for network, some in table.groupby("network", sort=False):
        for label in [*labels, "all"]:
            chosen = some if label == "all" else some[cut[some.index] == label]
            if chosen.empty:
                continue
            row = {"network": network, "p_t": label, "n": len(chosen), "apart": chosen.apart.mean()}
            row |= {"apart_1%": (chosen.apart > 0.01).mean(), "zero": int(chosen.zero_gradient.sum())}
            for what in ("y_t", "p_t", "correct"):
                row |= {f"{name}_{what}": chosen[f"{name}_{what}"].mean() for name in ("probability", "weighted")}
            rows.append(row)
    return pd.DataFrame(rows)
