"""Fig. 3 from small synthetic records: numbers by hand, headers, what is told, and that nothing in the figure overlaps."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.report.fig3_shards import COUNTS, FOUR, NINE, block, make
from wcx import statistics
from wcx.errors import WcxError
from wcx.records import Shard
from wcx.report import sections
from wcx.report.sign_perturbation import cells, numbers, plot

HEADER = (
    "dataset,model,method,contrast,epsilon,iterations,n,delta_logit,delta_probability,delta_accuracy,delta_logit_ci_low,"
    "delta_logit_ci_high,delta_probability_ci_low,delta_probability_ci_high,delta_accuracy_ci_low,delta_accuracy_ci_high,"
    "target_rule,precision,weights,subset"
)
QUANTITIES = {"logit": "y_t", "probability": "p_t", "accuracy": "correct"}


def written(shards: list[Shard], folder: Path) -> list[str]:
    """Write the report of the records into a folder; return the lines of the screen."""
    folder.mkdir(parents=True, exist_ok=True)
    section = sections.of("sign_perturbation", shards)
    section.write(folder, ("png", "pdf"))
    return section.to_text().splitlines()


def table(shards: list[Shard]) -> pd.DataFrame:
    ((changes, *_),) = (numbers.tables(chart) for chart in cells.charts(cells.read(shards)))
    return changes.frame[list(numbers.HEADER)]


def read(folder: Path, name: str = "") -> pd.DataFrame:
    return pd.read_csv(folder / f"fig3{name}.csv", keep_default_na=False, na_values=[""])


@pytest.mark.usefixtures("undrawn")
def test_header_and_numbers_by_hand(tmp_path: Path) -> None:
    shards = block(tmp_path, skipped=[0, 4])
    lines = written(shards, tmp_path / "out")
    table = read(tmp_path / "out")
    assert ",".join(table) == ",".join(numbers.HEADER) == HEADER
    assert table[["contrast", "iterations"]].to_numpy().tolist() == [[c, n] for c in FOUR for n in (1, 2, 10)]
    rows = shards[2].read().query("not skipped")
    one = table.query("contrast == 'max' and iterations == 10").iloc[0]
    assert one[["dataset", "model", "method", "epsilon", "n"]].tolist() == ["ImageNet", "vgg16", "gradient", 0.003, 38]
    assert one[["target_rule", "precision", "weights"]].tolist() == ["label", "float32", "IMAGENET1K_V1"]
    assert one["subset"].startswith("sample: 1000 images")
    for name, column in QUANTITIES.items():
        change = rows[f"{column}/10"] - rows[column]
        low, high = statistics.bootstrap(change, ["imagenet", "vgg16", "gradient"])
        ends = one[[f"delta_{name}{end}" for end in ("", "_ci_low", "_ci_high")]].tolist()
        assert ends == pytest.approx([change.mean(), low, high], rel=1e-4, abs=1e-6)
    assert any("n = 38 images; IMAGENET1K_V1; sample: 1000 images" in line for line in lines)
    assert any("2 unreadable images skipped" in line for line in lines)


def test_numbers_do_not_depend_on_the_rest_of_the_table(tmp_path: Path) -> None:
    shards = block(tmp_path) + block(tmp_path, model="alexnet", n=20)
    keys = ["model", "contrast", "iterations"]
    whole = table(shards[::-1]).sort_values(keys, ignore_index=True)
    alone = pd.concat([table([shard]) for shard in shards]).sort_values(keys, ignore_index=True)
    pd.testing.assert_frame_equal(whole, alone)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("images", [0, 7])
def test_paired_over_the_images_both_have(tmp_path: Path, images: int) -> None:
    shards = [make(tmp_path, "mean", images=images), make(tmp_path, "weighted", iterations=(2, 10))]
    written(shards, tmp_path / "out")
    table = read(tmp_path / "out", "_paired")
    assert tuple(table) == numbers.PAIRED
    assert table[["contrast", "minus", "iterations"]].to_numpy().tolist() == [["weighted", "mean", n] for n in (2, 10)]
    a, b = (shard.read().set_index("index") for shard in (shards[1], shards[0]))
    common = a.index.intersection(b.index)
    assert set(table["n"]) == {len(common)} == {40 - images}
    for name, column in QUANTITIES.items():
        d = ((a[f"{column}/2"] - a[column]) - (b[f"{column}/2"] - b[column])).loc[common]
        low, high = statistics.bootstrap(d, ["imagenet", "vgg16", "gradient"])
        ends = table.iloc[0][[f"difference_{name}{end}" for end in ("", "_ci_low", "_ci_high")]].tolist()
        assert ends == pytest.approx([d.mean(), low, high], rel=1e-4, abs=1e-6)


def test_resamples_in_which_two_contrasts_are_level_are_at_0(tmp_path: Path) -> None:
    """Sums of accuracies are whole numbers: where those of two contrasts are equal, no rounding stands between their means."""
    n = 997
    (chart,) = cells.charts(cells.read(block(tmp_path, ["mean", "weighted"], n=n, iterations=(1,), gain=(1, 0.3))))
    means = chart.panels[0].differences("weighted", "mean")[3][:, 0, cells.ACCURACY]
    level = np.rint(means * n) == 0
    assert 50 < level.sum() < len(level) - 50
    assert (means[level] == 0).all()


@pytest.mark.usefixtures("undrawn")
def test_correlation_is_scipys(tmp_path: Path) -> None:
    shards = block(tmp_path, n=200) + block(tmp_path, ["original", "weighted"], model="alexnet", gain=(1, 0))
    lines = written(shards, tmp_path / "out")
    table, changes = read(tmp_path / "out", "_correlation"), read(tmp_path / "out").query("model == 'vgg16'")
    assert tuple(table) == numbers.CORRELATION
    one, flat = table.iloc[0], table.iloc[1]
    assert one[["contrasts", "iterations", "conditions", "n"]].tolist() == [" ".join(FOUR), "1 2 10", 12, 200]
    for name in ("probability", "logit"):
        r = stats.pearsonr(changes["delta_accuracy"], changes[f"delta_{name}"])[0]
        assert one[f"r_{name}"] == pytest.approx(r, abs=1e-4)
        assert -1 <= one[f"r_{name}_ci_low"] < one[f"r_{name}_ci_high"] <= 1
    assert flat[["r_probability", "r_logit", "r_logit_ci_low"]].isna().all(), "accuracy changes nowhere"
    assert any("not defined" in line for line in lines)


def test_pearson_edges() -> None:
    up = np.array([0.1, 0.2, 0.4])
    both = numbers.pearson(np.array([up, up, up * 0 + 0.3]), np.array([up, -up, up]))
    assert both.tolist()[:2] == pytest.approx([1, -1])
    assert np.isnan(both[2])
    assert np.isnan(numbers.pearson(up[:2], up[:2])), "two points lie on a line, always"


def test_each_protocol_is_a_figure_of_its_own(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "fig3-eps0.5.png").touch()
    shards = block(tmp_path, epsilon=0.001, n=60) + block(tmp_path) + block(tmp_path, model="alexnet")
    shards += block(tmp_path, settings={"precision": "bfloat16"})
    lines = written(shards, out)
    names = {"fig3", "fig3-eps0.001-float32", "fig3-eps0.003-bfloat16"}
    assert {file.name for file in out.glob("fig3*.p*")} == {
        f"{name}.{kind}" for name in names for kind in ("png", "pdf")
    }
    titles = [line for line in lines if line.startswith("ImageNet, ")]
    assert titles[0] == "ImageNet, gradient, epsilon 0.003, t: the label, float32", "the most networks come first"
    assert titles[1] == "ImageNet, gradient, epsilon 0.001, t: the label, float32", "then the most images"
    table = read(out)
    assert len(table) == 4 * 12
    assert table.groupby(["epsilon", "precision"]).size().to_dict() == {
        (0.001, "float32"): 12,
        (0.003, "bfloat16"): 12,
        (0.003, "float32"): 24,
    }
    assert "0.001," in (out / "fig3.csv").read_text(), "as it was given"


def test_two_records_for_one_line(tmp_path: Path) -> None:
    shards = [make(tmp_path / name, "original") for name in "ab"]
    with pytest.raises(WcxError, match="two sets of records for imagenet vgg16 gradient original"):
        table(shards)


@pytest.mark.usefixtures("undrawn")
def test_what_is_told(tmp_path: Path) -> None:
    shards = block(tmp_path, (*FOUR, "probability")) + block(
        tmp_path, model="mobilenet_v3_small", labels={"weights": "stand-in: m.pth", "stand_in": True}
    )
    shards[4] = make(tmp_path / "zero", "probability", zero=3, labels={"subset": "sample"})
    (shards[0].path / "complete.json").unlink()
    text = "\n".join(written(shards, tmp_path / "out"))
    for words in (
        "vgg16, probability: gradient exactly zero at some step for 3, 3, 3 of 40 images (1, 2, 10 iterations)",
        "incomplete: 40 images so far",
        "mobilenet_v3_small: n = 40 images; stand-in: m.pth",
        "weighted against max in 6 conditions: p_t 6 ahead",
    ):
        assert words in text
    assert text.count("gradient exactly zero") == 1
    caption = next(
        line for line in (tmp_path / "out/fig3.tex").read_text().splitlines() if line.startswith("\\caption")
    )
    assert caption.count("n = 40 images") == 1, "said once: nine networks' caption filled half a page"
    assert "vgg16: IMAGENET1K" in caption
    assert "mobilenet\\_v3\\_small: stand-in: m.pth" in caption
    assert "no records of an image that could be read: no Fig. 3" in written(
        [make(tmp_path / "no", "mean", 2, skipped=[0, 1])], tmp_path
    )


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ([0.1, 0.02], [3, 1]),
        ([-0.1, 0.3], [2, 5]),
        ([-0.1, -0.2], [2, 5]),
        ([0.1, 0.2], [-2, -1]),
        ([0, 0], [0, 0]),
        ([0, 0], [-1, 2]),
    ],
)
def test_zero_stands_at_the_same_height(left: list[float], right: list[float]) -> None:
    limits = plot.limits(left, right)
    heights = [-low / (high - low) for low, high in limits]
    assert heights[0] == pytest.approx(heights[1])
    for values, (low, high) in zip((left, right), limits, strict=True):
        assert low <= min(values) <= max(values) <= high
    for values, (low, high) in zip((left, right), limits, strict=True):
        assert max(*values, 0) - min(*values, 0) >= (high - low) * 0.46 * any(values), "no axis is mostly empty"


@pytest.mark.parametrize(
    ("models", "contrasts", "counts"),
    [
        (NINE, FOUR, COUNTS),
        (NINE[5:7], (*FOUR, "probability"), COUNTS),
        (NINE[:1], FOUR, (1, 2, 3, 5, 10, 20, 50)),
        (NINE[:3], FOUR, (1, 2, 3, 5, 10, 20, 50)),
    ],
)
def test_nothing_overlaps(
    tmp_path: Path, models: tuple[str, ...], contrasts: tuple[str, ...], counts: tuple[int, ...]
) -> None:
    options = {"n": 8, "iterations": counts}
    shards = [shard for model in models for shard in block(tmp_path, contrasts, model=model, **options)]
    shards += [make(tmp_path, "finer", model=models[0], gain=(-0.2, -0.6), **options)]
    (chart,) = cells.charts(cells.read(shards))
    canvas = plot.figure(chart, ["A sentence that says all sorts of things about it. " * 6])
    canvas.draw_without_rendering()
    renderer = canvas.canvas.get_renderer()
    assert len([ax for ax in canvas.axes if ax.get_title()]) == len(models)
    axes = [ax for ax in canvas.axes if ax.axison]
    texts = [t for ax in axes if ax.get_title() for t in (*ax.get_xticklabels(), ax.title)]
    texts += [
        label
        for ax in axes
        for label, place in zip(ax.get_yticklabels(), ax.get_yticks(), strict=True)
        if ax.get_ylim()[0] <= place <= ax.get_ylim()[1]
    ]
    texts += [t for sub in canvas.subfigs for t in sub.texts]
    texts += [t for sub in canvas.subfigs for legend in sub.artists for t in legend.get_texts()]
    boxes = [(t.get_text(), t.get_window_extent(renderer).padded(1.5)) for t in texts if t.get_visible()]
    for name, box in boxes:
        assert canvas.bbox.x0 <= box.x0 < box.x1 <= canvas.bbox.x1, f"{name} runs out of the figure"
        assert canvas.bbox.y0 <= box.y0 < box.y1 <= canvas.bbox.y1, f"{name} runs out of the figure"
    for (one, a), (other, b) in combinations(boxes, 2):
        assert not a.overlaps(b), f"{one} overlaps {other}"
