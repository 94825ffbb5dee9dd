"""Mistakes (Q5 of the experiment twins) of small_cnn: docs/tables/twins_mistakes.csv, then run leaderboard.py.

    python docs/site/mistakes.py checkpoints/parts/small_cnn-<hash>.safetensors [methods]

A trained network is seldom wrong about drawn birds, so more test images are drawn (the dataset's own are the first of them). Those
that it gets wrong are asked as `wcx twins` would, Q5 alone: the predicted class against the label, order and sign of the parts.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pandas as pd
import torch
from torch import nn
from twins import CONTROLS, METHODS, TABLES, method_name, put

from wcx import datasets, methods, models
from wcx.datasets.twins import Twins
from wcx.experiments import images
from wcx.experiments._answers import Answered
from wcx.experiments.base import Cell, Subject
from wcx.experiments.images import Item
from wcx.experiments.twins import PartTwins, Settings
from wcx.report.twins.numbers import LINES, intervals

PER_CLASS, LAYER, CHANCE = 400, "features.4", 200  # test images a class; random maps an image
SCORES = {"tau_mean": "tau", "sign": "sign"}
CONTRASTS = ("original", "mean", "max", "weighted")


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
    space = {name: methods.get(name).space for name in names}
    contrasts = {name: CONTRASTS if space[name] == "activation" else ("original", "weighted") for name in names}
    cells = [Cell(name, contrast) for name in names for contrast in contrasts[name]]
    subject = Subject(network, LAYER, {name: methods.create(name) for name in names})
    items = list(images.read(birds, mistaken(network, birds), needs_twins=True))
    rows = Mistakes(subject, cells, Settings(chance=chance)).rows(items)
    tables = {cell: pd.DataFrame(rows[cell]).filter(regex="(tau_mean|sign)/q5/") for cell in cells}
    return {cell: table.dropna(how="all").astype(float) for cell, table in tables.items()}


def lines(tables: dict[Cell, pd.DataFrame]) -> list[dict[str, str]]:
    """Return mean, ends of the interval and n of each score; controls once."""
    rows = {}
    for cell, table in tables.items():
        low, high = intervals(table, ["parts", "small_cnn", "mistakes"])
        is_layers = methods.get(cell.method).space == "activation"
        for name in table:
            score, _, reading = name.split("/")
            if reading not in ("verified", *LINES):
                continue
            grid = LAYER if is_layers else "input"
            label = method_name(cell.method) + (f", {LAYER}" if is_layers else "")
            line = (label, cell.contrast)
            if reading in LINES:
                line = (LINES[reading] + (f", {grid}" if reading == "chance" else ""), "none")
            numbers = (f"{table[name].mean():.2f}", f"{low[name]:.2f}", f"{high[name]:.2f}", str(table[name].count()))
            for part, value in zip(("mean", "low", "high", "n"), numbers, strict=True):
                key = (*line, f"q5, {SCORES[score]}", part)
                rows.setdefault(key, value.replace("-0.00", "0.00"))
    keys = ("method", "contrast", "column", "part", "value")
    ordered = sorted(rows.items(), key=lambda row: row[0][0].startswith(CONTROLS))
    return [{"network": "small_cnn, seed 0"} | dict(zip(keys, (*key, value), strict=True)) for key, value in ordered]


if __name__ == "__main__":
    loaded = models.load("small_cnn", checkpoint=sys.argv[1])
    options = {"families": "factorial", "test_per_class": PER_CLASS, "transform": {"kind": "squash", "size": 96}}
    birds = datasets.load("parts", ".", **options)
    tables = answers(loaded.model, birds, sys.argv[2:] or METHODS)
    count = len(next(iter(tables.values())))
    asked = f"{count} of {len(birds)} test images taken for another of their family"
    setting = f"parts, factorial families: {asked}, intervals over images"
    command = "python docs/site/mistakes.py <checkpoint>"
    table = pd.DataFrame(lines(tables)).assign(setting=setting, command=command)
    table.to_csv(TABLES / "twins_mistakes.csv", index=False)
    put({"mistakes_images": len(birds), "mistakes": count}, "mistakes", count, setting, command)
