"""The report of twins: means, lines of what is no map, paired differences and trainings, from records written by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wcx import experiments, records, statistics
from wcx.experiments.twins import Settings
from wcx.records import Shard
from wcx.report import sections
from wcx.report.opened import Opened
from wcx.report.twins import paired

N = 24
COLUMNS = experiments.get("twins").columns(Settings())


def shard(folder: Path, method: str, contrast: str, seed: int, right: np.ndarray, layer: str = "features.4") -> Shard:
    """Records whose top part is right in Q1 as given, NaN where nothing was verified."""
    parts = {
        "settings": {"chance": 1000, "align_corners": False, "seed": seed},
        "weights": f"w{seed}",
        "layer": layer,
        "version": 1,
    }
    labels = {"dataset": "Parts", "weights": "trained", "stand_in": False, "subset": "", "seed": seed, "recipe": "demo"}
    made = Shard(folder, ("parts", "small_cnn", method, contrast), "twins", parts, labels)
    made.describe({})
    rows = []
    for i in range(len(right)):
        row = dict.fromkeys(COLUMNS, np.nan) | {"index": i, "id": str(i), "label": 0, "predicted": 0, "skipped": False}
        is_known = not np.isnan(right[i])
        row |= {
            "top_mean/q1/verified": right[i],
            "asked/q1": 3,
            "verified/q1": 3 * is_known,
            "flip/q1": 1.0 if is_known else 0.5,
        }
        if is_known:
            row |= {"top_mean/q1/others": 0.25, "top_mean/q1/chance": 0.125, "top_mean/q1/ceiling": 1 - 0.1 * (i == 0)}
            row |= {"other_part/q1": 0.1 * (i == 0)}
        rows.append(row)
    records.collect([made], 1, lambda _: [rows], COLUMNS)
    return made


@pytest.fixture
def shards(tmp_path: Path) -> list[Shard]:
    rng = np.random.default_rng(0)
    known = np.where(np.arange(N) % 8 == 7, np.nan, 1.0)
    made = []
    for seed in (0, 1):
        for method in ("gradcam", "lrp"):
            made.append(shard(tmp_path, method, "original", seed, known * rng.integers(0, 2, N) / 2))
            made.append(shard(tmp_path, method, "weighted", seed, known * (1 - rng.integers(0, 2, N) / 4)))
    return made


def test_numbers_are_means_over_images_with_a_verified_question(shards: list[Shard]) -> None:
    section = sections.of("twins", shards)
    frame = section.tables[0].complete
    rows = shards[1].read()
    [row] = frame.query(
        "method == 'gradcam' and contrast == 'weighted' and seed == 0 and reading == 'verified'"
    ).to_dict("records")
    assert (row["n"], row["mean"]) == (N - 3, pytest.approx(rows["top_mean/q1/verified"].mean()))
    assert row["ci_low"] < row["mean"] < row["ci_high"]
    assert (row["layer"], row["score"], row["question"]) == ("features.4", "top_mean", "q1")
    assert set(frame[frame["method"] == "lrp"]["layer"]) == {""}, "its maps lie at the input"


def test_what_is_the_same_for_all_maps_stands_in_one_line_a_network(shards: list[Shard]) -> None:
    frame = sections.of("twins", shards).tables[0].complete
    ceiling = frame[frame["method"] == "painted truth"]
    assert len(ceiling) == 2, "a line each network"
    assert ceiling["mean"].tolist() == pytest.approx(2 * [1 - 0.1 / (N - 3)])
    chance = frame[(frame["method"] == "random maps") & (frame["seed"] == 0)]
    assert sorted(chance["layer"]) == ["features.4", "input"]


def test_differences_are_paired_over_images_and_corrected_as_one_family(shards: list[Shard]) -> None:
    tables = {table.name: table for table in sections.of("twins", shards).tables}
    frame = tables["twins_paired"].frame
    assert len(frame) == 8, "two networks, two methods, two comparisons"
    assert set(frame["m"]) == {8}
    a, b = (s.read()["top_mean/q1/verified"].dropna() for s in (shards[1], shards[0]))
    [row] = frame.query("method == 'gradcam' and minus == 'original' and seed == 0").to_dict("records")
    assert row["difference"] == pytest.approx((a - b).mean())
    alone = float(statistics.sign_flip((a - b).to_numpy(), ["alone"]))
    assert row["p"] == pytest.approx(alone, rel=0.3, abs=5e-4)  # other random signs
    assert frame["p_holm"].tolist() == pytest.approx(statistics.holm(frame["p"]))
    [row] = frame.query("method == 'lrp' and minus == 'against all others' and seed == 1").to_dict("records")
    assert row["difference"] == pytest.approx(shards[7].read()["top_mean/q1/verified"].mean() - 0.25)


def test_mistakes_are_a_family_of_their_own(tmp_path: Path) -> None:
    """So few images are wrong that Q1's tests would hide what they show, and theirs would cost Q1's."""
    rng = np.random.default_rng(1)
    records_of = {
        contrast: shard(tmp_path, "gradcam", contrast, 0, np.full(N, 0.5)) for contrast in ("original", "weighted")
    }
    cells, signs = [], {}
    for contrast, opened in records_of.items():
        rows = opened.read().assign(**{"verified/q5": [1.0] * 9 + [0.0] * (N - 9)})
        rows.loc[:8, "tau_mean/q5/verified"] = 0.5
        signs[contrast] = rng.integers(0, 4, 9) / 3
        rows.loc[:8, "sign/q5/verified"] = signs[contrast]
        cells.append(Opened(opened, rows))
    frame = paired.differences(cells, paired.MISTAKES)
    assert frame[["score", "question", "minus", "n", "m"]].to_numpy().tolist() == [
        ["tau_mean", "q5", "original", 9, 2],
        ["sign", "q5", "original", 9, 2],
    ]
    difference = signs["weighted"] - signs["original"]
    assert frame["difference"].tolist() == pytest.approx([0, difference.mean()])
    assert frame["p"].tolist() == pytest.approx([1, float(statistics.sign_flip(difference, ["exact"]))])
    assert frame["detectable"].tolist() == pytest.approx(
        [0, float(statistics.detectable(difference.std(ddof=1), 9, 2))]
    )
    assert set(paired.differences(cells)["m"]) == {2}, "Q1 alone: weighted against original, and against all others"


def test_trainings_are_shown_from_minimum_to_maximum(shards: list[Shard]) -> None:
    tables = {table.name: table for table in sections.of("twins", shards).tables}
    rows = tables["twins_trainings"].frame.query("method == 'gradcam' and contrast == 'original'")
    means = [shards[place].read()["top_mean/q1/verified"].mean() for place in (0, 4)]
    assert rows[["trainings", "lowest", "highest"]].to_numpy().tolist() == [pytest.approx([2, min(means), max(means)])]


def test_questions_are_counted_and_the_share_of_another_part_is_told(shards: list[Shard]) -> None:
    section = sections.of("twins", shards)
    frame = {table.name: table for table in section.tables}["twins_questions"].frame
    row = frame[frame["question"] == "q1"].iloc[0]
    assert (row["n"], row["asked"], row["verified"]) == (N - 3, 3 * N, 3 * (N - 3))
    assert row["flip"] == pytest.approx((N - 3 + 1.5) / N)
    assert row["other_part"] == pytest.approx(0.1 / (N - 3))
    assert any(
        f"a share of {0.1 / (N - 3):.3f} of the verified Q1 questions" in sentence for sentence in section.findings
    )


def test_two_layers_of_a_method_stand_side_by_side(shards: list[Shard], tmp_path: Path) -> None:
    earlier = shard(tmp_path, "gradcam", "original", 0, np.ones(N), layer="features.3")
    fitting, left_out = sections.collect("twins", tmp_path)
    assert (len(fitting), left_out) == (9, [])
    frame = sections.of("twins", [*shards, earlier]).tables[0].complete
    rows = frame.query("method == 'gradcam' and contrast == 'original' and seed == 0 and reading == 'verified'")
    assert sorted(rows["layer"]) == ["features.3", "features.4"]


def test_the_section_is_written_whole(shards: list[Shard], tmp_path: Path) -> None:
    section = sections.of("twins", shards)
    files = {file.name for file in section.write(tmp_path / "out")}
    assert {
        "twins.csv",
        "twins_paired.csv",
        "twins_trainings.csv",
        "twins_questions.csv",
        "twins.md",
        "twins.tex",
    } <= files
    assert "painted truth" in section.to_text()
