"""The report: every section, full, partial or empty; nothing from outside; nothing unescaped; bounded in size."""

from __future__ import annotations

import base64
import hashlib
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path, PurePath

import pandas as pd
import pytest
import torch
from matplotlib.text import Text
from PIL import Image

from tests.report import shards
from tests.report.results_folder import CONTRASTS, NASTY, SUBSET, full, picture, switch
from wcx import records
from wcx.cli import main as command_line
from wcx.experiments.images import Item
from wcx.experiments.masking import Settings
from wcx.experiments.pictures import Picture, View
from wcx.records import Shard
from wcx.report import page as pages
from wcx.report import sections
from wcx.report.page.contents import RecordSet
from wcx.report.page.embedded import Album
from wcx.report.pictures import layouts, selected
from wcx.report.pictures.plate import Plate

SECTIONS = ["masking", "sign_perturbation", "gallery", "photographs", "reproduce", "manifest"]
VOID = {"meta", "img", "br", "hr"}


class Page(HTMLParser):
    """The page's elements; an end tag that closes another element than the last opened one is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        assert len(attrs) == len(dict(attrs)), f"<{tag}> has an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["script"]):
            self.texts.append(data)

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = full(tmp_path_factory.mktemp("results"))
    pages.write(root)
    return root


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / pages.NAME).read_text())


def written(root: Path) -> tuple[Page, list[str]]:
    refused: list[str] = []
    lines = pages.write(root, refused)
    return Page((root / pages.NAME).read_text()), [*lines, *refused]


def test_every_section_is_there_and_filled(page: Page) -> None:
    assert [section["id"] for section in page.all("section")] == SECTIONS
    assert "Nothing here yet" not in page.text
    assert "Left out of this page" not in page.text


def test_what_the_papers_sections_say_of_themselves(folder: Path) -> None:
    """Each field is what it is called: on the screen no command stands among the notes, and a filled section has a state."""
    for section in sections.of_folder(folder):
        assert re.match(r"\d+ (number|network|cell)s?, ", section.state), section.name
        assert any(letter.isdigit() for letter in section.headline[0])
        assert not [line for line in section.to_text().splitlines() if line.startswith(("make ", "wcx "))]
        assert list(section.left_out) == []


def test_nothing_comes_from_outside_and_no_link_is_dead(folder: Path, page: Page) -> None:
    text = (folder / pages.NAME).read_text()
    assert all(image["src"].startswith("data:image/") for image in page.all("img"))
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert all(link["href"][0] == "#" and link["href"][1:] in ids for link in page.all("a"))
    assert not re.search(r"url\(|@import|https?:|<link|<iframe|<object|\bfetch\(", text)
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on") or a == "style"]


def test_the_policy_lets_its_own_style_and_script_run_and_no_other(folder: Path, page: Page) -> None:
    text = (folder / pages.NAME).read_text()
    [policy] = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv")]
    assert policy.startswith("default-src 'none'; img-src data:;")
    for kind in ("style", "script"):
        [own] = re.findall(f"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        assert f"'sha256-{base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()}'" in policy


def test_it_can_be_read_without_seeing_it(page: Page) -> None:
    assert all(image["alt"].strip() and image["width"] and image["height"] for image in page.all("img"))
    assert all(head.get("scope") for head in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    boxes = [a for _, a in page.elements if a.get("class") in ("scroll", "plate")]
    assert all(box["tabindex"] == "0" and box["role"] == "region" and box["aria-label"] for box in boxes)
    assert page.all("html")[0]["lang"] == "en"


def test_table_1_has_its_numbers_intervals_labels_and_the_papers(folder: Path, page: Page) -> None:
    compared = pd.read_csv(folder / "table1_vs_published.csv")
    row = compared.iloc[5]
    low, high = (f"{row[name]:.3f}".removeprefix("0") for name in ("ci_low", "ci_high"))
    assert f"{row['relative_probability']:.3f} {low}–{high}" in page.text
    assert f"{row['published']:.3f}" in page.text
    assert "the paper's vgg16" in page.text
    assert f"n = {row['n']} images" in page.text
    cautions = [a for tag, a in page.elements if tag == "li" and a.get("class") == "caution"]
    assert len(cautions) >= 3  # stand-in weights and subsets
    assert SUBSET in page.text
    assert "weighted beats original in" in page.text
    assert "r = " in page.text
    assert "Localisation" in page.text


def test_values_to_sort_by_are_the_tables_own(folder: Path) -> None:
    frame = pd.read_csv(folder / "table1_paired.csv")
    values = [float(v) for v in re.findall(r'data-value="([^"]+)"', (folder / pages.NAME).read_text())]
    assert set(frame["difference"]) <= {round(value, 6) for value in values}, "the file has six digits"


def test_names_from_files_are_text(page: Page) -> None:
    assert f"is {NASTY}" in page.text
    assert f"Heatmaps of {NASTY}" in page.text
    assert [image["alt"] for image in page.all("img") if NASTY in image["alt"]]
    assert len(page.all("script")) == 1


def test_pictures_say_what_they_are_and_how_they_are_made_again(page: Page) -> None:
    assert "the first 4 with pt2 > 0.1, in random order (seed 0)" in page.text
    assert f"001.jpg is {NASTY}; predicted: {NASTY} 0.600, Auk 0.300" in page.text
    assert "python scripts/gallery.py 'datasets=[cub]' 'models=[vgg16]' 'figures=[fig4]'" in page.text
    assert "Masking the 15% of pixels raises" in page.text
    assert "python run.py image=cat.jpg model=squeezenet1_1" in page.text
    assert "secret" not in page.text  # a photograph's folder is nobody's business


def test_without_a_script_all_contrasts_stand_side_by_side(folder: Path, page: Page) -> None:
    assert len([a for _, a in page.elements if a.get("class") == "switch"]) == 1
    shown = [a["data-contrast"] for _, a in page.elements if "data-contrast" in a]
    assert shown == list(CONTRASTS) * 4  # two images, two classes
    assert not any(a.get("hidden") is None and "hidden" in a for t, a in page.elements if t == "figure")
    assert len(list((folder / "figures" / "cub-vgg16-gradcam").glob("*.jpg"))) == 2 * (1 + 2 * 3)


def test_an_empty_folder_says_how_to_fill_it(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    root = tmp_path / "none yet"
    monkeypatch.setattr("sys.argv", ["scripts/report.py", f"paths.results_dir={root}"])
    command_line("report")
    assert str(root / "report.html") in capsys.readouterr().out
    page = Page((root / pages.NAME).read_text())
    assert [section["id"] for section in page.all("section")] == SECTIONS
    for command in ("wcx table1", "wcx demo", "wcx fig3", "wcx gallery", "wcx image="):
        assert command in page.text
    assert len([a for _, a in page.elements if a.get("class") == "state none"]) == 5


def test_records_are_enough(tmp_path: Path, folder: Path) -> None:
    """The page comes from records: the tables' files may be there or not, or be something else."""
    shards.pair(tmp_path)
    page, lines = written(tmp_path)
    assert "weighted beats original" in page.text
    assert len(lines) == 1
    (tmp_path / "table1.csv").write_text("dataset,model\na,b\n")
    assert written(tmp_path)[0].text == page.text


