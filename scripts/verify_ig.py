"""Integrated gradients: completeness against steps, and how far weighted (alpha frozen) is from probability (alpha varies)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

import wcx
from scripts import cli, verify_cells
from scripts.verify_cells import Cells, Subject
from wcx.experiments import items
from wcx.methods.integrated_gradients import RULES

STEPS = (4, 8, 16, 32, 64, 128)
RESIDUAL_IMAGES = 8
COSINE_IMAGES = 100
COSINE_STEPS = 32
CHUNK = 4


def residuals(subject: Subject, rule: str, steps: int) -> list[dict[str, Any]]:
    """Return the completeness residual of each image's predicted class, relative to what the explanation should sum to."""
    explainer = wcx.Explainer(subject.net, "integrated_gradients", steps=steps, rule=rule, batch_size=16)
    rows = []
    for part in items.cut(range(len(subject.images)), CHUNK):
        run = explainer(subject.images[part])
        maps = run.explain(wcx.cotangent(run.logits, run.logits.argmax(1), "weighted"))
        total = maps.double().sum((1, 2, 3)) - run.residual  # sum_s v_s (y_s(x) - y_s(x'))
        rows += [
            {
                "image": i,
                "rule": rule,
                "steps": steps,
                "residual": abs(float(run.residual[k])),
                "change": float(total[k]),
            }
            for k, i in enumerate(part)
        ]
    return rows


def cosines(subject: Subject, part: Sequence[int]) -> list[dict[str, Any]]:
    """Return the cosine between weighted and probability for the two most probable classes, and p_t."""
    run = wcx.Explainer(subject.net, "integrated_gradients", steps=COSINE_STEPS, batch_size=16)(
        subject.images[list(part)]
    )
    top = run.logits.topk(2).indices.T
    weighted = wcx.cotangent(run.logits, top, "weighted")

    def both(logits: torch.Tensor) -> torch.Tensor:
        return torch.cat([weighted, wcx.cotangent(logits, top, "probability")])

    maps = run.explain(both).double().flatten(2).unflatten(0, (2, 2))  # contrast, target, image
    cosine = torch.nn.functional.cosine_similarity(maps[0], maps[1], dim=2, eps=1e-300)
    p = run.logits.double().softmax(1).gather(1, top.T).T
    return [
        {"image": i, "target": f"t{r + 1}", "p_t": float(p[r, k]), "cosine": float(cosine[r, k])}
        for r in range(2)
        for k, i in enumerate(part)
    ]


def run(
    folder: Path, overrides: Sequence[str] = (), network: str = "squeezenet1_1"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Fill both tables; write ig_completeness.csv, ig_cosine.csv and ig.png."""
    limit = cli.compose(list(overrides)).limit
    few = verify_cells.subject(network, min(limit or RESIDUAL_IMAGES, RESIDUAL_IMAGES), overrides, side=224)
    todo = [(rule, steps) for steps in STEPS for rule in RULES]
    code = ["wcx/methods/integrated_gradients", "wcx/methods/paths", "wcx/methods/_reference", "scripts/verify_ig"]
    cells = Cells(folder, "ig", code, {"network": network, "n": len(few.images), "overrides": list(overrides)})
    complete = pd.concat(
        cells.rows(f"completeness-{rule}-{steps}", lambda r=rule, s=steps: residuals(few, r, s))
        for rule, steps in verify_cells.progress(todo, len(todo), "ig completeness")
    )
    many = verify_cells.subject(network, limit or COSINE_IMAGES, overrides, side=224)
    chunks = items.cut(range(len(many.images)), CHUNK)
    cosine = pd.concat(
        cells.rows(f"cosine-{part[0]:04d}-{len(part)}", lambda some=part: cosines(many, some))
        for part in verify_cells.progress(chunks, len(chunks), "ig cosine")
    )
    verify_cells.save(complete, folder, "ig_completeness")
    verify_cells.save(cosine, folder, "ig_cosine")
    picture(complete, cosine).savefig(folder / "ig.png", dpi=150)
    return complete, cosine


def relative(complete: pd.DataFrame) -> pd.DataFrame:
    """Return the median of abs(residual) / abs(change), a line a rule and a column a number of steps."""
    value = complete.residual / complete.change.abs()
    return complete.assign(value=value).pivot_table("value", "rule", "steps", aggfunc="median", sort=False)


def cosine_bins(cosine: pd.DataFrame) -> pd.DataFrame:
    """Return quantiles of the cosine by bins of p_t."""
    edges = [0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0000001]
    groups = cosine.groupby(pd.cut(cosine.p_t, edges, right=False), observed=True).cosine
    return groups.describe(percentiles=[0.05, 0.5, 0.95])[["count", "min", "5%", "50%", "95%", "max"]]


def picture(complete: pd.DataFrame, cosine: pd.DataFrame) -> Figure:
    """Draw the completeness residual against steps, and the cosine against p_t on a logit axis."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for rule, values in relative(complete).iterrows():
        left.plot(values.index, values, "o-", markersize=3, linewidth=1, label=rule)
    left.set(xscale="log", yscale="log", xlabel="steps", ylabel="|residual| / |change|, median")
    left.set_xticks(list(STEPS), [str(s) for s in STEPS], minor=False)
    left.set_yticks(shares := [0.02, 0.05, 0.1, 0.2, 0.5], [f"{share:g}" for share in shares])
    left.minorticks_off()
    left.legend(frameon=False, fontsize=8)
    for target, marker in (("t1", "o"), ("t2", "^")):
        rows = cosine[cosine.target == target]
        right.plot(
            rows.p_t.clip(1e-6, 1 - 1e-6),
            rows.cosine,
            marker,
            markersize=3,
            alpha=0.6,
            label=f"${target[0]}_{target[1]}$",
        )
    right.set(xscale="logit", xlabel="$p_t$", ylabel="cosine of IG: weighted, probability", ylim=(None, 1.02))
    right.set_xticks(
        [1e-6, 1e-3, 0.5, 1 - 1e-3, 1 - 1e-6], ["$10^{-6}$", "$10^{-3}$", "0.5", "$1-10^{-3}$", "$1-10^{-6}$"]
    )
    right.axhline(1, color="0.7", linewidth=0.6)
    right.legend(frameon=False, fontsize=8)
    return figure
