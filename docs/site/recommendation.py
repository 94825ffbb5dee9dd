"""What to recommend for a pair of classes on drawn birds: docs/tables/twins_recommendation.csv, and its numbers in figures.csv.

    python docs/site/recommendation.py checkpoints/parts/small_cnn-<hash>.safetensors

Every method and layer answers Q1 and Q3 (see `wcx.experiments.twins`) of training images, the foil named; the one with most pair
questions right answers those of test images. Verified questions alone, means within an image first.
"""

from __future__ import annotations

import sys
from collections import Counter
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from torch import nn
from twins import TABLES, put

import wcx
from wcx import datasets, models, statistics
from wcx.experiments import images
from wcx.experiments._answers import Answered
from wcx.experiments.base import at_pixels
from wcx.measures.truth import Readings, get

TRAIN, TEST = 96, 330  # images, the first of a permutation
LAYERS = ("features.4", "features.3", "features.2", "features.1", "features.0")
CANDIDATES = {(name, layer): {} for name in ("gradcam", "linear_approximation", "xgradcam") for layer in LAYERS} | {
    ("input_x_gradient", None): {},
    ("deeplift", None): {},
    ("lrp", None): {},
    ("lrp, epsilon_gamma_box", None): {"composite": "epsilon_gamma_box"},
}
LAST = ("gradcam", "features.4")


def answers(
    network: nn.Module, split: str, count: int, candidates: list[tuple[str, str | None]], contrast: str
) -> pd.DataFrame:
    """Return a row an image and candidate: the share of its questions that are right (q1, q3), and what wrong maps show."""
    options = {"families": "factorial", "transform": {"kind": "squash", "size": 96}}
    birds, score, rows = datasets.load("parts", ".", split, **options), get("top_part")(), []
    for item in images.read(birds, images.order(len(birds), count, 0), needs_twins=True):
        pixels = item.pixels[None]
        with torch.no_grad():
            logits = network(torch.cat([pixels, item.twins.pixels])).double()
        image = Answered(item.pixels, item.twins, item.label, logits)
        asked = [question for question in image.questions if question.kind == "q1" and all(image.verified(question))]
        if not asked:
            continue
        truths = [image.truth(question) for question in asked]
        for method, layer in candidates:
            name, settings = method.partition(",")[0], CANDIDATES[method, layer]
            run = wcx.Explainer(network, name, layer, **settings)(pixels)
            v = [wcx.cotangent(run.logits, item.label, contrast, foils=[*question.foils]) for question in asked]
            maps = at_pixels(run.explain(torch.stack(v)), (96, 96), False)[:, 0]
            readings = Readings.of(maps.flatten(1).float(), image.cells)
            single = [readings.take(torch.tensor([place])) for place in range(len(asked))]
            right = [float(score(map_, truth)[0, 0]) for map_, truth in zip(single, truths, strict=True)]
            values = [
                map_.parts(truth, "mean")[0].where(truth.candidates, torch.tensor(-torch.inf))
                for map_, truth in zip(single, truths, strict=True)
            ]
            wrong = [
                image.twins.parts[int(value.argmax())]
                for value, credit in zip(values, right, strict=True)
                if credit == 0
            ]
            both = [a * b for a, b in combinations(right, 2)]
            rows.append(
                {
                    "method": method,
                    "layer": layer or "",
                    "q1": np.mean(right),
                    "q3": np.mean(both or [np.nan]),
                    "wrong": wrong,
                }
            )
    return pd.DataFrame(rows)


if __name__ == "__main__":
    network = models.load("small_cnn", checkpoint=sys.argv[1]).model
    chosen_on = answers(network, "train", TRAIN, list(CANDIDATES), "weighted")
    means = chosen_on.groupby(["method", "layer"], sort=False)[["q1", "q3"]].mean()
    print(means.round(3))
    best = means["q1"].idxmax()
    winner = (best[0], best[1] or None)
    reported = {
        (*key, contrast): answers(network, "test", TEST, [key], contrast)
        for key, contrast in ((winner, "weighted"), (LAST, "weighted"), (LAST, "original"))
    }
    rows = []
    for (method, layer, contrast), frame in reported.items():
        line = {"method": f"{method}, {layer}" if layer else method, "contrast": contrast}
        for kind in ("q1", "q3"):
            known = frame[kind].dropna().to_numpy()[:, None]
            low, high = statistics.bootstrap(known, ["recommendation", kind, len(known)])
            for part, value in (("mean", known.mean()), ("low", low[0]), ("high", high[0])):
                rows.append(
                    line
                    | {
                        "column": f"{kind}, test",
                        "part": part,
                        "value": f"{value:.2f}",
                        "setting": f"small_cnn, seed 0, {len(known)} test images",
                    }
                )
    for (method, layer), row in means.iterrows():
        line = {"method": f"{method}, {layer}" if layer else method, "contrast": "weighted"}
        rows += [
            line
            | {
                "column": f"{kind}, training",
                "part": "choice",
                "value": f"{row[kind]:.2f}",
                "setting": f"small_cnn, seed 0, {TRAIN} training images",
            }
            for kind in ("q1", "q3")
        ]
    table = pd.DataFrame(rows).assign(command="python docs/site/recommendation.py <checkpoint>")
    table.to_csv(TABLES / "twins_recommendation.csv", index=False)
    wrong = Counter(part for parts in reported[(*winner, "weighted")]["wrong"] for part in parts)
    part, count = wrong.most_common(1)[0]
    made = {
        "recommendation_wrong": wrong.total(),
        "recommendation_shown": part,
        "recommendation_share": f"{count / wrong.total():.2f}",
    }
    print("wrong maps show", wrong.most_common())
    put(
        made,
        "recommendation_",
        TEST,
        "small_cnn, seed 0, verified Q1 of test images that the chosen map gets wrong",
        "python docs/site/recommendation.py <checkpoint>",
    )