def test_files_that_cannot_be_read_are_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    shards.pair(tmp_path)
    picture(tmp_path / "gallery" / "a.png", (30, 30)).with_suffix(".json").write_text("[1")
    (tmp_path / "gallery" / "b.png").write_bytes(b"no picture")
    index = switch(tmp_path / "figures" / "x", count=1)
    index.write_text('{"images": [{"truth": "x"}]}')
    page, lines = written(tmp_path)
    for said in ("gallery/a.json is left out", "figures/x/frames.json is left out"):
        assert said in page.text
        assert len([line for line in lines if said in line]) == 1
    assert "gallery/b.png cannot be shown" in page.text
    assert "weighted beats original" in page.text


@pytest.mark.parametrize(
    "facts",
    ['{"images": 3, "predictions": [4]}', '{"images": [{"maps": 3}]}', '{"images": [{"classes": 1, "probabilities": [0.5]}]}',
     '{"sentences": 7}', "[]", "[" * 100_000, "\xff", '{"manifest": 1, "command": ["x"], "images": [null]}'],
)  # fmt: skip
def test_what_is_said_of_a_picture_may_be_anything(tmp_path: Path, facts: str) -> None:
    """A foreign file beside a picture: the picture is shown, and what cannot be said of it is named or left out."""
    picture(tmp_path / "gallery" / "a.png", (30, 30)).with_suffix(".json").write_text(facts, encoding="latin-1")
    picture(tmp_path / "images" / "b.png", (30, 30), {"question": "Why?", "predictions": [{"class": "Auk", "p": 0.5}]})
    page, lines = written(tmp_path)
    assert len(page.all("img")) == 2
    assert "Why?" in page.text
    assert lines[-1].startswith("gallery/a.json") or lines[-1].startswith("report: ")


