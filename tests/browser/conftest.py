"""A headless Chromium for the pages."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.browser import chromium


@pytest.fixture(scope="session")
def browser() -> Iterator:
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make test-browser")
    found = chromium.find()
    if found is None:
        pytest.skip(chromium.ABSENT)
    sandbox = [] if os.geteuid() else ["--no-sandbox"]  # root has none
    options = [*sandbox, "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=found, args=options)
        yield started
        started.close()
