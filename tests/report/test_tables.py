"""A table described once: every back end against a frame small enough to read, and what the files hold."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from wcx.report import tables
from wcx.report.tables import Column, NamedNetwork, Note, Span, Spread, Table

COLUMNS = (
    Column("dataset", "Whose images.", folded=True),
    Column("method", "Of the explanation.", words={"gradcam": "GC"}),
    Column("kept", "Which features."),
    Column("contrast", "Against what."),
    Column("p", "A share, 0 to 1.", "share", ".3f", better="direction", interval=("low", "high")),
    Column("hidden", "A share of the pixels.", format=".0%"),
    Column("p_value", "Of a test.", "p", "p"),
)


def frame() -> pd.DataFrame:
    """Two methods, kept up or down, two contrasts; numbers by hand."""
    rows = [
        ("gradcam", "up", "higher", "original", 0.5, 0.2, 0.04), ("gradcam", "up", "higher", "weighted", 0.7, 0.3, 0.0004),
        ("gradcam", "down", "lower", "original", 0.4, 0.8, 0.5), ("gradcam", "down", "lower", "weighted", 0.2, 0.7, 0.5),
        ("lrp", "up", "higher", "original", 0.6, 0.2, 0.5), ("lrp", "up", "higher", "weighted", 0.60001, 0.3, 0.5),
        ("lrp", "down", "lower", "original", 0.1, 0.8, 0.5), ("lrp", "down", "lower", "weighted", 0.9, 0.7, float("nan")),
    ]  # fmt: skip
    names = ["method", "kept", "direction", "contrast", "p", "hidden", "p_value"]
    made = pd.DataFrame(rows, columns=names).assign(dataset="CUB", model="vgg16", seed=7)
    return made.assign(low=made["p"] - 0.1, high=made["p"] + 0.1, paper=[0.55, 0.75, 0.45, 0.25, *[float("nan")] * 4])


@pytest.fixture
def spread() -> Table:
    blocks = (Span("p", ("kept", "contrast"), headed=False), Span("hidden", ("kept",)))
    layout = Spread(("dataset", "method"), blocks, "contrast", (("p", "paper"),), "the paper's")
    return Table("t", "Table of t_1, p_t2 > 0.1", COLUMNS, frame(), "A note.", spread=layout)


@pytest.fixture
def long() -> Table:
    return Table("t", "A | title", COLUMNS, frame())


def test_the_screen_has_the_papers_layout(spread: Table) -> None:
    lines = [line.split() for line in spread.to_text().splitlines()]
    assert lines[:3] == [["Table", "of", "t_1,", "p_t2", ">", "0.1"], ["dataset:", "CUB"], ["A", "note."]]
    assert lines[3:] == [
        ["up", "down", "hidden"],
        ["method", "original", "weighted", "original", "weighted", "up", "down"],
        ["GC", "0.500", "0.700*", "0.400", "0.200*", "20%", "80%"],
        ["the", "paper's", "0.550", "0.750", "0.450", "0.250"],
        ["lrp", "0.600", "0.600", "0.100*", "0.900", "20%", "80%"],
    ]


def test_what_is_better_is_judged_as_it_is_shown(spread: Table) -> None:
    """0.6 and 0.60001 are the same three digits; down is better where the row says so."""
    grid = spread.grid()
    marks = [[entry.best for entry in line.entries[:4]] for line in grid.lines if not line.beneath]
    assert marks == [[False, True, False, True], [False, False, True, False]]


def test_a_line_a_row_has_intervals_and_p_values(long: Table) -> None:
    lines = long.to_text().splitlines()
    assert lines[1] == "dataset: CUB"
    assert lines[4].split() == ["GC", "up", "weighted", "0.700", "[0.600,", "0.800]", "30%", "0.0004"]
    assert lines[-1].split()[-1] == "-", "a test that was not done"


def test_markdown_has_one_line_of_headings_and_equal_lines(spread: Table, long: Table) -> None:
    text = spread.to_markdown()
    assert "| method | up original | up weighted | down original | down weighted | hidden up | hidden down |" in text
    assert "| GC | 0.500 | **0.700** | 0.400 | **0.200** | 20% | 80% |" in text
    for block in (text, long.to_markdown()):
        cells = [len(re.split(r"(?<!\\)\|", line)) for line in block.splitlines() if line.startswith("|")]
        assert len(set(cells)) == 1
    assert "### A \\| title" in long.to_markdown()


def test_latex_closes_what_it_opens_and_fills_every_column(spread: Table, long: Table) -> None:
    for table in (spread, long):
        text = table.to_latex()
        width = len(re.search(r"begin\{tabular\}\{(\w+)\}", text)[1])
        for line in (line for line in text.splitlines() if line.endswith(r"\\")):
            cells = [re.match(r"\s*\\multicolumn\{(\d+)\}", cell) for cell in re.split(r"(?<!\\)&", line)]
            assert sum(int(match[1]) if match else 1 for match in cells) == width
        assert [text.count(rf"\{rule}rule") for rule in ("top", "bottom")] == [1, 1]
    assert r"20\%" in spread.to_latex()
    assert "$p_{t_2}$ $>$ 0.1" in spread.to_latex()


class Elements(HTMLParser):
    """Tags with their attributes, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.all: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append((tag, dict(attrs)))


