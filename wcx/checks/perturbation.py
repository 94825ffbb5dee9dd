"""The perturbation engine against the formulas in float64; and where float32's probability leaves weighted's way."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise, product

import pandas as pd
import torch
from torch import Tensor, nn

from wcx import methods, records
from wcx.checks import cells
from wcx.checks.cells import Cells, Request, Result, readable
from wcx.errors import choose
from wcx.experiments import Cell, Subject
from wcx.experiments.base import Row
from wcx.experiments.images import Item, cut, order, read
from wcx.experiments.sign_perturbation import Settings, SignPerturbation

NETWORKS = ("squeezenet1_1", "mobilenet_v3_small")
CONTRASTS = ("original", "mean", "max", "weighted", "probability")
PRECISIONS = ("float32", "bfloat16")
CODE = ("methods/gradient", "methods/paths", "models/precision", "experiments/base", "experiments/sign_perturbation")
LIMIT = 32  # images of the comparison with float64
CHUNK = 4  # images a cell of it
BATCH = 25  # images a cell of the other
BINS = (0, 0.5, 0.9, 0.99, 0.999, 0.99999, 0.9999999, 1.0)  # of p_t; its complement is what float32 loses

Scalar = Callable[[Tensor, int, list[int]], Tensor]  # logits (C,), target, the other classes -> what is derived
SCALARS: dict[str, Scalar] = {
    "original": lambda y, t, _: y[t],
    "mean": lambda y, t, foils: y[t] - y[foils].sum() / len(foils),
    "max": lambda y, t, foils: y[t] - y[max(foils, key=lambda s: float(y[s].detach()))],
    "weighted": lambda y, t, foils: y[t] - (y[foils].detach().softmax(0) * y[foils]).sum(),
    "probability": lambda y, t, _: y.softmax(0)[t],
    "finer": lambda y, t, foils: y[t] - 0.6 * y[_nearest(y, t, foils)].mean(),
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

    handle = experiment.subject.model.register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


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


def compare(model: nn.Module, exact: nn.Module, batch: Sequence[Item], epsilon: float) -> list[Row]:
    """Return a row an image, contrast, number of steps and precision: the engine beside the reference.

    `elsewhere` is the share of pixel values that end more than half a step from the reference's: for one step, those whose
    sign differs (but for values at 0 or 1, which move one way only).
    """
    settings = Settings(epsilon=epsilon)
    walks = {p: walked(model, batch, replace(settings, precision=p), CONTRASTS) for p in PRECISIONS}
    rows = []
    for (contrast, n), (k, item) in product(walks[PRECISIONS[0]], enumerate(batch)):
        assert item.pixels is not None
        end = walk(exact, item.pixels.double(), item.label, contrast, epsilon, n)
        with torch.no_grad():
            y = exact(end[None])[0]
        reference = {"y_t": float(y[item.label]), "p_t": float(y.softmax(0)[item.label])}
        for precision, ends in walks.items():
            images, measured = ends[contrast, n]
            distant = (images[k].double() - end).abs() > epsilon / n / 2
            row: Row = {"index": item.index, "contrast": contrast, "iterations": n, "precision": precision}
            row["elsewhere"] = float(distant.double().mean())
            row |= {score: measured[k][f"{score}/{n}"] for score in reference}
            row |= {f"error_{score}": row[score] - value for score, value in reference.items()}
            row |= {f"gain_{score}": value - measured[k][score] for score, value in reference.items()}
            rows.append(row)
    return rows


def part_ways(model: nn.Module, batch: Sequence[Item], epsilon: float) -> list[Row]:
    """Return a row an image: float32's probability beside weighted, after one step.

    In exact arithmetic they are proportional, and the two steps the same.
    """
    walks = walked(model, batch, Settings(epsilon=epsilon, iterations=(1,)), ["probability", "weighted"])
    (first, probability), (second, weighted) = walks["probability", 1], walks["weighted", 1]
    shares = (first != second).double().flatten(1).mean(1).tolist()
    rows = []
    for item, share, p, w in zip(batch, shares, probability, weighted, strict=True):
        row = {"index": item.index, "p_t": p["p_t"], "apart": share, "zero_gradient": p["zero_gradient/1"]}
        for column in ("y_t", "p_t", "correct"):
            row |= {
                f"probability_{column}": p[f"{column}/1"] - p[column],
                f"weighted_{column}": w[f"{column}/1"] - w[column],
            }
        rows.append(row)
    return rows


def check(request: Request) -> Result:
    """Compare with float64 on `LIMIT` images, and find where probability leaves weighted's way on all of them.

    With a limit asked for, both take so many. Writes perturbation.csv and perturbation_probability.csv, a row an image and
    walk.
    """
    pairs = [of_network(request, network) for network in NETWORKS]
    compared, departed = (pd.concat(tables, ignore_index=True) for tables in zip(*pairs, strict=True))
    cells.save(compared, request.folder, "perturbation")
    cells.save(departed, request.folder, "perturbation_probability")
    return Result(
        f"{agreement(compared).to_string(index=False, float_format='{:.2g}'.format)}\n"
        "float32: probability beside weighted, one step, by p_t\n"
        f"{ways(departed).to_string(index=False, float_format='{:.3g}'.format)}"
    )


def of_network(request: Request, network: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of `compare` and of `part_ways` for one network and the ImageNet sample."""
    dataset = request.images("imagenet", network)
    loaded, epsilon = request.network(network, dataset), request.epsilon
    exact = copy.deepcopy(loaded.model).double()
    facts = {"weights": loaded.weights_hash, "channels_last": loaded.channels_last, "epsilon": epsilon}
    store = Cells(request.folder, "perturbation", CODE, facts | {"data": dataset.listing_hash()})

    def rows(part: str, limit: int | None, size: int, compute: Callable[[list[Item]], list[Row]]) -> pd.DataFrame:
        """Return the rows of all images up to `limit`, computed `size` images a cell."""

        def of(indices: Sequence[int]) -> list[Row]:
            return compute(readable(read(dataset, indices)))

        tables = []
        for indices in cells.progress(cut(order(len(dataset), limit, request.seed), size), f"{network} {part}"):
            key = f"{network}-{part}-{records.fingerprint({'images': indices})}"
            tables.append(store.rows(key, partial(of, indices)))
        return pd.concat(tables, ignore_index=True).assign(network=network)

    return (
        rows("float64", request.limit or LIMIT, CHUNK, lambda items: compare(loaded.model, exact, items, epsilon)),
        rows("probability", request.limit, BATCH, lambda items: part_ways(loaded.model, items, epsilon)),
    )


