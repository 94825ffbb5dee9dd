"""A page of docs/ is what its template and docs/tables make, and a number that is asked for is there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from wcx.errors import WcxError
from wcx.report import docs

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs"
TEMPLATES = sorted(FOLDER.glob("*.md.j2"))
RESULTS = FOLDER / "results.md.j2"
FILES = [file for file in (FOLDER / "tables").glob("*.csv") if file.stem != "figures"]


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_the_page_is_what_the_template_and_the_tables_make(template: Path) -> None:
    again = "; make it again: python scripts/report.py docs=true"
    assert docs.document(template) == template.with_suffix("").read_text(encoding="utf-8"), again


def test_no_number_of_a_table_is_typed_into_the_template() -> None:
    lines = [line for template in TEMPLATES for line in template.read_text(encoding="utf-8").splitlines()]
    tables = [line for line in lines if line.startswith("|")]
    assert len(tables) == 7, "what the datasets are, in words"
    asked = set(re.findall(r'table\("(\w+)"', "\n".join(lines)))
    assert asked == {file.stem for file in FILES}, "and every table is shown"


def test_the_fractions_typed_into_sentences_are_settings() -> None:
    """A threshold, an epsilon, a version or a section; what was measured comes from a table or from figures.csv."""
    text = re.sub(r"\{\{.*?\}\}|`[^`]*`|\]\([^)]*\)", " ", RESULTS.read_text(encoding="utf-8"), flags=re.DOTALL)
    typed = set(re.findall(r"(?<![\w.])-?\d+(?:\.\d+(?:e-?\d+)?|e-?\d+)(?!\w)", text))
    thresholds, epsilons, others = (
        {"0.1", "0.05", "0.99", "0.999", "0.99999"},
        {"3e-3", "1e-3", "1e-5"},
        {"2.14", "2.15", "0.29", "5.2", "5.3"},
    )
    assert typed <= thresholds | epsilons | others


def test_every_figure_stands_in_a_sentence() -> None:
    figures = pd.read_csv(FOLDER / "tables" / "figures.csv", dtype=str, keep_default_na=False)
    assert figures["quantity"].is_unique
    assert (figures[["value", "setting", "command"]] != "").all(axis=None)
    text = "".join(template.read_text(encoding="utf-8") for template in TEMPLATES)
    asked = re.findall(r"figures\.(\w+)", text)
    assert set(asked) == set(figures["quantity"])


def test_tables_hold_numbers_with_setting_and_command() -> None:
    for file in FILES:
        frame = pd.read_csv(file, dtype=str, keep_default_na=False)
        assert pd.to_numeric(frame["value"]).notna().all(), file
        assert (frame[["setting", "command"]] != "").all(axis=None), file
        keys = [name for name in frame if name not in ("value", "setting", "command")]
        assert not frame.duplicated(keys).any(), f"{file}: two numbers of one place"


def small(folder: Path, template: str) -> Path:
    (folder / "tables").mkdir()
    rows = "network,column,part,value,setting,command\\n"
    rows += "a,p_t,original,0.50,n = 4,make x\\na,p_t,weighted,0.70,n = 4,make x\\n"
    rows += "b,p_t,original,0.25,n = 4,make x\\nb,y_t,most,3,n = 4,make x\\n"
    (folder / "tables" / "t.csv").write_text(rows.replace("\\n", "\n"))
    (folder / "results.md.j2").write_text(template)
    return folder / "results.md.j2"


def test_a_table_and_a_sentence_by_hand(tmp_path: Path) -> None:
    sentence = '{{ value("t", "a", column="p_t", part="weighted") }}'
    page = docs.document(small(tmp_path, "{{ table('t', {'most': '**{}**'}) }}\n" + sentence))
    assert page.splitlines() == [
        "| network | p_t | y_t |",
        "| --- | ---: | ---: |",
        "| a | 0.50 / 0.70 |  |",
        "| b | 0.25 | **3** |",
        "0.70",
    ]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ table('u') }}", "no table .*u.csv; there are t"),
        ("{{ figures.absent }}", "results.md.j2: .*'absent'; a sentence's numbers stand in tables/figures.csv"),
        ("{{ value('t', 'c', column='p_t') }}", "t: 0 numbers for .*'network': 'c'"),
    ],
)
def test_what_is_not_there_is_one_line(tmp_path: Path, template: str, message: str) -> None:
    with pytest.raises(WcxError, match=message):
        docs.document(small(tmp_path, template))


def test_without_a_template_it_says_where_it_works(tmp_path: Path) -> None:
    with pytest.raises(WcxError, match="docs=true is for a checkout"):
        docs.write(tmp_path)


def test_every_template_of_a_folder_becomes_its_page(tmp_path: Path) -> None:
    small(tmp_path, "{{ table('t') }}")
    (tmp_path / "other.md.j2").write_text("{{ value('t', 'b', column='y_t', part='most') }}")
    assert docs.write(tmp_path) == [tmp_path / "other.md", tmp_path / "results.md"]
    assert (tmp_path / "other.md").read_text() == "3"


@pytest.fixture
def leaderboard() -> ModuleType:
    """docs/site/leaderboard.py, which is no package's."""
    spec = importlib.util.spec_from_file_location("leaderboard", FOLDER / "site" / "leaderboard.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_leaderboard_is_gathered_from_the_other_tables(leaderboard: ModuleType) -> None:
    frame = leaderboard.gathered()
    committed = FOLDER / "tables" / "leaderboard.csv"
    assert leaderboard.text(frame) == committed.read_text(encoding="utf-8"), "run docs/site/leaderboard.py"
    figures = docs._Tables(FOLDER / "tables").figures()
    assert figures["leaderboard_w"] == f"{leaderboard.concordance(frame):.2f}"


def test_kendalls_w_by_hand(leaderboard: ModuleType) -> None:
    lines = [("a", "x", c, v) for c, v in (("p", 1), ("q", 1))] + [("a", "y", c, v) for c, v in (("p", 2), ("q", 2))]
    same = pd.DataFrame(
        [*lines, ("a", "z", "p", 3), ("a", "z", "q", 3)], columns=["method", "contrast", "column", "value"]
    ).assign(part="mean")
    assert leaderboard.concordance(same) == pytest.approx(1)
    turned = same.assign(value=same["value"].where(same["column"] == "p", 4 - same["value"]))
    assert leaderboard.concordance(turned) == pytest.approx(0)
    agreement = turned[turned["column"] == "q"].assign(column="parts: class agreement, n = 4")
    assert leaderboard.concordance(pd.concat([turned, agreement])) == pytest.approx(0), "without a rank"
