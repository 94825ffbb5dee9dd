"""Mistakes (Q5 of the experiment twins) of small_cnn: docs/tables/twins_mistakes.csv, then run leaderboard.py.

    python docs/site/mistakes.py checkpoints/parts/small_cnn-<hash>.safetensors [methods]   # other lines stay, and are in no test

A trained network is seldom wrong about drawn birds, so more test images are drawn (the dataset's own are the first of them). Those
that it gets wrong are asked as `wcx twins` would, Q5 alone: the predicted class against the label, order and sign of the parts. The
contrast with the foil named minus original: the tests of `wcx.report.twins.paired`, one family; mean and max are the same maps.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn
from twins import CONTROLS, METHODS, method_name, put, write_by_method

from wcx import datasets, methods, models
from wcx.datasets.twins import Twins
from wcx.experiments import images
from wcx.experiments._answers import Answered
from wcx.experiments.base import Cell, Subject
from wcx.experiments.images import Item
from wcx.experiments.twins import PartTwins, Settings
from wcx.report.twins import paired
from wcx.report.twins.numbers import LINES, intervals

PER_CLASS, LAYER, CHANCE = 400, "features.4", 200  # test images a class; random maps an image
SCORES = {"tau_mean": "tau", "sign": "sign"}
CONTRASTS = ("original", "mean", "max", "weighted")
NAMED = ("original", "weighted")  # mean and max are the same maps as weighted: one foil
SMOOTHGRAD = {"smoothgrad": {"name": "gradient", "samples": 16}}
KEY = ["parts", "small_cnn", "mistakes"]  # from which the random numbers are seeded


class Mistakes(PartTwins):
    """The experiment, of Q5 and what its readings need."""

    def answered(self, items: Sequence[Item]) -> list[Answered]:
        """See `PartTwins.answered`; the question against all other classes stays the last."""
        asked = super().answered(items)
        for image in asked:
            image.questions = [question for question in image.questions if question.kind in ("q5", "q4_all")]
        return asked


@torch.no_grad()
def mistaken(network: nn.Module, birds: Twins) -> list[int]:
    """Return the images that a network gets wrong."""
    wrong = []
    for chunk in images.cut(range(len(birds)), 64):
        predicted = network(torch.stack([birds[i][0] for i in chunk])).argmax(1)
        wrong += [i for i, label in zip(chunk, predicted.tolist(), strict=True) if label != birds.labels[i]]
    return wrong


def answers(network: nn.Module, birds: Twins, names: Sequence[str], chance: int = CHANCE) -> dict[Cell, pd.DataFrame]:
    """Return for each method and contrast a row an image that the network takes for another of its family: columns of Q5."""
    created = {name: methods.create(**SMOOTHGRAD.get(name, {"name": name})) for name in names}
    contrasts = {name: CONTRASTS if name in _of_layer(names) else ("original", "weighted") for name in names}
    cells = [Cell(name, contrast) for name in names for contrast in contrasts[name]]
    subject = Subject(network, LAYER, created)
    items = list(images.read(birds, mistaken(network, birds), needs_twins=True))
    rows = Mistakes(subject, cells, Settings(chance=chance)).rows(items)
    tables = {cell: pd.DataFrame(rows[cell]).filter(regex="(tau_mean|sign)/q5/") for cell in cells}
    return {cell: table.dropna(how="all").astype(float) for cell, table in tables.items()}


def _of_layer(names: Sequence[str]) -> list[str]:
    """Return the methods whose maps are of a layer."""
    return [name for name in names if name not in SMOOTHGRAD and methods.get(name).space == "activation"]


def tests(tables: Mapping[Cell, pd.DataFrame]) -> pd.DataFrame:
    """Return the differences between the contrast with the foil named and original, a row a method and score; one family."""
    named = {(cell.method, "", cell.contrast): table for cell, table in tables.items() if cell.contrast in NAMED}
    return paired.family(pd.DataFrame(paired.comparisons(named, paired.MISTAKES, KEY)))


def differences(frame: pd.DataFrame) -> Iterator[dict[str, str]]:
    """Yield difference, ends of the interval, p after Holm, and the detectable difference of the tests, as `lines` do."""
    for row in frame.to_dict("records"):
        numbers = {
            "difference": f"{row['difference']:+.2f}",
            "low": f"{row['ci_low']:.2f}",
            "high": f"{row['ci_high']:.2f}",
            "p": f"{row['p_holm']:.4f}",
            "detectable": f"{row['detectable']:.2f}",
        }
        for part, value in numbers.items():
            yield {
                "network": "small_cnn, seed 0",
                "method": label(row["method"]),
                "contrast": row["contrast"],
                "column": f"q5, {SCORES[row['score']]}, minus original",
                "part": part,
                "value": value.replace("-0.00", "0.00").replace("+0.00", "0.00"),
            }


def label(name: str) -> str:
    """Return the name in the table of a method."""
    return method_name(name) + (f", {LAYER}" if _of_layer([name]) else "")


def lines(tables: dict[Cell, pd.DataFrame]) -> list[dict[str, str]]:
    """Return mean, ends of the interval and n of each score; controls once."""
    rows = {}
    for cell, table in tables.items():
        low, high = intervals(table, KEY)
        for name in table:
            score, _, reading = name.split("/")
            if reading not in ("verified", *LINES):
                continue
            grid = LAYER if _of_layer([cell.method]) else "input"
            line = (label(cell.method), cell.contrast)
            if reading in LINES:
                line = (LINES[reading] + (f", {grid}" if reading == "chance" else ""), "none")
            numbers = (f"{table[name].mean():.2f}", f"{low[name]:.2f}", f"{high[name]:.2f}", str(table[name].count()))
            for part, value in zip(("mean", "low", "high", "n"), numbers, strict=True):
                key = (*line, f"q5, {SCORES[score]}", part)
                rows.setdefault(key, value.replace("-0.00", "0.00"))
    keys = ("method", "contrast", "column", "part", "value")
    ordered = sorted(rows.items(), key=lambda row: row[0][0].startswith(CONTROLS))
    return [{"network": "small_cnn, seed 0"} | dict(zip(keys, (*key, value), strict=True)) for key, value in ordered]


def write(tables: Mapping[Cell, pd.DataFrame], birds: Twins) -> None:
    """Write the table, and the numbers of sentences into figures.csv."""
    count, frame = len(next(iter(tables.values()))), tests(tables)
    asked = f"{count} of {len(birds)} test images taken for another of their family"
    setting = f"parts, factorial families: {asked}, intervals over images"
    command = "python docs/site/mistakes.py <checkpoint>"
    facts = {"setting": setting, "command": command}
    write_by_method("twins_mistakes", [line | facts for line in (*lines(tables), *differences(frame))])
    made: dict[str, object] = {"mistakes_images": len(birds), "mistakes": count, "mistakes_m": int(frame["m"].iloc[0])}
    for score, rows in frame.groupby("score"):
        sure = rows["p_holm"] < 0.05
        made |= {
            f"mistakes_{SCORES[score]}_better": int((sure & (rows["difference"] > 0)).sum()),
            f"mistakes_{SCORES[score]}_worse": int((sure & (rows["difference"] < 0)).sum()),
            f"mistakes_{SCORES[score]}_of": len(rows),
            f"mistakes_{SCORES[score]}_detectable": f"{rows['detectable'].min():.2f} to {rows['detectable'].max():.2f}",
            f"mistakes_{SCORES[score]}_needed": int(np.ceil((rows["n"] * (rows["detectable"] / 0.1) ** 2).max())),
        }
    print(frame.round(4).to_string())
    put(made, "mistakes", count, setting, command)


if __name__ == "__main__":
    loaded = models.load("small_cnn", checkpoint=sys.argv[1])
    options = {"families": "factorial", "test_per_class": PER_CLASS, "transform": {"kind": "squash", "size": 96}}
    birds = datasets.load("parts", ".", **options)
    write(answers(loaded.model, birds, sys.argv[2:] or METHODS), birds)
