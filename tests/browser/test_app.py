"""The page of `wcx app` in headless Chromium: upload, question, changed answer, download, odd uploads, two visitors.

`make test-browser` installs what it needs. The page runs in a process of its own, with a small network of random weights.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from tests.test_photo import noise

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make test-browser")
pytest.importorskip("gradio", reason="gradio is not installed: make test-browser")

WIDTHS = [1280, 390]
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
SLOW = 120_000  # ms; this machine may be busy


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("page")
    environment = os.environ | {"TMPDIR": str(folder)}
    command = [sys.executable, "-m", "wcx.cli", "app", "model.weights=random", "port=0", "device=cpu"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().split()[0]
        left = [
            path
            for path in folder.glob("wcx-app-*/**/*")
            if path.is_file() and path.stat().st_size and path.suffix != ".png"
        ]
        process.terminate()
    assert left == [], "an upload, or another file than the drawn birds"
    assert not [*folder.glob("wcx-app-*"), *folder.glob("gradio*")]


@pytest.fixture
def visit(browser, address: str) -> Iterator:
    """A function that opens the page in a window; a console error or a request to another host fails the test."""
    wrong, hosts, contexts = [], set(), []

    def visit(width: int = 1280):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, accept_downloads=True))
        page = contexts[-1].new_page()
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        page.set_default_timeout(SLOW)
        page.goto(address)
        page.locator("#examples img").first.wait_for()
        return page

    yield visit
    for context in contexts:
        context.close()
    assert wrong == []
    assert hosts <= {urlsplit(address).netloc, ""}, "'': data and blob"


def photograph(name: str = "photo.png", seed: int = 0) -> dict[str, object]:
    buffer = io.BytesIO()
    noise((120, 100), seed=seed).save(buffer, Path(name).suffix[1:].replace("jpg", "jpeg"))
    return {"name": name, "mimeType": "image/png", "buffer": buffer.getvalue()}


def drop(page, file: dict[str, object]) -> None:
    page.locator("#photograph input[type=file]").set_input_files(file)


def question(page) -> str:
    return page.locator("#answer h2").inner_text()


def choose(page, element: str, text: str) -> None:
    """Type into a list and take what is found."""
    field = page.locator(f"#{element} input")
    field.click()
    field.fill(text)
    page.locator(f"#{element} [role=option]").filter(has_text=text).first.click()


@pytest.mark.parametrize("width", WIDTHS)
def test_upload_question_changed_answer_download(visit, width: int, tmp_path: Path) -> None:
    page = visit(width)
    drop(page, photograph())
    page.locator("#answer h2").wait_for()
    first = question(page)
    names = re.fullmatch(r"Why (.+), and not (.+)\?", first).groups()
    likeliest = [line.inner_text().split("\n") for line in page.locator("#likeliest li").all()]
    assert [name for name, _ in likeliest[:2]] == list(names)
    before = page.locator("#answer .after .numbers").first.inner_text().partition(" →")[0]
    assert likeliest[0][1] == before, "one form on the whole page"
    assert page.locator("#answer .pair").count() == 6
    assert page.locator("#command").inner_text().count("photo.png") == 1
    sizes = page.locator("#answer img").evaluate_all(
        "(all) => all.map((i) => [i.naturalWidth, i.getBoundingClientRect().right])"
    )
    assert all(natural > 0 and right <= width for natural, right in sizes)

    foil = next(name for name in ("red-foot shore plover", "fan-crest blue jay") if name not in first)
    before = page.locator("#answer .pair img").first.get_attribute("src")
    choose(page, "foils", foil)
    page.locator("#answer h2", has_text=foil).wait_for()
    assert page.locator("#answer .pair img").first.get_attribute("src") != before
    choose(page, "method", "input_x_gradient")
    page.locator("#answer .sentence", has_text="input x gradient").first.wait_for()
    assert foil in question(page)

    page.locator("#files a").first.wait_for()
    for link in page.locator("#files a").all():
        with page.expect_download() as download:
            link.click()
        download.value.save_as(tmp_path / download.value.suggested_filename)
    files = {path.suffix: path for path in tmp_path.iterdir()}
    assert set(files) == {".png", ".pdf", ".npz"}
    with np.load(files[".npz"]) as arrays:
        assert arrays["weighted"].shape == (2, 3, 96, 96)
    assert Image.open(files[".png"]).width > 1000
    assert page.evaluate(OVERFLOW) <= 0


@pytest.mark.parametrize("width", WIDTHS)
def test_a_drawn_bird_and_the_slider(visit, width: int) -> None:
    page = visit(width)
    page.locator("#examples img").nth(2).click()
    page.locator("#answer h2").wait_for()
    shares = page.locator("#answer .after small")
    whole = shares.first.inner_text()
    number = page.locator("#strongest input[type=number]")
    number.fill("40")
    number.press("Enter")
    page.locator("#answer .sentence", has_text="most strongly").first.wait_for()
    assert shares.first.inner_text() != whole
    assert "strongest=0.4" in page.locator("#command").inner_text()
    assert page.evaluate(OVERFLOW) <= 0


@pytest.mark.parametrize("width", WIDTHS)
def test_an_odd_upload_is_a_line_and_the_next_one_is_answered(visit, width: int) -> None:
    page = visit(width)
    drop(page, {"name": "words.jpg", "mimeType": "image/jpeg", "buffer": b"no image"})
    line = page.locator("#line [role=alert]", has_text="words.jpg")
    line.wait_for()
    assert "not an image file" in line.inner_text()
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    drop(page, {"name": "telephone.jpg", "mimeType": "image/jpeg", "buffer": heic})
    page.locator("#line [role=alert]", has_text="HEIC").wait_for()
    drop(page, photograph("after.jpg"))
    page.locator("#answer h2").wait_for()
    assert page.locator("#line [role=alert]").count() == 0
    assert page.evaluate(OVERFLOW) <= 0


def test_mistakes_in_the_form_are_lines(visit) -> None:
    page = visit()
    drop(page, photograph())
    page.locator("#answer h2").wait_for()
    for element, text, message in (
        ("target", "a penguin", "no class 'a penguin'"),
        ("network", "resnet1888", "unknown network"),
    ):
        field = page.locator(f"#{element} input")
        field.fill(text)
        field.press("Enter")
        page.locator("#line [role=alert]", has_text=message).wait_for()


def test_two_visitors_have_each_their_own_answer(visit) -> None:
    pages = [visit(), visit()]
    for seed, page in enumerate(pages):
        drop(page, photograph(f"of_visitor_{seed}.png", seed))
    for seed, page in enumerate(pages):
        page.locator("#command", has_text=f"of_visitor_{seed}.png").wait_for()
    choose(pages[0], "target", "red-foot shore plover")
    choose(pages[1], "target", "fan-crest blue jay")
    pages[0].locator("#answer h2", has_text="Why red-foot shore plover").wait_for()
    pages[1].locator("#answer h2", has_text="Why fan-crest blue jay").wait_for()
    for seed, page in enumerate(pages):
        assert f"of_visitor_{seed}.png" in page.locator("#command").inner_text()