def test_frames_are_looked_for_in_their_own_folder_only(tmp_path: Path) -> None:
    index = switch(tmp_path / "figures" / "x", count=1)
    picture(tmp_path / "secret.jpg", (8, 8))
    index.write_text(index.read_text().replace('"0.jpg"', '"../../secret.jpg"'))
    page, lines = written(tmp_path)
    assert any("figures/x/secret.jpg cannot be shown" in line for line in lines)
    assert len(page.all("img")) == 2 * len(CONTRASTS)


def test_large_pictures_are_shown_smaller_and_too_many_not_at_all(tmp_path: Path) -> None:
    noise = Image.effect_noise((3200, 1000), 90)
    noise.save(tmp_path / "large.png")
    album = Album(tmp_path)
    shown = album.embed(tmp_path / "large.png")
    assert (shown.width, shown.height) == (1600, 500)
    assert album.notes == ["large.png: shown at 1600 × 500 of 3200 × 1000 pixels"]
    assert album.used < (tmp_path / "large.png").stat().st_size
    small = picture(tmp_path / "small.png", (20, 10))
    assert album.embed(small).source == f"data:image/png;base64,{base64.b64encode(small.read_bytes()).decode()}"
    over = Album(tmp_path, budget=10)
    assert "is not embedded" in over.embed(small).note
    assert (over.used, over.damaged) == (0, []), "a bound, no damage"


def test_commands_are_the_recorded_ones(tmp_path: Path) -> None:
    shard = shards.make(tmp_path, "weighted", settings=Settings(threshold=0.2, mask="equal"))
    recorded = RecordSet(shard, {"command": ["/home/x/scripts/table1.py", "datasets=[cub]", "limit=10"]})
    assert recorded.command == "python scripts/table1.py 'datasets=[cub]' limit=10"
    for argv in (["/usr/bin/pytest", "tests"], [], None, [3]):
        assert RecordSet(shard, {"command": argv}).command == "", "another program's"


def test_protocols_have_tables_of_their_own(tmp_path: Path) -> None:
    for settings in (Settings(), Settings(mask="equal"), Settings(blur_sigma=5.0)):
        shards.pair(tmp_path, settings=settings)
    page, _ = written(tmp_path)
    assert len([a for t, a in page.elements if t == "table" and a.get("class") == "grid"]) == 3


