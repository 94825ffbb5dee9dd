"""The layouts of Table 1: LaTeX as in the paper, Markdown, the screen."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from tests.report.shards import make, pair, papers, written
from wcx.experiments.masking import Settings
from wcx.records import Shard
from wcx.report import backends, sections
from wcx.report.tables import Table


def cells_of(line: str) -> int:
    """Columns that a line of a tabular fills."""
    cells = re.split(r"(?<!\\)&", line)
    return sum(int(m[1]) if (m := re.match(r"\s*\\multicolumn\{(\d+)\}", cell)) else 1 for cell in cells)


def test_latex_has_the_papers_layout(tmp_path: Path) -> None:
    written(papers(tmp_path), tmp_path / "out")
    text = (tmp_path / "out/table1.tex").read_text()
    for environment in ("table*", "tabular"):
        assert text.count(rf"\begin{{{environment}}}") == text.count(rf"\end{{{environment}}}") == 1
    assert len(re.findall(r"(?<!\\)\{", text)) == len(re.findall(r"(?<!\\)\}", text))
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1]
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {cells_of(line) for line in lines} == {len(columns)} == {4 + 12 + 4}
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 5, 1]
    assert [f"{{{name}}}" in lines[0] for name in ("Gaussian Blur", "Zeros", "Channel-wise Mean")] == [True] * 3
    assert lines[1].count("Pos.") == lines[1].count("Neg.") == 4
    assert lines[2].count("ori.") == lines[2].count("wtd.") == 8
    body = lines[3:]
    assert len(body) == 5 * 2 * 2 * 2, "the paper's numbers stand beneath ours"
    ours, paper = body[::2], body[1::2]
    assert all(line.count(r"\textbf") == 6 for line in ours), "one of each pair"
    assert not any(r"\textbf" in line for line in paper)
    cub = [cell.strip() for cell in ours[0].split("&")]
    assert cub[:3] == ["CUB-200", "LA", "$t_1$"]
    assert cub[4:8] == ["0.753", r"\textbf{0.820}", "0.447", r"\textbf{0.280}"], "as in the paper's first line"
    assert ours[1].startswith(" &  & $t_2$")
    assert ours[2].startswith(" & GC & $t_1$")
    beneath = [cell.strip() for cell in paper[0].split("&")]
    assert beneath[0] == "the paper's vgg16"
    assert beneath[4:8] == ["0.753", "0.820", "0.447", "0.280"], "records that repeat the paper"
    caption = re.search(r"\\caption\{(.*)\}", text)[1]
    for words in (
        "one trained network",
        "subset: 2 of 200 classes",
        "cub checkpoint",
        "$p_{t_2}$ $>$ 0.1",
        "n = 6 images",
    ):
        assert words in caption


def test_latex_escapes() -> None:
    shown = r"vgg16\_bn: 50\% of $p_{t_2}$ $>$ $t_1$ \& \{x\}"
    assert backends.latex_text("vgg16_bn: 50% of p_t2 > t_1 & {x}") == shown
    assert backends.latex_text("[0.1, 0.3)") == "{[}0.1, 0.3)", "a rule before it would take the bracket for its own"
    assert backends.latex_text("-0.12 [-0.3, -.1], a-1, t_1 - t_2") == "$-$0.12 {[}$-$0.3, $-$.1], a-1, $t_1$ - $t_2$"


def main_table(shards: list[Shard]) -> Table:
    return sections.of("masking", shards).filled[0]


def test_more_contrasts_stand_below_one_another(tmp_path: Path) -> None:
    shards = [make(tmp_path, contrast, method="xgradcam") for contrast in ("original", "mean", "weighted")]
    grid = main_table(shards).grid()
    assert [heading.text for heading in grid.head[0][: grid.labels]] == ["method", "target", "contrast"]
    lines = [line for line in grid.lines if not line.beneath]
    labels = [tuple(entry.text for entry in line.labels) for line in lines]
    assert labels[:3] == [("XGC", "t_1", "ori."), ("XGC", "t_1", "mean"), ("XGC", "t_1", "wtd.")]
    for place in range(1, 5):  # baseline x kept
        for target in (lines[:3], lines[3:]):
            shown = [line.entries[place] for line in target]
            kept = shown[0].row["features_kept"]
            best = (max if kept == "positive" else min)(entry.text for entry in shown)
            assert [entry.best for entry in shown] == [entry.text == best for entry in shown]


def test_equal_numbers_are_not_bold(tmp_path: Path) -> None:
    table = main_table(pair(tmp_path, values=lambda *_: np.full(30, 0.5)))
    entries = [entry for line in table.grid().lines for entry in line.entries]
    assert not any(entry.best for entry in entries)
    assert "*" not in table.to_text()


def test_markdown(tmp_path: Path) -> None:
    options = {"boxes": True, "settings": Settings(select="all", baselines=("blur", "zeros")), "skipped": [3]}
    shards = [shard for seed in range(2) for shard in pair(tmp_path, seed=seed, **options)]
    shards += pair(tmp_path, method="linear_approximation", seed=0, settings=options["settings"])
    written(shards, tmp_path / "out")
    text = (tmp_path / "out/table1.md").read_text()
    for block in text.split("\n\n"):
        lines = [re.split(r"(?<!\\)\|", line) for line in block.splitlines() if line.startswith("|")]
        assert len(set(map(len, lines))) <= 1
    for words in (
        "### Localisation", "### Above and below", "### Across fine-tuning seeds", "### Weighted − original", "## Beside the paper",
        "masked Pos.", "1 unreadable image skipped", "for one trained network", "m = 24", "0.981",
    ):  # fmt: skip
        assert words in text
