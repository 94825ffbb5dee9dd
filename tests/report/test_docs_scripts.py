"""The scripts of docs/site that turn records into docs/tables, on tables and records written by hand."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch

from wcx import datasets, methods
from wcx.experiments import images
from wcx.experiments.base import Cell, Subject
from wcx.experiments.twins import PartTwins, Settings
from wcx.models.small_cnn import small_cnn
from wcx.records import Shard
from wcx.report.opened import Opened

SITE = Path(__file__).resolve().parents[2] / "docs" / "site"
LINE = ["network", "method", "contrast"]


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """twins.py, faithfulness.py, leaderboard.py and mistakes.py, which are no package's."""
    monkeypatch.syspath_prepend(str(SITE))
    names = ("twins", "faithfulness", "leaderboard", "mistakes")
    modules = {name: importlib.import_module(name) for name in names}
    for name in names:
        monkeypatch.delitem(sys.modules, name)
    return modules


def numbers(*rows: tuple[str, str, str, str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=[*LINE, "column", "part", "value"]).assign(setting="s", command="c")


def cell(folder: Path, experiment: str, method: str, contrast: str, settings: dict, rows: pd.DataFrame) -> Opened:
    parts = {"settings": {"seed": 0, "threshold": 0.1, "foils": None} | settings, "weights": "w", "layer": "features.4"}
    labels = {"dataset": "Parts", "weights": "trained", "stand_in": False, "subset": "", "seed": 2, "recipe": "demo"}
    return Opened(Shard(folder, ("parts", "small_cnn", method, contrast), experiment, parts, labels), rows)


def masked(folder: Path, contrast: str, positive: list[float], above: list[bool]) -> Opened:
    """Records of two baselines: positive features kept as given (zeros: 0.1 more), negative ones 0.2 for t_1 and 0.4 for t_2."""
    rows = pd.DataFrame({"index": range(len(above)), "above_threshold": above, "skipped": False})
    for target, negative in (("t_1", 0.2), ("t_2", 0.4)):
        for baseline, more in (("blur", 0.0), ("zeros", 0.1)):
            name = f"relative_probability/{target}/{baseline}"
            rows[f"{name}/positive"], rows[f"{name}/negative"] = np.add(positive, more), negative
    settings = {"targets": 2, "baselines": ["blur", "zeros"], "mask": "sign", "select": "above"}
    return cell(folder, "masking", "gradcam", contrast, settings, rows)


def test_the_gain_is_positive_minus_negative_over_targets_and_baselines(scripts, tmp_path: Path) -> None:
    gain = scripts["faithfulness"].gain(masked(tmp_path, "original", [0.5, 0.7, 0.9], [True, False, True]))
    assert gain.index.tolist() == [0, 2], "images above the threshold"
    assert gain["gain"].tolist() == pytest.approx([0.55 - 0.3, 0.95 - 0.3])
    assert gain["t_2"].tolist() == pytest.approx([0.55 - 0.4, 0.95 - 0.4])


def test_a_contrast_is_compared_with_original_image_by_image(scripts, tmp_path: Path) -> None:
    above = [True] * 4
    cells = [
        masked(tmp_path, "original", [0.5, 0.6, 0.7, 0.8], above),
        masked(tmp_path, "weighted", [0.7, 0.8, 0.9, 1.0], above),
    ]
    table = pd.DataFrame(scripts["faithfulness"].lines(cells, scripts["faithfulness"].gain))
    value = table.set_index(["contrast", "column", "part"])["value"]
    assert set(table["n"]) == {4}
    assert set(table["network"]) == {"small_cnn, seed 2"}
    assert set(table["method"]) == {"GradCAM"}
    assert value["original", "gain", "mean"] == pytest.approx(0.4)
    assert value["original", "gain", "low"] < 0.4 < value["original", "gain", "high"]
    difference = [value["weighted", "gain, minus original", part] for part in ("mean", "low", "high")]
    assert difference == pytest.approx([0.2, 0.2, 0.2]), "the same in every image"
    assert "gain, minus original" not in set(table[table["contrast"] == "original"]["column"])


def test_srg_is_read_for_every_value_of_all_images(scripts, tmp_path: Path) -> None:
    rows = pd.DataFrame({"index": [3, 5], "above_threshold": [False, True], "skipped": False})
    for place, curve in enumerate(("insertion", "deletion", "srg")):
        for target in ("t_1", "t_2"):
            for value, scale in (("log_odds", 1.0), ("probability", 10.0)):
                rows[f"{curve}/{target}/mean/{value}"] = np.array([1.0, 2.0]) * scale + place + (target == "t_2")
    settings = {
        "targets": 2,
        "baselines": ["mean"],
        "steps": 10,
        "select": "all",
        "values": ["log_odds", "probability"],
    }
    measured = scripts["faithfulness"].curves(cell(tmp_path, "insertion_deletion", "lrp", "max", settings, rows))
    assert measured.columns[0] == scripts["faithfulness"].SRG
    assert measured["SRG, log-odds"].tolist() == [3.5, 4.5]
    assert measured["SRG, probability"].tolist() == [12.5, 22.5]
    assert measured["insertion, log-odds"].tolist() == [1.5, 2.5]


def test_class_agreement_is_read_of_each_image_and_smoothgrad_is_another_method_than_the_gradient(
    scripts, tmp_path: Path
) -> None:
    rows = pd.DataFrame({"index": [0, 1, 2], "above_threshold": [True, False, True], "skipped": False})
    settings = {
        "targets": 2,
        "baselines": ["zeros"],
        "mask": "sign",
        "select": "above",
        "measures": ["class_agreement"],
    }
    cells = []
    for samples, values in ((0, [0.1, 0.9, 0.3]), (25, [0.5, 0.0, 0.7])):
        opened = cell(tmp_path, "masking", "gradient", "max", settings, rows.assign(class_agreement=values))
        opened.shard.parts["method"] = {"samples": samples}
        cells.append(opened)
    faithfulness = scripts["faithfulness"]
    table = pd.DataFrame(faithfulness.lines(cells, faithfulness.class_agreement)).set_index(["method", "part"])["value"]
    assert table["gradient", "mean"] == pytest.approx(0.2)
    assert table["SmoothGrad", "mean"] == pytest.approx(0.6)


def test_mistakes_are_scored_as_the_experiment_scores_them_among_all_images(scripts, one_thread) -> None:
    birds = datasets.load("parts", ".", families="factorial", test_per_class=1)
    torch.manual_seed(1)
    network = small_cnn(len(birds.class_names)).eval()
    tables = scripts["mistakes"].answers(network, birds, ["gradcam"], chance=20)

    cells = list(tables)
    subject = Subject(network, "features.4", {"gradcam": methods.create("gradcam")})
    everyone = list(images.read(birds, range(len(birds)), needs_twins=True))
    for whole, rows in PartTwins(subject, cells, Settings(chance=20)).rows(everyone).items():
        expected = pd.DataFrame(rows).filter(regex="/q5/").filter(regex="^(tau_mean|sign)").dropna(how="all")
        assert len(expected) > 3
        pd.testing.assert_frame_equal(
            tables[whole].reset_index(drop=True), expected.astype(float).reset_index(drop=True), rtol=1e-4
        )
    assert [(c.method, c.contrast) for c in cells] == [("gradcam", c) for c in ("original", "mean", "max", "weighted")]
    table = pd.DataFrame(scripts["mistakes"].lines(tables)).set_index(["method", "contrast", "column", "part"])["value"]
    mean = tables[Cell("gradcam", "original")]["sign/q5/verified"].mean()
    assert table["GradCAM, features.4", "original", "q5, sign", "mean"] == f"{mean:.2f}"
    assert table["painted truth", "none", "q5, tau", "mean"] == "1.00"

    tests = scripts["mistakes"].tests(tables)
    assert tests[["contrast", "score", "m"]].to_numpy().tolist() == [
        ["weighted", "tau_mean", 2],
        ["weighted", "sign", 2],
    ]
    rows = list(scripts["mistakes"].differences(tests))
    tau, original = (tables[Cell("gradcam", c)]["tau_mean/q5/verified"] for c in ("weighted", "original"))
    assert rows[0] | {"value": float(rows[0]["value"])} == {
        "network": "small_cnn, seed 0",
        "method": "GradCAM, features.4",
        "contrast": "weighted",
        "column": "q5, tau, minus original",
        "part": "difference",
        "value": pytest.approx((tau - original).mean(), abs=0.005),
    }
    assert [row["part"] for row in rows[:5]] == ["difference", "low", "high", "p", "detectable"]


def test_a_method_more_is_put_among_those_of_before(scripts, tmp_path: Path, monkeypatch) -> None:
    """The records of the others need not be at hand."""
    (tmp_path / "tables").mkdir()
    monkeypatch.setattr(scripts["twins"], "TABLES", tmp_path / "tables")
    monkeypatch.setattr(scripts["twins"], "_cells", list)
    (tmp_path / "tables/figures.csv").write_text("quantity,value,n,setting,command\n")
    earlier = [
        ("small_cnn, seed 2", method, contrast, "q1", "mean", "0.30")
        for method, contrast in (("gradient", "max"), ("occlusion", "max"), ("painted truth", "none"))
    ]
    numbers(*earlier).to_csv(tmp_path / "tables/twins_methods.csv", index=False)
    rows = pd.DataFrame({"index": range(4), "skipped": False, "label": 0, "predicted": 0})
    opened = cell(tmp_path, "twins", "gradient", "max", {"chance": 0}, rows.assign(**{"top_mean/q1/verified": 0.5}))
    opened.shard.parts.update(method={"samples": 16}, limit=[4, 0])
    scripts["twins"].methods([opened])
    table = pd.read_csv(tmp_path / "tables/twins_methods.csv", dtype=str).query("part == 'mean'")
    assert table[["method", "value"]].to_numpy().tolist() == [
        ["gradient", "0.30"],
        ["SmoothGrad", "0.50"],
        ["occlusion", "0.30"],
        ["painted truth", "0.30"],
    ]


def test_lines_without_new_records_stay_and_networks_stand_together(scripts) -> None:
    earlier = numbers(
        ("a, seed 0", "m", "original", "q1", "mean", "0.10"),
        ("a, seed 0", "m", "original", "q2", "mean", "0.20"),
        ("b, seed 0", "m", "original", "q1", "mean", "0.30"),
    )
    new = numbers(
        ("a, seed 0", "m", "original", "q1", "mean", "0.11"), ("a, seed 0", "m", "weighted", "q1", "mean", "0.50")
    )
    merged = scripts["twins"].merged(earlier, new)
    assert merged[["network", "contrast", "column", "value"]].to_numpy().tolist() == [
        ["a, seed 0", "original", "q1", "0.11"],
        ["a, seed 0", "weighted", "q1", "0.50"],
        ["b, seed 0", "original", "q1", "0.30"],
    ]
    assert scripts["twins"].merged(pd.DataFrame(), new).equals(new)
    merged = scripts["twins"].merged(earlier, new, ["network"])  # all lines of a network give way
    assert merged["value"].tolist() == ["0.11", "0.50", "0.30"]
    merged = scripts["twins"].merged(earlier.assign(n="3"), new.assign(n="4"), ["network"])
    assert merged["n"].tolist() == ["4", "4", "3"]


def test_a_measure_s_table_keeps_the_lines_of_other_networks(scripts, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(scripts["faithfulness"], "TABLES", tmp_path)
    label = {"dataset": "CUB", "network": "a, seed 0", "n": 4, "method": "LRP", "contrast": "max", "column": "gain"}
    write, facts = scripts["faithfulness"].write, {"part": "mean", "value": 0.25, "setting": "s", "command": "c"}
    write("table1_gain", [label | facts, label | facts | {"contrast": "mean"}])
    write("table1_gain", [label | facts | {"n": 5, "value": 0.5}, label | facts | {"dataset": "Parts"}])
    table = pd.read_csv(tmp_path / "table1_gain.csv")
    assert [*table][:5] == ["dataset", "network", "n", "method", "contrast"]
    assert table[["dataset", "contrast", "n", "value"]].to_numpy().tolist() == [
        ["CUB", "max", 5, 0.5],
        ["CUB", "mean", 4, 0.25],
        ["Parts", "max", 4, 0.25],
    ]


def test_trainings_are_the_lowest_and_highest_of_the_networks_of_a_kind(scripts) -> None:
    means = [("a, seed 0", "0.30"), ("a, seed 1", "-0.10"), ("a, seed 2", "0.20"), ("b, seed 0", "0.90")]
    singly = numbers(
        *((network, "m, l", "weighted", "q1", "mean", value) for network, value in means),
        *((network, "random maps, l", "none", "q1", "mean", "0.1") for network, _ in means),
        ("a, seed 0", "m, l", "weighted", "q1", "n", "330"),
    )
    rows = list(scripts["twins"].trainings(singly))
    assert [(row["network"], row["part"], row["value"]) for row in rows] == [
        ("a", "lowest", "-0.10"),
        ("a", "highest", "0.30"),
    ]
    assert "3 trainings" in rows[0]["setting"]


def test_the_most_frequent_n_stands_in_the_heading_and_another_in_its_cell(scripts) -> None:
    keys = ["method", "contrast", "column", "part", "value"]
    cells = [("a", "330"), ("b", "330"), ("c", "96")]
    frame = pd.DataFrame(
        [(method, "max", "q1", part, value) for method, n in cells for part, value in (("mean", "0.5"), ("n", n))],
        columns=keys,
    )
    headed = scripts["leaderboard"].headed(frame)
    assert set(headed["column"]) == {"q1, n = 330"}
    assert headed[headed["part"] == "n"][["method", "value"]].to_numpy().tolist() == [["c", "96"]]