def test_html_has_what_a_script_and_a_reader_need() -> None:
    layout = Spread(("dataset", "method", "kept"), (Span("p", ("contrast",), headed=False),))
    elements = Elements(Table("t", "T", COLUMNS, frame(), spread=layout).to_html()).all
    values = [attributes["data-value"] for _, attributes in elements if attributes.get("data-value")]
    assert {"0.5", "0.7", "0.4", "0.2"} <= set(values)
    lines = [attributes for tag, attributes in elements if tag in ("tr", "tbody") and "data-method" in attributes]
    assert {(line["data-dataset"], line["data-method"]) for line in lines} == {("CUB", "gradcam"), ("CUB", "lrp")}
    assert all(attributes.get("scope") for tag, attributes in elements if tag == "th")
    assert any(tag == "caption" for tag, _ in elements)


def test_names_in_a_frame_cannot_become_markup() -> None:
    table = Table(
        "t", "<i>", (Column("name"), Column("n", format="d")), pd.DataFrame({"name": ["<b onclick=x>"], "n": [1]})
    )
    assert not [tag for tag, _ in Elements(table.to_html()).all if tag in ("i", "b")]
    assert "<b" not in table.to_markdown()


def test_files_hold_the_whole_frame_and_its_projection(tmp_path: Path) -> None:
    """A divided table's frame is written once; two tables of one name stand below one another; what is empty goes."""
    rows = frame()
    parts = [
        Table("t", method, COLUMNS, part, whole=rows, header=("method", "p"), digits="%.6f")
        for method, part in rows.groupby("method")
    ]
    other = Table("t", "other", COLUMNS, rows.assign(method="other"), header=("method", "p"), digits="%.6f")
    (tmp_path / "e.csv").write_text("old")
    empty = Table("e", "empty", COLUMNS, rows.head(0), header=("p",))
    assert tables.write([*parts, empty, other], tmp_path) == [tmp_path / "t.csv"]
    assert not (tmp_path / "e.csv").exists()
    assert (tmp_path / "t.csv").read_text().splitlines()[:2] == ["method,p", "gradcam,0.500000"]
    whole = pd.read_csv(tmp_path / "tables" / "t_full.csv")
    pd.testing.assert_frame_equal(whole.head(8), rows, check_dtype=False)
    assert whole["method"].tolist()[8:] == ["other"] * 8
    assert pd.read_csv(io.StringIO(other.to_csv())).columns.tolist() == rows.columns.tolist()


@pytest.mark.parametrize(
    ("form", "value", "shown"),
    [(".3f", -0.0001, "0.000"), ("+.3f", -0.2, "-0.200"), (".0%", 0.126, "13%"), ("p", 0.04, "0.040"), ("d", 3, "3")],
)
def test_numbers_as_they_are_shown(form: str, value: float, shown: str) -> None:
    assert Column("x", format=form).show(value) == shown
    assert Column("x", format=form).show(float("nan")) == "-"


def test_a_heading_keeps_formulas() -> None:
    assert [Column(name).title for name in ("p_t", "y_t_error_max", "wrong_sign")] == [
        "p_t",
        "y_t error max",
        "wrong sign",
    ]


def test_networks_are_named_above_the_screens_table(spread: Table) -> None:
    network = NamedNetwork("CUB", "4", (Note("stand-in", is_caution=True),))
    lines = Table("t", "T", COLUMNS, frame(), spread=spread.spread, networks=(network,)).to_text().splitlines()
    assert lines[1] == "CUB: n = 4 images; stand-in"
    assert not any(line.startswith("dataset: CUB") for line in lines), "said already"
