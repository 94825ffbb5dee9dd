"""Weighted against original, every number by hand from four images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.report import shards
from tests.report.shards import make
from wcx import statistics
from wcx.report.masking import cells, paired
from wcx.report.masking.cells import Pair

N = 6  # images 2 and 5 lie below the threshold
# By (target, baseline, kept): weighted - original of the images 0, 1, 3, 4. Original is 0.5 everywhere.
DIFFERENCES = {
    ("t_1", "blur", "positive"): [0.1, 0.1, 0.1, 0.1],
    ("t_1", "blur", "negative"): [0.1, 0.1, 0.1, 0.1],
    ("t_1", "zeros", "positive"): [-0.2, -0.1, -0.3, -0.2],
    ("t_1", "zeros", "negative"): [-0.2, -0.1, -0.3, -0.2],
    ("t_2", "blur", "positive"): [0.2, -0.1, 0.1, 0.0],
    ("t_2", "blur", "negative"): [0.0, 0.0, 0.0, 0.0],
    ("t_2", "zeros", "positive"): [0.0, 0.0, 0.0, 0.0],
    ("t_2", "zeros", "negative"): [0.4, -0.1, -0.1, -0.1],
}
# The share of all 16 signs whose sum is as far from 0: all or none turned; 6 of the 8 of +-2 +-1 +-1; the sign of 4 alone does
# not decide, since 4 - 3 = 1 is what is seen.
P = [2 / 16, 2 / 16, 2 / 16, 2 / 16, 6 / 8, 1.0, 1.0, 1.0]
BETTER = ["weighted", "original", "original", "weighted", "weighted", "", "", "original"]


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    def weighted(*cell: str) -> np.ndarray:
        values = np.full(N, 0.9)  # of the images below the threshold, which play no part
        values[[0, 1, 3, 4]] = np.add(0.5, DIFFERENCES[cell])
        return values

    both = [
        make(tmp_path, "weighted", N, values=weighted, masked=0.7),
        make(tmp_path, "original", N, values=lambda *_: np.full(N, 0.5)),
    ]
    ((first, second),) = cells.pairs(cells.read(both))
    return first, second


def test_every_number_by_hand(pair: Pair) -> None:
    table = paired.frame([pair])
    assert tuple(table)[: len(paired.HEADER)] == paired.HEADER
    assert list(zip(table["target"], table["baseline"], table["features_kept"], strict=True)) == list(DIFFERENCES)
    means = np.array(list(DIFFERENCES.values())).mean(1)
    assert table["difference"].to_numpy() == pytest.approx(means, abs=1e-12)
    assert table["original"].to_numpy() == pytest.approx(0.5)
    assert table["weighted"].to_numpy() == pytest.approx(0.5 + means)
    assert table["better"].tolist() == BETTER
    assert table["p"].to_numpy() == pytest.approx(P)
    assert set(table["m"]) == {8}
    assert table["p_holm"].to_numpy() == pytest.approx(np.minimum(1, [8 / 8] * 4 + [4 * 6 / 8, 1, 1, 1]))
    kept = table["features_kept"].map({"positive": 1.0, "negative": 0.0})
    assert table["masked_original"].to_numpy() == pytest.approx(0.4 + 0.2 * kept)
    assert table["masked_weighted"].to_numpy() == pytest.approx(0.3 + 0.4 * kept)
    constant = table[
        ["dataset", "model", "method", "mask", "n", "n_skipped", "threshold", "foils", "weights", "subset"]
    ]
    assert len(constant.drop_duplicates()) == 1
    assert constant.iloc[0].tolist() == [
        *("CUB-200", "vgg16", "gradcam", "sign", 4, 0, 0.1, "others"),
        "cub checkpoint (vgg16, recipe head, accuracy 0.834)",
        "subset: 2 of 200 classes, 30 of 5794 test images",
    ]


def test_intervals_are_seeded_by_dataset_model_and_method(tmp_path: Path) -> None:
    """Of random numbers, so that another seed would show."""
    ((weighted, original),) = cells.pairs(cells.read(shards.pair(tmp_path)))
    table = paired.frame([(weighted, original)])
    differences = (weighted.selected[weighted.places.index] - original.selected[weighted.places.index]).to_numpy()
    low, high = statistics.bootstrap(differences, ["cub", "vgg16", "gradcam", "weighted - original"])
    assert table["ci_low"].to_numpy() == pytest.approx(low, abs=1e-12)
    assert table["ci_high"].to_numpy() == pytest.approx(high, abs=1e-12)
    p = statistics.sign_flip(differences, ["cub", "vgg16", "gradcam", "weighted - original"])
    assert table["p"].to_numpy() == pytest.approx(p, abs=1e-12)


def test_intervals_of_four_images_by_hand(pair: Pair) -> None:
    table = paired.frame([pair])
    assert table["ci_low"].iloc[0] == table["ci_high"].iloc[0] == pytest.approx(0.1), "four equal differences"
    # The mean of four draws of -0.2, -0.1, -0.3, -0.2 lies between its ends.
    assert -0.3 <= table["ci_low"].iloc[2] < -0.2 < table["ci_high"].iloc[2] <= -0.1


def test_holms_family_is_the_table_and_what_was_not_tested_does_not_count(pair: Pair, tmp_path: Path) -> None:
    """A second network, whose records share no image: its rows have no p, and m stays 8."""
    both = [
        make(tmp_path / "b", name, 6, images=start, model="alexnet")
        for name, start in (("weighted", 0), ("original", 6))
    ]
    (strangers,) = cells.pairs(cells.read(both))
    table = paired.frame([pair, strangers])
    assert table["n"].tolist() == [4] * 8 + [0] * 8
    assert set(table["m"]) == {8}
    assert table["p_holm"].iloc[:8].to_numpy() == pytest.approx(paired.frame([pair])["p_holm"])
    assert table[["p", "p_holm", "difference"]].iloc[8:].isna().all(axis=None)
    assert table["better"].tolist() == BETTER + [""] * 8
    twice = paired.frame([pair, pair])
    assert set(twice["m"]) == {16}
    assert twice["p_holm"].iloc[:4].tolist() == [1] * 4


def test_corrected_by_hand() -> None:
    """One family over the rows of several pairs."""
    facts = {"dataset": "d", "model": "m", "weights": "w", "seed": None}
    rows = pd.DataFrame({"p": [0.01, np.nan, 0.03, 0.02], "name": list("abcd"), **facts})
    table = paired.corrected([rows.head(2), rows.tail(2)], ("name", "p", "p_holm", "m"))
    assert table["p_holm"].tolist() == pytest.approx([0.03, np.nan, 0.04, 0.04], nan_ok=True)
    assert set(table["m"]) == {3}
    assert table["name"].tolist() == list("abcd")


def test_no_pair_is_an_empty_table() -> None:
    table = paired.frame([])
    assert table.empty
    assert tuple(table)[: len(paired.HEADER)] == paired.HEADER
