"""Contrasts against `original`, image by image, and networks against each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from wcx import statistics
from wcx.report import opened
from wcx.report.opened import Opened
from wcx.report.tables import Column
from wcx.report.twins import numbers
from wcx.report.twins.numbers import layer, networks, values

SCORE, BASE = "top_mean", "original"
KINDS = ("q1", "q2", "q3", "q4_siblings", "q4_all", "q4_pairs")
DIFFERENCE = (
    Column("minus", "What it is compared with, image by image."),
    Column("difference", "Of the share whose top part is right.", format="+.3f", interval=("ci_low", "ci_high")),
    *opened.TESTS,
)
SPREAD = (
    Column("mean", "Of the networks' means.", format=".3f"),
    Column("trainings", "Networks of this kind.", format="d"),
    Column("lowest", "Of the networks' means.", format=".3f"),
    Column("highest", "Of the networks' means.", format=".3f"),
)
FACTS = (
    Column("asked", "Questions.", format="d"),
    Column("verified", "Those that the network answers by the parts swapped; Q4: whose image it knows.", format="d"),
    Column("flip", "Of the questions answered for the target: the share that the twin turns.", format=".3f"),
    Column(
        "other_part", "Of the verified: the share in which another part has a larger effect.", "another part", ".3f"
    ),
    Column("correct", "Share of images whose class is predicted.", format=".3f"),
)


def differences(cells: Sequence[Opened]) -> pd.DataFrame:
    """Return a row for each contrast and question: its maps minus those of original, and minus the ones against all others.

    One family of tests, corrected by Holm; all of a network's differences of the same images share their random signs.
    """
    rows = [row for group in networks(cells) for row in _differences(group)]
    if not rows:
        return pd.DataFrame()
    return opened.corrected(opened.with_networks(pd.DataFrame(rows)))


def _differences(cells: Sequence[Opened]) -> Iterator[dict[str, Any]]:
    tables = {(cell.names["method"], layer(cell), cell.shard.key[3]): (cell, values(cell)) for cell in cells}
    pairs: dict[tuple[str, ...], pd.Series] = {}
    for (method, place, contrast), (_, table) in tables.items():
        if contrast == BASE:
            continue
        base = tables.get((method, place, BASE))
        for kind in KINDS:
            scores = table.get(f"{SCORE}/{kind}/verified")
            for minus, compared in (
                (BASE, base and base[1].get(f"{SCORE}/{kind}/verified")),
                ("against all others", table.get(f"{SCORE}/{kind}/others")),
            ):
                if scores is not None and compared is not None and scores.notna().any() and compared.notna().any():
                    pairs[method, place, contrast, kind, minus] = scores - compared
    differences = pd.DataFrame(pairs)
    for mask, columns in opened.same_images(differences):
        key = [*cells[0].key()[:2], "twins", int(mask.sum())]
        result = statistics.paired(differences.loc[mask, columns], 0, key, numbers.RESAMPLES)
        compared = pd.DataFrame(result._asdict(), index=columns)
        for name, row in zip(columns, compared.to_dict("records"), strict=True):
            cell = tables[name[:3]][0]
            places = {"contrast": name[2], "layer": name[1], "question": name[3], "minus": name[4]}
            yield cell.facts() | numbers.labels(cell) | places | row


def across(frame: pd.DataFrame) -> pd.DataFrame:
    """Return, for kinds of networks with several trainings, the lowest and highest of their means, from `numbers.frame`."""
    keys = ["dataset", "model", "method", "layer", "contrast", "score", "question", "reading"]
    if not len(frame):
        return frame
    trained = frame[~frame["is_random"]]
    groups = trained.groupby(keys, sort=False)["mean"]
    rows = groups.agg(trainings="size", lowest="min", highest="max", mean="mean").reset_index()
    return rows[rows["trainings"] > 1]


def facts(cells: Sequence[Opened]) -> pd.DataFrame:
    """Return for each network and question: images and questions asked, verified, flipped, and answered by another part."""
    rows = []
    for group in networks(cells):
        cell, table = group[0], numbers.facts(group[0])
        seen = cell.rows[cell.rows["predicted"].notna()]
        accuracy = float(np.mean(seen["predicted"] == seen["label"])) if len(seen) else np.nan
        for kind in ("q1", "q2", "q3", "q4_siblings", "q4_all", "q4_pairs", "q5"):
            asked, verified = (table[f"{fact}/{kind}"].fillna(0) for fact in ("asked", "verified"))
            row = {"question": kind, "n": int((verified > 0).sum()), "asked": int(asked.sum())}
            row |= {"verified": int(verified.sum()), "correct": accuracy}
            row |= {
                fact: table[f"{fact}/{kind}"].mean() for fact in ("flip", "other_part") if f"{fact}/{kind}" in table
            }
            rows.append(numbers.labels(cell) | row | cell.facts())
    return opened.with_networks(pd.DataFrame(rows)) if rows else pd.DataFrame()
