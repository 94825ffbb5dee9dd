"""What float32 does to the gradient under the weighted contrast and under probability."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from itertools import pairwise, product
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import wcx
from wcx.checks import cells
from wcx.checks.cells import Cells, Request, Result
from wcx.experiments.images import cut, order
from wcx.images import device_of

CODE = ("methods/gradient", "methods/paths")
NETWORK = "squeezenet1_1"
CHUNK = 20  # images a cell
BATCH = 10
BINS = (0, 1, 2, 4, 8, 12, 16, 18, np.inf)
SIGN_LIMIT = 0.01  # of the values


def compare(net32: nn.Module, net64: nn.Module, images: Tensor, index: Sequence[int]) -> list[dict[str, Any]]:
    """Return a row an image (N, 3, H, W), target (the two most probable classes) and contrast.

    Probability is compared with float64's weighted times p_t (1 - p_t), since float64 loses it, too, from a gap of 36 on.
    """
    exact = wcx.Explainer(net64, "gradient")(images.double())
    top = exact.logits.topk(2).indices.T
    rounded = wcx.Explainer(net32, "gradient")(images)
    foils = exact.logits[None].expand(2, -1, -1).scatter(2, top[..., None], -torch.inf)
    gap = exact.logits.gather(1, top.T).T - foils.amax(2)
    p = exact.logits.softmax(1).gather(1, top.T).T
    not_p = (foils.logsumexp(2) - exact.logits.logsumexp(1)).exp()  # 1 - p_t, with all its digits
    slope = {"weighted": torch.ones_like(p), "probability": p * not_p}
    weighted = exact.explain(wcx.cotangent(exact.logits, top, "weighted")).flatten(2)
    rows = []
    for name, factor in slope.items():
        reference = factor[..., None] * weighted
        maps = rounded.explain(wcx.cotangent(rounded.logits, top, name)).flatten(2).double()
        signed = reference != 0
        columns = {
            "p_t": p,
            "gap": gap,
            "relative_error": (maps - reference).norm(dim=2) / reference.norm(dim=2),
            "cosine": nn.functional.cosine_similarity(maps, reference, dim=2, eps=1e-300),
            "zero": (maps == 0).all(2),
            "wrong_sign": ((maps.sign() != reference.sign()) & signed).sum(2) / signed.sum(2),
        }
        for rank, (k, i) in product(range(2), enumerate(index)):
            measured = {key: column[rank, k].item() for key, column in columns.items()}
            rows.append({"index": i, "target": f"t{rank + 1}", "contrast": name, **measured})
    return rows


def check(request: Request) -> Result:
    """Fill the stability table on the ImageNet sample; write stability.csv, stability_bins.csv and stability.png."""
    dataset = request.images("imagenet", NETWORK)
    loaded = request.network(NETWORK, dataset)
    exact, device = copy.deepcopy(loaded.net).double(), device_of(loaded.net)
    settings = {"network": NETWORK, "weights": loaded.weights_hash, "data": dataset.listing_hash()}
    store = Cells(request.folder, "stability", CODE, settings)

    def compute(indices: Sequence[int]) -> list[dict[str, Any]]:
        rows = []
        for part in cut(indices, BATCH):
            pixels = torch.stack([dataset[i][0] for i in part]).to(device)
            rows += compare(loaded.net, exact, loaded.model.normalise(pixels), part)
        return rows

    tables = [
        store.rows(f"{indices[0]:04d}-{len(indices)}", partial(compute, indices))
        for indices in cells.progress(cut(order(len(dataset), request.limit, request.seed), CHUNK), "stability")
    ]
    table = pd.concat(tables, ignore_index=True)
    summary = bins(table)
    cells.save(table, request.folder, "stability")
    cells.save(summary, request.folder, "stability_bins")
    picture(table).savefig(request.folder / "stability.png", dpi=150)
    return Result(summary.to_string(index=False, float_format="{:.2g}".format))


def bins(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table by target, contrast and bin of the absolute logit gap, and over all images."""
    edges = [f"{low:g}-{high:g}" if np.isfinite(high) else f"{low:g}-" for low, high in pairwise(BINS)]
    binned = pd.cut(table.gap.abs(), BINS, right=False, labels=edges).astype(str)
    rows = []
    for (target, name), part in table.groupby(["target", "contrast"], sort=False):
        for label in [*edges, "all"]:
            chosen = part if label == "all" else part[binned[part.index] == label]
            if len(chosen):
                rows.append({"target": target, "contrast": name, "gap": label, **_summary(chosen)})
    return pd.DataFrame(rows)


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


def picture(table: pd.DataFrame) -> Figure:
    """Draw the relative error against the logit gap, a dot an image, for the predicted class."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    ax = figure.add_subplot()
    for name, colour in (("weighted", "tab:blue"), ("probability", "tab:red")):
        rows = table[(table.contrast == name) & (table.target == "t1")]
        ax.plot(rows.gap, rows.relative_error, ".", color=colour, markersize=3, alpha=0.6, label=name)
    ax.set(yscale="log", xlabel="logit gap $y_{t_1} - y_{t_2}$", ylabel="relative error of float32")
    ax.legend(frameon=False)
    return figure
