"""The report in headless Chromium: no error, nothing wider than the page, sorting, filtering, switching contrasts.

`make test-browser` installs what it needs; elsewhere these tests run where Playwright and Chromium are installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.report.results_folder import CONTRASTS, full
from wcx.report import page as pages

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make test-browser")

OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
WIDE = """() => [...document.querySelectorAll("body *")].filter((e) => {
  const box = e.getBoundingClientRect();
  return box.width && box.right > innerWidth + 1 && !e.closest(".scroll, .plate, .frames, .skip");
}).map((e) => e.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    root: Path = full(tmp_path_factory.mktemp("results"))
    pages.write(root)
    return (root / pages.NAME).as_uri()


@pytest.fixture
def visit(browser, address: str) -> Iterator:
    """A function that opens the report in a window; what the console says or asks of the network fails the test."""
    said, asked, contexts = [], [], []

    def visit(width: int = 1280, **options: object):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url[:60]))
        page.set_default_timeout(120_000)  # ms; this machine may be busy
        page.goto(address)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_nothing_is_wider_than_the_page(visit, width: int, script: bool) -> None:
    page = visit(width, java_script_enabled=script)
    for summary in page.locator("summary").all():
        if summary.locator("xpath=..").get_attribute("open") is None:
            summary.click()
    assert page.evaluate(OVERFLOW) <= 0
    assert page.evaluate(WIDE) == []


def test_dark_and_light(visit) -> None:
    colours = {
        scheme: visit(color_scheme=scheme).evaluate("() => getComputedStyle(document.body).backgroundColor")
        for scheme in ("light", "dark")
    }
    lightness = {scheme: sum(map(int, value[4:-1].split(","))) for scheme, value in colours.items()}
    assert lightness["dark"] < 150
    assert lightness["light"] > 700


def test_columns_are_sorted_up_and_down_by_keyboard_too(visit) -> None:
    page = visit()
    table = page.locator("table.data", has_text="Weighted − original").first
    head = table.locator("th", has_text="weighted − original")
    column = head.evaluate("(head) => head.cellIndex")
    values = f"(table) => [...table.tBodies[0].rows].map((row) => Number(row.cells[{column}].dataset.value))"
    before = table.evaluate(values)
    assert before != sorted(before)
    head.get_by_role("button").click()
    assert table.evaluate(values) == sorted(before)
    assert head.get_attribute("aria-sort") == "ascending"
    head.get_by_role("button").press("Enter")
    assert table.evaluate(values) == sorted(before, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    table.get_by_role("button", name="baseline").click()
    texts = table.locator("tbody tr").evaluate_all("(rows) => rows.map((row) => row.innerText)")
    places = [i for i, text in enumerate(texts) if "blur" in text]
    assert places == list(range(len(places)))
    assert head.get_attribute("aria-sort") is None


def test_rows_and_figures_are_filtered_by_dataset_and_method(visit) -> None:
    page = visit()
    lines, gallery = page.locator("table.grid tbody"), page.locator("#gallery > figure, #gallery .switch")
    cars = page.locator('table.grid tbody[data-dataset="Stanford Cars"]').count()
    counts = lines.count(), gallery.count()
    assert 0 < cars < counts[0]
    page.get_by_label("dataset").select_option("Stanford Cars")
    assert lines.filter(visible=True).count() == cars
    assert gallery.filter(visible=True).count() == 0
    assert "of" in page.locator("output").inner_text()
    page.get_by_label("method").select_option("gradcam")
    assert lines.filter(visible=True).count() == 0
    page.get_by_label("dataset").select_option("")
    assert lines.filter(visible=True).count() == page.locator('table.grid tbody[data-method="gradcam"]').count() > 0
    page.get_by_label("method").select_option("")
    assert lines.filter(visible=True).count() == counts[0]
    assert page.locator("output").inner_text() == ""


def test_contrasts_are_switched_over_the_same_image(visit) -> None:
    page = visit()
    whole = page.locator(".switch")
    first, second = whole.locator(".frames").nth(0), whole.locator(".frames").nth(1)

    def shown(strip) -> list[str]:
        return strip.locator("figure").filter(visible=True).evaluate_all("(all) => all.map((f) => f.dataset.contrast)")

    assert shown(first) == ["weighted"]
    whole.get_by_label("mean").check(force=True)
    assert [shown(strip) for strip in whole.locator(".frames").all()] == [["mean"]] * 4
    place = first.locator("img").filter(visible=True).bounding_box()
    for i, contrast in enumerate(CONTRASTS):
        page.mouse.move(place["x"] + place["width"] * (i + 0.5) / len(CONTRASTS), place["y"] + 20)
        assert shown(first) == [contrast]
        assert shown(second) == ["mean"]
        assert first.locator("img").filter(visible=True).bounding_box() == place
    page.mouse.move(0, 0)
    assert shown(first) == ["mean"]
    whole.get_by_label("mean").press("ArrowRight")
    assert shown(first) == ["weighted"]
    whole.get_by_label("side by side").check(force=True)
    assert shown(first) == list(CONTRASTS)


def test_a_tap_goes_to_the_next_contrast(visit) -> None:
    page = visit(390, has_touch=True, is_mobile=True)
    strip = page.locator(".frames").first
    for contrast in (*CONTRASTS, CONTRASTS[0]):
        strip.locator("img").filter(visible=True).tap()
        assert strip.locator("figure.on").get_attribute("data-contrast") == contrast


def test_without_a_script_everything_is_shown(visit) -> None:
    page = visit(java_script_enabled=False)
    assert page.locator(".switch figure[data-contrast]").filter(visible=True).count() == 4 * len(CONTRASTS)
    assert page.locator("#filters").is_hidden()


def test_on_a_telephone_a_number_comes_first_and_no_number_lies_beyond_the_edge(visit) -> None:
    page = visit(390)
    first = page.locator("header .headline").first
    assert any(letter.isdigit() for letter in first.inner_text())
    assert first.bounding_box()["y"] < 300
    page.evaluate("() => document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    lefts = "(cells) => cells.map((cell) => cell.getBoundingClientRect()).filter((b) => b.width).map((b) => [b.left, b.right])"
    cells = page.locator("table.data tbody .number")
    assert cells.count() > 100
    assert all(left >= 0 and right <= 390 for left, right in cells.evaluate_all(lefts))
    for row in page.locator("table.grid tbody tr:not(.group, .paper)").all():
        edges = row.locator(".number").evaluate_all(lefts)
        assert len(edges) >= 4
        assert all(right <= 390 for _, right in edges[:4]), "two baselines, positive and negative"
