"""What float32 does to the gradient under the weighted contrast and under probability."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

import wcx
from scripts import cli, verify_cells
from scripts.verify_cells import Cells
from wcx.experiments import items

CHUNK = 20  # images a cell
BATCH = 10
BINS = (0, 1, 2, 4, 8, 12, 16, 18, np.inf)
SIGN_LIMIT = 0.01  # of the values


def compare(
    net32: torch.nn.Module, net64: torch.nn.Module, images: Tensor, index: Sequence[int]
) -> list[dict[str, Any]]:
    """Return a row an image (N, 3, H, W), target (the two most probable classes) and contrast.

    Probability is compared with float64's weighted times p_t (1 - p_t), since float64 loses it, too, from a gap of 36 on.
    """
    exact = wcx.Explainer(net64, "gradient")(images.double())
    top = exact.logits.topk(2).indices.T
    rounded = wcx.Explainer(net32, "gradient")(images)
    others = exact.logits[None].expand(2, -1, -1).scatter(2, top[..., None], -torch.inf)
    gap = exact.logits.gather(1, top.T).T - others.amax(2)
    p = exact.logits.softmax(1).gather(1, top.T).T
    not_p = (others.logsumexp(2) - exact.logits.logsumexp(1)).exp()  # 1 - p_t, with all its digits
    slope = {"weighted": torch.ones_like(p), "probability": p * not_p}
    weighted = exact.explain(wcx.cotangent(exact.logits, top, "weighted")).flatten(2)
    rows = []
    for name, factor in slope.items():
        want = factor[..., None] * weighted
        got = rounded.explain(wcx.cotangent(rounded.logits, top, name)).flatten(2).double()
        known = want != 0
        columns = {
            "p_t": p,
            "gap": gap,
            "relative_error": (got - want).norm(dim=2) / want.norm(dim=2),
            "cosine": torch.nn.functional.cosine_similarity(got, want, dim=2, eps=1e-300),
            "zero": (got == 0).all(2),
            "wrong_sign": ((got.sign() != want.sign()) & known).sum(2) / known.sum(2),
        }
        rows += [
            {
                "index": i,
                "target": f"t{rank + 1}",
                "contrast": name,
                **{key: c[rank, k].item() for key, c in columns.items()},
            }
            for rank in range(2)
            for k, i in enumerate(index)
        ]
    return rows


def run(folder: Path, overrides: Sequence[str] = (), network: str = "squeezenet1_1") -> pd.DataFrame:
    """Fill the stability table on the ImageNet sample and write stability.csv, stability_bins.csv and stability.png."""
    cfg = cli.compose(["dataset=imagenet", f"model={network}", *overrides])
    dataset = cli.open_dataset(cfg, "test")
    loaded = cli.open_model(cfg, dataset)
    exact = cli.open_model(cfg, dataset).net.double()
    chunks = items.cut(items.order(len(dataset), cfg.limit, cfg.seed), CHUNK)
    code = ["wcx/methods/gradient", "wcx/methods/paths", "scripts/verify_stability"]
    cells = Cells(
        folder, "stability", code, {"network": network, "weights": loaded.weights_hash, "data": dataset.listing_hash()}
    )

    def chunk(indices: Sequence[int]) -> list[dict[str, Any]]:
        rows = []
        for part in items.cut(indices, BATCH):
            images = loaded.model.normalise(torch.stack([dataset[i][0] for i in part]).to(cli.device(cfg)))
            rows += compare(loaded.net, exact, images, part)
        return rows

    tables = [
        cells.rows(f"{indices[0]:04d}-{len(indices)}", lambda part=indices: chunk(part))
        for indices in verify_cells.progress(chunks, len(chunks), "stability")
    ]
    table = pd.concat(tables, ignore_index=True)
    verify_cells.save(table, folder, "stability")
    verify_cells.save(bins(table), folder, "stability_bins")
    picture(table).savefig(folder / "stability.png", dpi=150)
    return table


def bins(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table by target, contrast and bin of the absolute logit gap, and over all images."""
    edges = [f"{low:g}-{high:g}" if np.isfinite(high) else f"{low:g}-" for low, high in pairwise(BINS)]
    cut = pd.cut(table.gap.abs(), BINS, right=False, labels=edges).astype(str)
    rows = []
    for (target, name), some in table.groupby(["target", "contrast"], sort=False):
        for label in [*edges, "all"]:
            chosen = some if label == "all" else some[cut[some.index] == label]
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
