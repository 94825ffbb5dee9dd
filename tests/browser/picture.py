"""docs/images/app.png: the page of `wcx app` with a drawn bird.

In the environment of `make test-browser`: python -m tests.browser.picture.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

from tests.browser import chromium

FILE = Path(__file__).resolve().parents[2] / "docs" / "images" / "app.png"
BIRD, WIDTH, HEIGHT = 2, 1200, 1290  # the third example; pixels


def main() -> None:
    """Ask about the bird, and take the picture when the answer is whole."""
    from playwright.sync_api import sync_playwright  # here: a run of all tests imports this file, too

    sandbox = [] if os.geteuid() else ["--no-sandbox"]  # root has none
    command = [sys.executable, "-m", "wcx.cli", "app", "port=0", "device=cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, sync_playwright() as playwright:
        address = next(line.split()[0] for line in process.stdout if line.startswith("http"))
        browser = playwright.chromium.launch(executable_path=chromium.find(), args=sandbox)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(address)
        page.locator("#examples img").nth(BIRD).click()
        page.locator("#files a").first.wait_for(timeout=120_000)
        page.mouse.move(0, 0)
        page.evaluate("scrollTo(0, 0)")
        shot = page.screenshot()
        browser.close()
        process.terminate()
    Image.open(io.BytesIO(shot)).convert("RGB").save(FILE, optimize=True)


if __name__ == "__main__":
    main()
