"""Table 1 from small synthetic records: numbers by hand, headers, layouts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.report.shards import make, pair, papers, written
from wcx import records, statistics
from wcx.errors import WcxError
from wcx.experiments.masking import Settings
from wcx.records import Shard
from wcx.report import sections
from wcx.report.masking import cells, main, paper

HEADER = (
    "dataset,model,method,target,baseline,features_kept,contrast,mask,n,relative_probability_unmasked,relative_probability,"
    "ci_low,ci_high,masked_fraction,n_skipped,threshold,foils,weights,subset"
)  # fmt: skip
CELL = ["method", "target", "baseline", "features_kept", "contrast"]


def table(shards: list[Shard], threshold: float | None = None) -> pd.DataFrame:
    return main.frame(cells.read(shards, threshold))[list(main.HEADER)]


def read(folder: Path, name: str = "") -> pd.DataFrame:
    return pd.read_csv(folder / f"table1{name}.csv", keep_default_na=False, na_values=[""])


def test_header_and_numbers_by_hand(tmp_path: Path) -> None:
    shards = pair(tmp_path, n=31, skipped=[0, 4])
    written(shards, tmp_path / "out")
    table = read(tmp_path / "out")
    assert ",".join(table) == ",".join(main.HEADER) == HEADER
    assert set(paper.read(paper.FOLDER, paper.PAPER).columns) <= set(table)
    assert len(table) == 2 * 2 * 2 * 2
    rows = shards[1].read()
    rows = rows[rows["p_t2"] > 0.1]
    line = table.query(
        "target == 't_2' and baseline == 'zeros' and features_kept == 'negative' and contrast == 'weighted'"
    )
    values = rows["relative_probability/t_2/zeros/negative"]
    one = line.iloc[0]
    assert (one["n"], one["n_skipped"], one["threshold"], one["foils"], one["mask"]) == (19, 2, 0.1, "others", "sign")
    assert one["relative_probability"] == pytest.approx(values.mean(), abs=1e-6)
    assert one["relative_probability_unmasked"] == pytest.approx(rows["p_t2"].mean(), abs=1e-6)
    assert one["masked_fraction"] == 0.4
    interval = statistics.bootstrap(values, ["cub", "vgg16", "gradcam", "weighted"])
    assert (one["ci_low"], one["ci_high"]) == pytest.approx(interval, abs=1e-6)
    assert one["weights"].startswith("cub checkpoint")
    assert one["subset"].startswith("subset: 2 of 200")


def test_numbers_do_not_depend_on_the_rest_of_the_table(tmp_path: Path) -> None:
    shards = pair(tmp_path) + pair(tmp_path, method="linear_approximation")
    whole = table(shards[::-1]).sort_values(CELL, ignore_index=True)
    alone = pd.concat([table([shard]) for shard in shards]).sort_values(CELL, ignore_index=True)
    pd.testing.assert_frame_equal(whole, alone)


def test_threshold(tmp_path: Path) -> None:
    above = pair(tmp_path / "above")
    with pytest.raises(WcxError, match=r"threshold 0.05 is below the 0.1 .* select=all"):
        table(above, threshold=0.05)
    higher = table(above, threshold=0.21)
    assert set(higher["n"]) == {int((above[0].read()["p_t2"] > 0.21).sum())}
    every = pair(tmp_path / "all", settings=Settings(select="all"))
    assert set(table(every, threshold=0.0)["n"]) == {30}


def test_selection_is_the_engines_own(tmp_path: Path) -> None:
    """An image a hair above the threshold is written as 0.1: it was selected, and stays so."""
    shard = make(tmp_path, "original")
    chunk = shard.chunk_path(0)
    rows = pd.read_csv(chunk, dtype={"id": str})
    rows.loc[0, "p_t2"] = 0.1
    chunk.unlink()
    records.collect([shard], 2, lambda _: [rows.to_dict("records")], rows.columns)
    assert set(table([shard])["n"]) == {20}


def test_two_records_for_one_line(tmp_path: Path) -> None:
    shards = [make(tmp_path / name, "original") for name in "ab"]
    with pytest.raises(WcxError, match="two sets of records for cub vgg16 gradcam original"):
        table(shards)


def test_incomplete_records_say_so(tmp_path: Path) -> None:
    shard = make(tmp_path, "original")
    (shard.path / "complete.json").unlink()
    assert "incomplete: 30 images so far" in table([shard])["subset"].iloc[0]


def test_paired(tmp_path: Path) -> None:
    original, weighted = pair(tmp_path)
    written([original, weighted], tmp_path / "out")
    table = read(tmp_path / "out", "_paired")
    assert len(table) == 8
    a, b = (one.read().query("above_threshold") for one in (weighted, original))
    for _, row in table.iterrows():
        column = f"relative_probability/{row['target']}/{row['baseline']}/{row['features_kept']}"
        d = (a[column] - b[column]).to_numpy()
        assert (row["n"], row["difference"]) == (20, pytest.approx(d.mean(), abs=1e-6))
        assert row["weighted"] - row["original"] == pytest.approx(row["difference"], abs=2e-6)
        assert row["ci_low"] < row["difference"] < row["ci_high"]
        theirs = stats.ttest_1samp(d, 0).pvalue
        assert row["p"] == pytest.approx(theirs, abs=0.02), "Student's test is near for 20 images"
        gain = d.mean() if row["features_kept"] == "positive" else -d.mean()
        assert row["better"] == ("weighted" if gain > 0 else "original")
    assert set(table["m"]) == {8}
    assert table["p_holm"].to_numpy() == pytest.approx(statistics.holm(table["p"]), abs=1e-5)


def test_only_images_that_both_have_are_paired(tmp_path: Path) -> None:
    shards = [make(tmp_path, "original", 30), make(tmp_path, "weighted", 30, images=9)]
    ((weighted, original),) = cells.pairs(cells.read(shards))
    a, b = cells.joined((weighted, original))
    assert a.index.tolist() == b.index.tolist()
    assert set(a.index) == set(weighted.selected["index"]) & set(original.selected["index"]) != set()


def test_each_protocol_is_a_table_of_its_own(tmp_path: Path) -> None:
    shards = pair(tmp_path) + pair(tmp_path, settings=Settings(mask="equal", baselines=("blur",)))
    lines = written(shards, tmp_path / "out")[1]
    both = read(tmp_path / "out", "_paired")
    assert both.groupby("mask")["m"].unique().map(list).to_dict() == {"equal": [4], "sign": [8]}
    assert read(tmp_path / "out")["mask"].tolist() == ["sign"] * 16 + ["equal"] * 8
    assert sum("weighted beats original in" in line for line in lines) == 2
    assert (tmp_path / "out/table1.tex").read_text().count(r"\begin{table*}") == 2


def test_strata(tmp_path: Path) -> None:
    shards = pair(tmp_path, settings=Settings(select="all"), skipped=[1])
    written(shards, tmp_path / "out")
    table = read(tmp_path / "out", "_strata")
    main = read(tmp_path / "out")
    above = table.query("stratum == 'above'").reset_index(drop=True)
    pd.testing.assert_frame_equal(above[list(main)], main)
    below = table.query("stratum == 'below'")
    assert set(below["n"]) == {10}
    rows = shards[1].read().query("not skipped and not above_threshold")
    one = below.query(
        "target == 't_1' and baseline == 'blur' and features_kept == 'negative' and contrast == 'weighted'"
    ).iloc[0]
    assert one["relative_probability"] == pytest.approx(rows["relative_probability/t_1/blur/negative"].mean(), abs=1e-6)
    assert (one["reproduction"], one["reproduction_unmasked"], one["reproduction_model"]) == (0.351, 0.985, "vgg16_bn")
    assert below.query("target == 't_2'")["reproduction"].isna().all()
    written(pair(tmp_path / "above"), tmp_path / "out")
    assert not (tmp_path / "out/table1_strata.csv").exists(), "of the earlier records"


def test_localisation(tmp_path: Path) -> None:
    shards = pair(tmp_path, boxes=True) + pair(tmp_path, method="linear_approximation")
    lines = written(shards, tmp_path / "out")[1]
    table = read(tmp_path / "out", "_localisation")
    assert table["target"].tolist() == ["t_1", "t_2"], "no boxes were recorded with the other method"
    assert table["n"].tolist() == [20, 19], "an image without positive attribution has no such share"
    assert table["difference"].tolist() == pytest.approx([-0.1, 0], abs=1e-6)
    assert (table["weighted"] - table["original"]).tolist() == pytest.approx([-0.1, 0], abs=2e-6)
    assert table["box_fraction"].tolist() == [0.25, 0.25]
    assert table["m"].tolist() == [2, 2]
    assert table["p"].tolist() == pytest.approx([1e-5, 1], abs=1e-5)
    assert any("inside the box in 1 of 2 cells (1 with p < 0.05" in line for line in lines)


def test_seeds(tmp_path: Path) -> None:
    shards = [shard for seed in range(3) for shard in pair(tmp_path, seed=seed)] + pair(
        tmp_path, dataset="cars", label="Stanford Cars", seed=0
    )
    written(shards, tmp_path / "out")
    main, table = read(tmp_path / "out"), read(tmp_path / "out", "_seeds")
    assert main["weights"].str.extract(r"(seed \d)$")[0].nunique() == 3
    assert set(table["dataset"]) == {"CUB-200"}, "one seed is none to look across"
    assert set(table["contrast"]) == {"original", "weighted", "weighted - original"}
    where = "dataset == 'CUB-200' and target == 't_1' and baseline == 'blur' and features_kept == 'positive'"
    one = table.query(where).set_index("contrast")
    means = main.query(where).groupby("contrast")["relative_probability"].apply(np.array)
    for contrast, numbers in (means.to_dict() | {"weighted - original": means["weighted"] - means["original"]}).items():
        row = one.loc[contrast]
        assert (row["seeds"], row["n"]) == ("0 1 2", 60)
        assert row[["relative_probability", "sd", "lowest", "highest"]].tolist() == pytest.approx(
            [numbers.mean(), numbers.std(ddof=1), numbers.min(), numbers.max()], abs=2e-6
        )
        interval = stats.t.interval(0.95, 2, numbers.mean(), stats.sem(numbers))
        assert row[["ci_low", "ci_high"]].tolist() == pytest.approx(interval, abs=2e-5)
    text = (tmp_path / "out/table1.md").read_text()
    assert "| CUB-200, seed 2 |" in text
    assert "| Stanford Cars |" in text


def test_against_the_paper_itself(tmp_path: Path) -> None:
    """Records that repeat the paper agree with it wholly, and the reproduction as its review says."""
    lines = written(papers(tmp_path), tmp_path / "out")[1]
    table = read(tmp_path / "out", "_vs_published")
    assert len(table) == 240
    assert table["difference"].abs().max() < 1e-6
    assert table["reproduction"].notna().sum() == 48
    sentence = next(line for line in lines if line.startswith("against the paper"))
    assert "vgg16, p_t2 > 0.1, mask=sign [subset]" in sentence
    ours, theirs = sentence.split("The reproduction")
    assert "r = 1.000 over 240 cells, difference 0.000 on average (signed" in ours
    assert "paper's sign in 120 of 120 pairs" in ours
    assert "over 48 cells, difference 0.034 on average" in theirs
    assert "0.120 at most" in theirs
    png = (tmp_path / "out/table1_vs_published.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"


def test_agreement_by_hand() -> None:
    frame = pd.DataFrame(
        {
            "dataset": "d", "method": "m", "target": "t_1", "baseline": ["a", "a", "b", "b"], "features_kept": "positive",
            "contrast": ["original", "weighted"] * 2, "ours": [0.1, 0.4, 0.5, 0.4], "published": [0.2, 0.3, 0.4, 0.6],
        }
    )  # fmt: skip
    result = paper.agreement(frame, "ours")
    assert (result.cells, result.pairs, result.agree) == (4, 2, 1)
    assert result[1:5] == pytest.approx((np.corrcoef(frame["ours"], frame["published"])[0, 1], 0.125, -0.025, 0.2))
    assert np.isnan(paper.agreement(frame.head(1), "ours").r)


def test_what_is_not_the_papers_is_named(tmp_path: Path) -> None:
    shards = pair(tmp_path, model="alexnet", weights="stand-in: alexnet.pth") + pair(
        tmp_path, dataset="parts", label="parts"
    )
    frame = paper.beside(main.frame(cells.read(shards))).dropna(subset="published")
    (one,) = paper.comparisons(frame, "p_t2 > 0.1")
    assert one.title == "alexnet, p_t2 > 0.1 [subset; stand-in weights; not the paper's vgg16]"
    assert set(frame["dataset"]) == {"CUB-200"}, "the paper knows no drawn birds"
    with pytest.raises(WcxError, match="published numbers not found"):
        paper.read(tmp_path, paper.PAPER)


def test_same_files_again(tmp_path: Path) -> None:
    shards = pair(tmp_path, boxes=True)
    for name in "ab":
        written(records.find(tmp_path), tmp_path / name)
    folders = [tmp_path / name for name in "ab"]
    files = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*")) for folder in folders]
    assert files[0] == files[1]
    assert {"table1.csv", "table1.md", "table1.tex", "table1_paired.csv", "table1_vs_published.csv"} <= set(files[0])
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files[0])
    assert written(shards[:1], tmp_path / "c")[1], "one contrast alone"
    assert not (tmp_path / "c/table1_paired.csv").exists()


def test_protocol_in_words(tmp_path: Path) -> None:
    settings = Settings(mask="fraction", fraction=0.3, align_corners=True, blur_sigma=(10, 20), foils=3, seed=7)
    (cell,) = cells.read([make(tmp_path, "original", settings=settings)])
    assert (
        cell.protocol
        == "p_t2 > 0.1, mask=fraction (0.3 of the pixels), align_corners=true, blur_sigma=[10, 20], foils=3"
    )
    assert table([cell.shard])["foils"].unique().tolist() == ["3"]
    assert json.loads((cell.shard.path / "shard.json").read_text())["parts"]["settings"]["foils"] == 3


def test_two_recipes_of_one_network_stand_side_by_side(tmp_path: Path) -> None:
    """Once the newer records' network alone had a line; each has its numbers, its tests, and its comparison with the paper."""
    for recipe in ("head", "tail"):
        label = f"cub checkpoint (vgg16, recipe {recipe}, accuracy 0.8)"
        pair(tmp_path, weights=label, seed=0, labels={"recipe": recipe})
    found, left_out = sections.collect("masking", tmp_path)
    assert (len(found), left_out) == (4, [])
    section, lines = written(found, tmp_path / "tables")
    [table] = [table for table in section.tables if table.name == "table1"]
    assert set(table.frame["network"]) == {
        f"CUB-200, cub checkpoint (vgg16, recipe {recipe}, accuracy 0.8), seed 0" for recipe in ("head", "tail")
    }
    compared = [line for line in lines if line.startswith("against the paper")]
    named = {tuple(recipe in line.split("]:")[0] for recipe in ("recipe head", "recipe tail")) for line in compared}
    assert (len(compared), named) == (2, {(True, False), (False, True)})


def test_a_table_of_no_image_says_what_to_do(tmp_path: Path) -> None:
    """It said: The widest interval is ± nan."""
    _section, lines = written([make(tmp_path, "weighted")], tmp_path / "tables", threshold=0.9)
    text = "\n".join(lines)
    assert "No image is above the threshold: lower it." in text
    assert "nan" not in text
