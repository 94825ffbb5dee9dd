"""Integrated gradients: completeness against steps, and how far weighted (alpha frozen) is from probability (alpha varies)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

import wcx
from wcx.checks import cells
from wcx.checks.cells import Cells, Request, Result
from wcx.checks.specimens import Specimen, specimen
from wcx.experiments.images import cut
from wcx.methods.integrated_gradients import RULES

CODE = ("methods/integrated_gradients", "methods/paths", "methods/_reference")
NETWORK = "squeezenet1_1"
STEPS = (4, 8, 16, 32, 64, 128)
RESIDUAL_IMAGES = 8
COSINE_IMAGES = 100
COSINE_STEPS = 32
CHUNK = 4


def residuals(subject: Specimen, rule: str, steps: int) -> list[dict[str, Any]]:
    """Return the completeness residual of each image's predicted class, relative to what the explanation should sum to."""
    explainer = wcx.Explainer(subject.net, "integrated_gradients", steps=steps, rule=rule, batch_size=16)
    rows = []
    for part in cut(range(len(subject.images)), CHUNK):
        run: Any = explainer(subject.images[part])  # with a residual, as this method's are
        maps = run.explain(wcx.cotangent(run.logits, run.logits.argmax(1), "weighted"))
        total = maps.double().sum((1, 2, 3)) - run.residual  # sum_s v_s (y_s(x) - y_s(x'))
        residual = run.residual.abs().tolist()
        rows += [
            {"image": i, "rule": rule, "steps": steps, "residual": residual[k], "change": float(total[k])}
            for k, i in enumerate(part)
        ]
    return rows


def cosines(subject: Specimen, part: Sequence[int]) -> list[dict[str, Any]]:
    """Return the cosine between weighted and probability for the two most probable classes, and p_t."""
    explainer = wcx.Explainer(subject.net, "integrated_gradients", steps=COSINE_STEPS, batch_size=16)
    run = explainer(subject.images[list(part)])
    top = run.logits.topk(2).indices.T
    weighted = wcx.cotangent(run.logits, top, "weighted")

    def both(logits: torch.Tensor) -> torch.Tensor:
        return torch.cat([weighted, wcx.cotangent(logits, top, "probability")])

    maps = run.explain(both).double().flatten(2).unflatten(0, (2, 2))  # contrast, target, image
    cosine = torch.nn.functional.cosine_similarity(maps[0], maps[1], dim=2, eps=1e-300)
    p = run.logits.double().softmax(1).gather(1, top.T).T
    return [
        {"image": i, "target": f"t{r + 1}", "p_t": float(p[r, k]), "cosine": float(cosine[r, k])}
        for r, (k, i) in product(range(2), enumerate(part))
    ]


def check(request: Request) -> Result:
    """Fill both tables; write ig_completeness.csv, ig_cosine.csv and ig.png."""
    first = specimen(request, NETWORK, min(request.limit or RESIDUAL_IMAGES, RESIDUAL_IMAGES), side=224)
    settings = {"network": NETWORK, "n": len(first.images), "typed": list(request.typed)}
    store = Cells(request.folder, "ig", CODE, settings)
    completeness = pd.concat(
        store.rows(f"completeness-{rule}-{steps}", partial(residuals, first, rule, steps))
        for steps, rule in cells.progress(list(product(STEPS, RULES)), "ig completeness")
    )
    sample = specimen(request, NETWORK, request.limit or COSINE_IMAGES, side=224)
    cosine = pd.concat(
        store.rows(f"cosine-{part[0]:04d}-{len(part)}", partial(cosines, sample, part))
        for part in cells.progress(cut(range(len(sample.images)), CHUNK), "ig cosine")
    )
    cells.save(completeness, request.folder, "ig_completeness")
    cells.save(cosine, request.folder, "ig_cosine")
    picture(completeness, cosine).savefig(request.folder / "ig.png", dpi=150)
    return Result(
        f"abs(residual) / abs(change), median of {completeness.image.nunique()} images, by steps\n"
        f"{relative(completeness).to_string(float_format='{:.2g}'.format)}\n"
        "cosine of weighted and probability, by p_t\n"
        f"{cosine_bins(cosine).to_string(float_format='{:.3f}'.format)}"
    )


def relative(completeness: pd.DataFrame) -> pd.DataFrame:
    """Return the median of abs(residual) / abs(change), a line a rule and a column a number of steps."""
    value = completeness.residual / completeness.change.abs()
    return completeness.assign(value=value).pivot_table("value", "rule", "steps", aggfunc="median", sort=False)


def cosine_bins(cosine: pd.DataFrame) -> pd.DataFrame:
    """Return quantiles of the cosine by bins of p_t."""
    edges = [0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0000001]
    groups = cosine.groupby(pd.cut(cosine.p_t, edges, right=False), observed=True).cosine
    return groups.describe(percentiles=[0.05, 0.5, 0.95])[["count", "min", "5%", "50%", "95%", "max"]]


def picture(completeness: pd.DataFrame, cosine: pd.DataFrame) -> Figure:
    """Draw the completeness residual against steps, and the cosine against p_t on a logit axis."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    by_steps, by_p = figure.subplots(1, 2)
    for rule, values in relative(completeness).iterrows():
        by_steps.plot(values.index, values, "o-", markersize=3, linewidth=1, label=rule)
    by_steps.set(xscale="log", yscale="log", xlabel="steps", ylabel="|residual| / |change|, median")
    by_steps.set_xticks(list(STEPS), [str(s) for s in STEPS], minor=False)
    by_steps.set_yticks(shares := [0.02, 0.05, 0.1, 0.2, 0.5], [f"{share:g}" for share in shares])
    by_steps.minorticks_off()
    by_steps.legend(frameon=False, fontsize=8)
    for target, marker in (("t1", "o"), ("t2", "^")):
        rows = cosine[cosine.target == target]
        by_p.plot(
            rows.p_t.clip(1e-6, 1 - 1e-6),
            rows.cosine,
            marker,
            markersize=3,
            alpha=0.6,
            label=f"${target[0]}_{target[1]}$",
        )
    by_p.set(xscale="logit", xlabel="$p_t$", ylabel="cosine of IG: weighted, probability", ylim=(None, 1.02))
    by_p.set_xticks(
        [1e-6, 1e-3, 0.5, 1 - 1e-3, 1 - 1e-6], ["$10^{-6}$", "$10^{-3}$", "0.5", "$1-10^{-3}$", "$1-10^{-6}$"]
    )
    by_p.axhline(1, color="0.7", linewidth=0.6)
    by_p.legend(frameon=False, fontsize=8)
    return figure
