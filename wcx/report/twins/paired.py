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
    Column("p", "Two-sided, of the sign-flip test over images.", format="p"),
    Column("p_holm", "Corrected by Holm for the m tests of this table.", "p Holm", "p"),
    Column("m", "Tests that p is corrected for.", format="d"),
)
SPREAD = (
    Column("trainings", "Networks of this kind.", format="d"),
    Column("lowest", "Of the networks' means.", format=".3f"),
    Column("highest", "Of the networks' means.", format=".3f"),
)


def differences(cells: Sequence[Opened]) -> pd.DataFrame:
    """Return a row for each contrast and question: its maps minus those of original, and minus the ones against all others.

    One family of tests, corrected by Holm; all of a network's differences of the same images share their random signs.
    """
    rows = [row for group in networks(cells) for row in _differences(group)]
    if not rows:
        return pd.DataFrame()
    table = opened.with_networks(pd.DataFrame(rows))
    return table.assign(p_holm=statistics.holm(table["p"].to_numpy()), m=int(table["p"].notna().sum()))


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
        sample = differences.loc[mask, columns].to_numpy()
        key = [*cells[0].key()[:2], "twins", int(mask.sum())]
        low, high = statistics.bootstrap(sample, key, resamples=numbers.RESAMPLES)
        tests = statistics.sign_flip(sample, key)
        for place, name in enumerate(columns):
            cell = tables[name[:3]][0]
            labels = cell.names | {"contrast": name[2], "layer": name[1], "question": name[3], "minus": name[4]}
            ends = {
                "difference": sample[:, place].mean(),
                "ci_low": low[place],
                "ci_high": high[place],
                "p": tests[place],
            }
            counts = {"n": int(mask.sum()), "n_skipped": cell.n_skipped, "weights": cell.weights, "subset": cell.subset}
            yield cell.facts() | labels | ends | counts | {"foils": "others"}


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
        for kind in ("q1", "q2", "q3", "q4_siblings", "q4_all", "q4_pairs", "q5"):
            asked, verified = (table[f"{fact}/{kind}"].fillna(0) for fact in ("asked", "verified"))
            row = cell.names | {"question": kind, "n": int((verified > 0).sum()), "asked": int(asked.sum())}
            row |= {"verified": int(verified.sum()), "correct": _accuracy(cell)}
            row |= {
                fact: table[f"{fact}/{kind}"].mean() for fact in ("flip", "other_part") if f"{fact}/{kind}" in table
            }
            row |= {"n_skipped": cell.n_skipped, "weights": cell.weights, "subset": cell.subset, "foils": "others"}
            rows.append(row | cell.facts())
    return opened.with_networks(pd.DataFrame(rows)) if rows else pd.DataFrame()


def _accuracy(cell: Opened) -> float:
    seen = cell.rows[cell.rows["predicted"].notna()]
    return float(np.mean(seen["predicted"] == seen["label"])) if len(seen) else np.nan
