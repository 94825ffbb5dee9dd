"""Two results folders side by side, against a loop over images and all signs."""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.report.shards import make
from wcx.cli import main as command_line
from wcx.errors import WcxError
from wcx.records import Shard
from wcx.report import compare
from wcx.report.tables import Table

QUANTITY = "relative_probability/t_1/blur/positive"


def other(a: float) -> object:
    """Values of every cell: a share an image, none the same."""
    return lambda target, baseline, kept: a + 0.1 * np.cos(np.arange(30) * len(baseline + kept))


def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders of 30 images, of which 20 lie above the threshold; b's begin 3 later, are other and of other weights."""
    make(tmp_path / "a", "weighted", 15, values=other(0.5), seed=0)
    b = make(
        tmp_path / "b", "weighted", 15, values=other(0.6), seed=0, weights="stand-in: x.pth", labels={"recipe": "tail"}
    )
    b.describe({"versions": {"torch": "9.9"}, "device": "abacus"})
    return tmp_path / "a", tmp_path / "b"


def named(section: compare.Section, name: str) -> Table:
    return next(table for table in section.tables if table.name == name)


def slow(a: pd.DataFrame, b: pd.DataFrame, quantity: str) -> tuple[int, float, float]:
    """Return n, mean difference and the share of all signs whose mean is as far from 0, image by image."""
    differences = []
    for _, row in a.iterrows():
        for _, rival in b[b["id"] == row["id"]].iterrows():
            if row["above_threshold"] and rival["above_threshold"]:
                differences.append(rival[quantity] - row[quantity])
    seen = abs(sum(differences))
    signs = [
        abs(sum(s * d for s, d in zip(flips, differences, strict=True)))
        for flips in product((1, -1), repeat=len(differences))
    ]
    return (
        len(differences),
        sum(differences) / len(differences),
        float(np.mean([value >= seen - 1e-12 for value in signs])),
    )


def test_every_difference_is_that_of_a_loop_over_images_and_signs(tmp_path: Path) -> None:
    a, b = folders(tmp_path)
    table = named(compare.section(a, b), "compare").complete.set_index("quantity")
    rows = [next(folder.rglob("shard.json")).parent for folder in (a, b)]
    first, second = (pd.concat(pd.read_csv(path) for path in sorted(folder.glob("chunk-*.csv"))) for folder in rows)
    quantities = [name for name in first if name.startswith("relative_probability/")]
    assert len(quantities) == 8
    for quantity in quantities:
        n, difference, p = slow(first, second, quantity)
        row = table.loc[quantity]
        assert (row["n"], row["n"]) == (n, 10)
        assert row["difference"] == pytest.approx(difference, abs=1e-9)  # records keep nine digits
        assert row["p"] == p
        assert row["ci_low"] <= row["difference"] <= row["ci_high"]
        assert row["mean_b"] - row["mean_a"] == pytest.approx(difference, abs=1e-9)


def test_holms_family_is_all_that_was_asked_for(tmp_path: Path) -> None:
    table = named(compare.section(*folders(tmp_path), ["relative_probability/*"]), "compare").complete
    p = table["p"].tolist()
    assert table["m"].tolist() == [8] * 8
    by_hand = [0.0] * 8
    for place, number in enumerate(sorted(range(8), key=p.__getitem__)):
        earlier = [by_hand[i] for i in sorted(range(8), key=p.__getitem__)[:place]]
        by_hand[number] = max([min(1.0, (8 - place) * p[number]), *earlier])
    assert table["p_holm"].tolist() == pytest.approx(by_hand)


def test_facts_that_differ_are_named_and_no_others(tmp_path: Path) -> None:
    section = compare.section(*folders(tmp_path))
    facts = {
        row["fact"]: (row["a"], row["b"], row["pairs"])
        for row in named(section, "compare_facts").frame.to_dict("records")
    }
    assert facts.pop("weights")[1:] == ("stand-in: x.pth", 1)
    assert facts.pop("weights hash")[2] == 1
    assert facts == {
        "stand_in": ("false", "true", 1),
        "recipe": ("-", "tail", 1),
        "versions.torch": ("-", "9.9", 1),
        "device": ("-", "abacus", 1),
    }
    assert any(note.startswith("b: cub, vgg16: stand-in: x.pth; subset: 2 of 200") for note in section.notes)


