"""Contrasts against `original`, image by image, and networks against each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
TOP = tuple((SCORE, kind) for kind in ("q1", "q2", "q3", "q4_siblings", "q4_all", "q4_pairs"))
MISTAKES = (("tau_mean", "q5"), ("sign", "q5"))  # no single part is the right one
MINUS = Column("minus", "What it is compared with, image by image.")
DIFFERENCE = (
    Column("difference", "Of the score, over images.", format="+.3f", interval=("ci_low", "ci_high")),
    *opened.TESTS,
    Column(
        "detectable",
        "The difference that is significant in 80 % of samples of so many images, were it the only one of the m.",
        format=".3f",
    ),
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


def differences(cells: Sequence[Opened], asked: Sequence[tuple[str, str]] = TOP) -> pd.DataFrame:
    """Return a row for each contrast and question: its maps minus those of original, and minus the ones against all others.

    One family of tests, corrected by Holm; all of a network's differences of the same images share their random signs.

    Args:
        cells: of any networks.
        asked: scores and kinds of questions, which are one family.
    """
    rows = []
    for group in networks(cells):
        by_map = {(cell.names["method"], layer(cell), cell.shard.key[3]): cell for cell in group}
        tables = {name: values(cell) for name, cell in by_map.items()}
        for row in comparisons(tables, asked, group[0].key()[:2]):
            cell = by_map[row["method"], row["layer"], row["contrast"]]
            rows.append(cell.facts() | numbers.labels(cell) | row)
    return family(opened.with_networks(pd.DataFrame(rows))) if rows else pd.DataFrame()


def comparisons(
    tables: Mapping[tuple[str, str, str], pd.DataFrame], asked: Sequence[tuple[str, str]], key: Sequence[object]
) -> Iterator[dict[str, Any]]:
    """Yield for each contrast and question of one network n, difference, interval and p.

    Args:
        tables: numbers ``score/question/reading``, a row an image, by method, layer and contrast.
        asked: scores and kinds of questions.
        key: of the network, from which the random numbers are seeded.
    """
    pairs: dict[tuple[str, ...], pd.Series] = {}
    for (method, place, contrast), table in tables.items():
        if contrast == BASE:
            continue
        base = tables.get((method, place, BASE), pd.DataFrame())
        for score, kind in asked:
            scores = table.get(f"{score}/{kind}/verified")
            for minus, other in (
                (BASE, base.get(f"{score}/{kind}/verified")),
                ("against all others", table.get(f"{score}/{kind}/others")),
            ):
                if scores is not None and other is not None and scores.notna().any() and other.notna().any():
                    pairs[method, place, contrast, score, kind, minus] = scores - other
    differences = pd.DataFrame(pairs)
    labels = ("method", "layer", "contrast", "score", "question", "minus")
    for mask, columns in opened.same_images(differences):
        sample = differences.loc[mask, columns]
        result = statistics.paired(sample, 0, [*key, "twins", int(mask.sum())], numbers.RESAMPLES)
        frame = pd.DataFrame(result._asdict() | {"deviation": sample.std().to_numpy()}, index=columns)
        for name, row in zip(columns, frame.to_dict("records"), strict=True):
            yield dict(zip(labels, name, strict=True)) | row


def family(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `comparisons` with p corrected for all of them, m, and the difference that so many images can show."""
    whole = opened.corrected(frame)
    return whole.assign(detectable=statistics.detectable(whole["deviation"], whole["n"], whole["m"]))


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
