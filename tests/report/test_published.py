"""Table 1 against published numbers: a small paper and a small reproduction, every number by hand."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from wcx.errors import WcxError
from wcx.report.masking import paper

NAN = float("nan")
OURS = (*paper.HEADER[:13], "masked_fraction", *paper.HEADER[20:], "seed", "stand_in", "is_random")


def beside(rows: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The rows that have a published number."""
    return paper.published_table(paper.beside(rows, folder), "p").frame


def cells(*lines: tuple[str, ...], **columns: object) -> pd.DataFrame:
    """Rows of (dataset, baseline, contrast, number) and constant columns."""
    frame = pd.DataFrame(lines, columns=["dataset", "baseline", "contrast", "relative_probability"])
    constant = {"method": "gradcam", "target": "t_1", "features_kept": "positive", "relative_probability_unmasked": 0.6}
    return frame.assign(**{**constant, **columns})


def ours(*lines: tuple[str, ...], **columns: object) -> pd.DataFrame:
    constant = {
        "model": "vgg16",
        "mask": "sign",
        "n": 4,
        "ci_low": 0.0,
        "ci_high": 1.0,
        "masked_fraction": 0.5,
        "n_skipped": 0,
    }
    constant |= {
        "threshold": 0.1,
        "foils": "others",
        "weights": "checkpoint",
        "subset": "",
        "seed": None,
        "stand_in": False,
        "is_random": False,
    }
    return cells(*lines, **{**constant, **columns})[list(OURS)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The paper has datasets A and B, the reproduction A and D, of another network."""
    published = [("A", "blur", "original", 0.5), ("A", "blur", "weighted", 0.7), ("A", "zeros", "original", 0.4)]
    published += [("A", "zeros", "weighted", 0.3), ("B", "blur", "original", 0.2)]
    again = [("A", "blur", "original", 0.6), ("A", "blur", "weighted", 0.5), ("D", "blur", "original", 0.9)]
    cells(*published, model="vgg16", relative_probability_unmasked=0.61).to_csv(tmp_path / paper.PAPER, index=False)
    reproduction = cells(*again, model="vgg16_bn", relative_probability_unmasked=0.62)
    reproduction.to_csv(tmp_path / paper.REPRODUCTION, index=False)
    return tmp_path


LINES = [("A", "blur", "original", 0.55), ("A", "blur", "weighted", 0.65), ("A", "zeros", "original", 0.45)]
LINES += [("A", "zeros", "weighted", 0.5), ("B", "blur", "original", 0.1), ("C", "blur", "original", 0.8)]
LINES += [("D", "blur", "original", 0.7)]


def test_table_has_ours_beside_the_papers_and_the_reproductions(folder: Path) -> None:
    table = beside(ours(*LINES), folder)
    assert tuple(table)[: len(paper.HEADER)] == paper.HEADER
    assert table["dataset"].tolist() == ["A"] * 4 + ["B", "D"], "C stands in neither"
    assert table.index.tolist() == list(range(6))
    numbers = {
        "relative_probability": [0.55, 0.65, 0.45, 0.5, 0.1, 0.7],
        "relative_probability_unmasked": [0.6] * 6,
        "published": [0.5, 0.7, 0.4, 0.3, 0.2, NAN],
        "published_unmasked": [0.61] * 5 + [NAN],
        "difference": [0.05, -0.05, 0.05, 0.2, -0.1, NAN],
        "reproduction": [0.6, 0.5, NAN, NAN, NAN, 0.9],
        "difference_from_reproduction": [-0.05, 0.15, NAN, NAN, NAN, -0.2],
    }
    for name, values in numbers.items():
        assert table[name].tolist() == pytest.approx(values, nan_ok=True), name
    assert table["published_model"].tolist()[:5] == ["vgg16"] * 5
    assert table["reproduction_model"].dropna().tolist() == ["vgg16_bn"] * 3


def test_a_comparison_is_of_the_papers_cells(folder: Path) -> None:
    (comparison,) = paper.comparisons(beside(ours(*LINES), folder), "p_t2 > 0.1", folder)
    assert comparison.model == "vgg16"
    assert comparison.protocol == "p_t2 > 0.1"
    assert comparison.cells["dataset"].tolist() == ["A"] * 4 + ["B"]
    assert comparison.notes == []
    assert comparison.title == "vgg16, p_t2 > 0.1"
    agreement = comparison.ours
    a, b = [0.55, 0.65, 0.45, 0.5, 0.1], [0.5, 0.7, 0.4, 0.3, 0.2]
    assert agreement == pytest.approx((5, np.corrcoef(a, b)[0, 1], 0.09, 0.03, 0.2, 2, 1))
    assert comparison.reproduced[["published", "reproduction"]].to_numpy().tolist() == [[0.5, 0.6], [0.7, 0.5]]
    assert comparison.sentence == (
        f"against the paper: vgg16, p_t2 > 0.1: r = {np.corrcoef(a, b)[0, 1]:.3f} over 5 cells, difference 0.090 on average "
        "(signed +0.030), 0.200 at most; weighted - original has the paper's sign in 1 of 2 pairs. The reproduction against "
        "the paper: r = -1.000 over 2 cells, difference 0.150 on average (signed -0.050), 0.200 at most; weighted - original "
        "has the paper's sign in 0 of 1 pairs."
    )


@pytest.mark.parametrize(
    ("columns", "notes"),
    [
        ({}, []),
        ({"subset": "2 of 200 classes"}, ["subset"]),
        ({"subset": ["", "", "", "", "2 of 9 classes", "", ""]}, ["subset"]),
        ({"stand_in": True}, ["stand-in weights"]),
        ({"stand_in": [True, *[False] * 6]}, ["stand-in weights"]),
        ({"is_random": True}, ["random weights"]),
        ({"is_random": [True, *[False] * 6]}, ["random weights"]),
        ({"model": "alexnet"}, ["not the paper's vgg16"]),
        ({"seed": 0}, []),
        ({"seed": 3}, ["seed 3"]),
        (
            {"subset": "2", "stand_in": True, "is_random": True, "model": "alexnet", "seed": 7},
            ["subset", "stand-in weights", "random weights", "not the paper's vgg16", "seed 7"],
        ),
    ],
)
def test_notes_name_what_is_not_the_papers(folder: Path, columns: dict[str, object], notes: list[str]) -> None:
    frame = beside(ours(*LINES, **columns), folder)
    (comparison,) = paper.comparisons(frame, "p", folder)
    assert comparison.notes == notes
    model = columns.get("model", "vgg16")
    assert comparison.title == f"{model}, p" + (f" [{'; '.join(notes)}]" if notes else "")


def test_one_comparison_a_network_and_seed_in_the_tables_order(folder: Path) -> None:
    """Also where seeds are not recorded."""
    tables = [ours(*LINES, model=model, seed=seed) for model, seed in (("b", 2), ("b", 1), ("a", None))]
    frame = beside(pd.concat(tables, ignore_index=True), folder)
    comparisons = paper.comparisons(frame, "p", folder)
    assert [(one.model, one.notes[1:], len(one.cells)) for one in comparisons] == [
        *(("b", ["seed 2"], 5), ("b", ["seed 1"], 5), ("a", [], 5)),
    ]
    assert len(set(comparisons)) == 3, "each is equal to itself alone"
    with pytest.raises(FrozenInstanceError):
        comparisons[0].model = "c"


def test_a_comparison_of_one_cell(folder: Path) -> None:
    (comparison,) = paper.comparisons(beside(ours(LINES[0], model="alexnet"), folder), "p", folder)
    assert comparison.notes == ["not the paper's vgg16"]
    assert comparison.ours == pytest.approx((1, NAN, 0.05, 0.05, 0.05, 0, 0), nan_ok=True)


@pytest.mark.parametrize(
    ("numbers", "published", "expected"),
    [
        # Two pairs of the paper's sign: one up, one down.
        ([0.1, 0.4, 0.5, 0.4], [0.2, 0.3, 0.6, 0.4], (4, None, 0.075, -0.025, 0.1, 2, 2)),
        # Where either does not change, no sign agrees, and equal numbers have no correlation.
        ([0.1, 0.1, 0.5, 0.6], [0.2, 0.2, 0.2, 0.2], (4, NAN, 0.225, 0.125, 0.4, 2, 0)),
        ([0.3, 0.3, 0.3, 0.3], [0.2, 0.3, 0.6, 0.4], (4, NAN, 0.125, -0.075, 0.3, 2, 0)),
        ([0.1, 0.9, 0.9, 0.1], [0.1, 0.9, 0.9, 0.1], (4, 1.0, 0.0, 0.0, 0.0, 2, 2)),
    ],
)
def test_agreement_by_hand(numbers: list[float], published: list[float], expected: tuple[float, ...]) -> None:
    names = [
        ("A", "blur", "original"),
        ("A", "blur", "weighted"),
        ("A", "zeros", "original"),
        ("A", "zeros", "weighted"),
    ]
    frame = cells(*((*name, 0.0) for name in names)).assign(ours=numbers, published=published)
    r = np.corrcoef(numbers, published)[0, 1] if expected[1] is None else expected[1]
    assert paper.agreement(frame, "ours") == pytest.approx((expected[0], r, *expected[2:]), nan_ok=True)


def test_agreement_of_two_cells_and_of_one() -> None:
    frame = cells(("A", "blur", "original", 0.0), ("A", "blur", "weighted", 0.0)).assign(
        ours=[0.1, 0.2], published=[0.5, 0.9]
    )
    assert paper.agreement(frame, "ours") == pytest.approx((2, 1.0, 0.55, -0.55, 0.7, 1, 1))
    assert paper.agreement(frame.head(1), "ours") == pytest.approx((1, NAN, 0.4, -0.4, 0.4, 0, 0), nan_ok=True)


def test_equal_numbers_have_no_correlation_whatever_the_rounding_of_their_mean() -> None:
    """Six times 0.1 has a standard deviation of 1.5e-17."""
    frame = cells(*(("A", str(i), "original", 0.0) for i in range(6))).assign(ours=0.1, published=[1, 2, 3, 4, 5, 7])
    assert np.isnan(paper.agreement(frame, "ours").r)
    assert np.isnan(paper.agreement(frame.assign(ours=[1, 2, 3, 4, 5, 7], published=0.1), "ours").r)


def test_differences_are_weighted_minus_original_of_a_dataset_and_its_weights() -> None:
    """A pair is of one cell; a contrast without its partner and a third contrast are no pair."""
    lines = [("B", "blur", "original", 0.1), ("B", "blur", "weighted", 0.4), ("A", "blur", "weighted", 0.9)]
    lines += [("A", "blur", "original", 0.7), ("A", "blur", "max", 0.3), ("A", "zeros", "weighted", 0.3)]
    frame = cells(*lines).assign(published=[0.5, 0.6, 0.2, 0.4, 0.9, 0.9])
    both = paper.differences(frame, "relative_probability")
    assert both["dataset"].tolist() == ["A", "B"]
    assert both["relative_probability"].tolist() == pytest.approx([0.2, 0.3])
    assert both["published"].tolist() == pytest.approx([-0.2, 0.1])
    twice = pd.concat([frame.assign(weights="a"), frame.assign(weights="b", published=0.0)])
    by_weights = paper.differences(twice, "relative_probability")
    assert by_weights["weights"].tolist() == ["a", "b", "a", "b"]
    assert by_weights["published"].tolist() == pytest.approx([-0.2, 0, 0.1, 0])
    for contrast in ("original", "weighted"):
        alone = paper.differences(frame[frame["contrast"] == contrast], "relative_probability")
        assert alone.empty
        assert list(alone) == ["dataset", "relative_probability", "published"]


def test_numbers_that_are_not_there_are_one_line(tmp_path: Path) -> None:
    (tmp_path / paper.PAPER).mkdir()
    for name in (paper.PAPER, "none.csv"):
        with pytest.raises(WcxError, match=rf"published numbers not found: .*{name}; they come with the repository"):
            paper.read(tmp_path, name)
    assert len(paper.read(paper.FOLDER, paper.PAPER)) == 240