def test_what_only_one_folder_holds_is_listed(tmp_path: Path) -> None:
    a, b = folders(tmp_path)
    make(a, "original", 15, seed=0)
    make(b, "weighted", 15, seed=1)
    sets = named(compare.section(a, b), "compare_sets").frame
    assert sets[["contrast", "where"]].to_numpy().tolist() == [
        ["weighted", "a and b"],
        ["original", "only a"],
        ["weighted", "only b"],
    ]


def test_sets_that_differ_least_are_a_pair(tmp_path: Path) -> None:
    """Seeds 1 and 0 in each folder, written in another order: their own seeds meet."""
    a = [make(tmp_path / "a", "weighted", seed=seed) for seed in (0, 1)]
    b = [make(tmp_path / "b", "weighted", seed=seed, weights="other") for seed in (1, 0)]
    pairs, *alone = compare.matched(a, b)
    assert [(s.labels["seed"], t.labels["seed"]) for s, t in pairs] == [(0, 0), (1, 1)]
    assert alone == [[], []]


def test_images_that_only_one_has_do_not_count(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", "weighted", 15), make(tmp_path / "b", "weighted", 12)
    row = named(compare.section(tmp_path / "a", tmp_path / "b"), "compare_sets").frame.iloc[0]
    assert [row["n"], row["only_a"], row["only_b"]] == [8, 2, 0]
    assert (a.rows, b.rows) == (15, 12)


def test_equal_folders_differ_in_nothing(tmp_path: Path) -> None:
    for name in "ab":
        make(tmp_path / name, "weighted")
    section = compare.section(tmp_path / "a", tmp_path / "b")
    table = named(section, "compare").complete
    assert not table["difference"].any()
    assert set(table["p"]) == {1.0}
    assert named(section, "compare_facts").frame.empty
    assert "0 differences of m = " in section.to_text()


def test_damaged_records_are_named_and_the_rest_is_compared(tmp_path: Path) -> None:
    a, b = folders(tmp_path)
    damaged, lost = (make(a, contrast, 15, seed=0) for contrast in ("mean", "max"))
    make(b, "mean", 15, seed=0)
    damaged.chunk_path(0).write_text("rubbish\n")
    (lost.path / "shard.json").write_text("{")
    refused: list[str] = []
    section = compare.section(a, b, refused=refused)
    assert [line.partition(":")[0] for line in refused] == ["left out"] * 2
    assert "is not what was written" in refused[0]
    assert "mean" in refused[1]
    assert set(named(section, "compare").complete["contrast"]) == {"weighted"}


def test_a_folder_without_records_is_one_line(tmp_path: Path) -> None:
    make(tmp_path / "a", "weighted")
    with pytest.raises(WcxError, match=r"^b=.*nothing holds no records; give a results folder"):
        compare.section(tmp_path / "a", tmp_path / "nothing")


def test_a_pattern_that_fits_nothing_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(WcxError, match=r"quantities = \['nothing'\]: none fits"):
        compare.section(*folders(tmp_path), ["nothing"])


def test_the_command_writes_tables_and_tells_damage_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = folders(tmp_path)
    shard: Shard = make(a, "mean", 15, seed=0)
    (shard.path / "shard.json").write_text("{")
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["wcx", "compare", f"a={a}", f"b={b}", f"paths.results_dir={out}"])
    with pytest.raises(SystemExit) as end:
        command_line()
    printed = capsys.readouterr()
    assert end.value.code == 1
    assert "left out: " in printed.err
    assert f"a: {a}; b: {b}; 1 pair of sets of records, 0 in a alone, 0 in b alone" in printed.out
    assert tuple(pd.read_csv(out / "compare.csv")) == compare.HEADER
    assert "| weighted" in (out / "compare.md").read_text(encoding="utf-8")
    assert json.loads(pd.read_csv(out / "tables" / "compare_full.csv")["b_settings.baselines"][0]) == ["blur", "zeros"]
