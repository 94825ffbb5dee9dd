"""Where Chromium is: WCX_CHROMIUM, one on the PATH, or Playwright's own. Run as a file, it says so, or what to do."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ABSENT = "no Chromium: install one, or name one in WCX_CHROMIUM, or `make test-browser`"


def find() -> str | None:
    """Return the path of a Chromium, or None; Playwright must be there."""
    named = os.environ.get("WCX_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if named:
        return named
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).is_file() else None


if __name__ == "__main__":
    found = find()
    print(found or ABSENT, file=sys.stdout if found else sys.stderr)
    sys.exit(0 if found else 1)