def test_a_new_experiments_table_appears_under_its_name(tmp_path: Path) -> None:
    """Records of an experiment that the report knows nothing of."""
    shard = shards.make(tmp_path, "weighted")
    other = Shard(tmp_path, shard.key, "insertion_deletion", {"settings": {}, "version": 1} | shard.parts, shard.labels)
    other.describe({})
    rows = [
        {"index": i, "id": f"{i}", "label": 0, "skipped": False, "above_threshold": True, "auc": i / 8}
        for i in range(8)
    ]
    records.collect([other], 1, lambda _chunk: [rows], list(rows[0]))
    page, lines = written(tmp_path)
    assert [section["id"] for section in page.all("section")][:3] == [
        "masking",
        "sign_perturbation",
        "insertion_deletion",
    ]
    assert "auc" in page.text
    assert "0.4375" in page.text, "the mean of 0, 1/8 ... 7/8"
    assert len(lines) == 1


def test_a_shorter_quantity_is_headed_by_what_its_part_tells(tmp_path: Path) -> None:
    """`relative_probability_unmasked/t_1` is of a target, as the experiment calls the second part of its other quantities."""
    shard = shards.make(tmp_path, "weighted")
    other = Shard(tmp_path, shard.key, "insertion_deletion", {"settings": {}, "version": 2} | shard.parts, shard.labels)
    other.describe({})
    row = {
        "index": 0,
        "id": "0",
        "label": 0,
        "skipped": False,
        "srg/t_1/blur/logit": 2.0,
        "unmasked/t_1": 0.25,
        "p": 0.5,
    }
    records.collect([other], 1, lambda _chunk: [[row]], list(row))
    written(tmp_path)
    [section] = [section for section in sections.of_folder(tmp_path) if section.name == "insertion_deletion"]
    heads = [[column.name for column in table.grid().columns[: table.grid().labels]] for table in section.tables]
    assert heads == [["method"], ["method", "target"], ["method", "target", "baseline", "value"]]


def test_what_is_left_out_is_told_on_request_where_it_is_much(tmp_path: Path) -> None:
    for limit in range(1, pages.MOST_TOLD + 3):  # of all but one the line is taken
        shards.make(tmp_path, "weighted", parts={"limit": [limit, None, 0]})
    page, _ = written(tmp_path)
    assert f"{pages.MOST_TOLD + 1} sets of records are left out" in page.text
    folds = [a for tag, a in page.elements if tag == "details" and a.get("class") == "note"]
    assert [("open" in fold) for fold in folds] == [False]


def test_a_section_without_good_records_says_how_to_fill_it(tmp_path: Path) -> None:
    (shards.make(tmp_path, "weighted").path / "complete.json").unlink()
    page, _ = written(tmp_path)
    assert "incomplete" in page.text
    assert "wcx table1 datasets=[cub]" in page.text


def test_the_figure_of_selected_images_says_of_which_weights_and_images_they_are() -> None:
    item = Item(0, "a.jpg", 0, torch.rand(3, 16, 16))
    shown = Picture(
        item, ["Auk", "Tern"], torch.tensor([1.0, 0.0]), [0, 1], {View("gradcam", "weighted"): torch.randn(2, 4, 4)}
    )
    plate = Plate(
        "selected",
        [shown],
        {"title": "eight images\nred speaks for it", "weights": "stand-in: x.pth", "subset": SUBSET},
    )
    figure = layouts.plate_figure(plate)
    text = " ".join(artist.get_text().replace("\n", " ") for artist in figure.findobj(Text))
    assert all(words in text for words in ("eight images", "Red speaks for the class", "stand-in: x.pth", SUBSET))


def test_frames_of_an_earlier_run_go(tmp_path: Path) -> None:
    switch(tmp_path, count=2)
    assert switch(tmp_path, count=1) == tmp_path / selected.INDEX
    assert len(list(tmp_path.glob("*.jpg"))) == 1 + 2 * len(CONTRASTS)
    with Image.open(tmp_path / "0.jpg") as image:
        assert image.size == (selected.SIDE, selected.SIDE)


def test_style_and_script_are_package_data(root: Path) -> None:
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["wcx"]
    for name in ("report/page/page.html.j2", "report/page/style.css", "report/page/script.js"):
        assert (root / "wcx" / name).is_file()
        assert any(PurePath(name).match(pattern) for pattern in patterns)