def agreement(table: pd.DataFrame) -> pd.DataFrame:
    """Return the comparison with float64 by network, precision, contrast and number of steps.

    `bar` is the reference's mean change, `off` by how much the engine's differs.
    """
    keys = ["network", "precision", "contrast", "iterations"]
    rows = []
    for values, walks in table.groupby(keys, sort=False):
        row = dict(zip(keys, values, strict=True)) | {"n": len(walks), "elsewhere": walks.elsewhere.mean()}
        row |= {"elsewhere_max": walks.elsewhere.max()}
        for score in ("y_t", "p_t"):
            error = walks[f"error_{score}"]
            row |= {f"{score}_error_median": error.abs().median(), f"{score}_error_max": error.abs().max()}
            row |= {f"{score}_bar": walks[f"gain_{score}"].mean(), f"{score}_off": error.mean()}
        rows.append(row)
    return pd.DataFrame(rows)


def ways(table: pd.DataFrame) -> pd.DataFrame:
    """Return probability beside weighted by network and bin of p_t: how often and how far apart they are, and the bars."""
    labels = [f"{low:g}-{high:g}" for low, high in pairwise(BINS)]
    binned = pd.cut(table.p_t, BINS, right=True, include_lowest=True, labels=labels).astype(str)
    rows = []
    for network, images in table.groupby("network", sort=False):
        for label in [*labels, "all"]:
            chosen = images if label == "all" else images[binned[images.index] == label]
            if chosen.empty:
                continue
            row = {"network": network, "p_t": label, "n": len(chosen), "apart": chosen.apart.mean()}
            row |= {"apart_1%": (chosen.apart > 0.01).mean(), "zero": int(chosen.zero_gradient.sum())}
            for score in ("y_t", "p_t", "correct"):
                row |= {f"{name}_{score}": chosen[f"{name}_{score}"].mean() for name in ("probability", "weighted")}
            rows.append(row)
    return pd.DataFrame(rows)
