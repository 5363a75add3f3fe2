"""Debian's Chromium, driven by Playwright: for the report's tests, its measurement, and pictures of it in the documentation.

`python -m tests.browser report.html docs/pictures/default.png --height 1330` makes README's, of a report of the default tier.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 1280, 900
READY = "#filters"  # of a report: shown when its scripts have run


def missing() -> str | None:
    """Say why there is no browser here; None where there is one."""
    if shutil.which("chromium") is None:
        return "there is no chromium here"
    try:
        import playwright  # noqa: F401
    except ImportError as error:
        return str(error)
    return None


@contextmanager
def chromium() -> Iterator[Any]:
    """Start Chromium without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield started
        started.close()


def screenshot(page: Path, picture: Path, height: int = HEIGHT) -> None:
    """Save what a browser shows first of a report."""
    with chromium() as started:
        shown = started.new_page(viewport={"width": WIDTH, "height": height})
        shown.goto(page.resolve().as_uri())
        shown.wait_for_selector(READY)
        shown.screenshot(path=picture)


def main() -> None:
    """Take a picture of a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--height", type=int, default=HEIGHT, help=f"pixels (default: {HEIGHT})")
    arguments = parser.parse_args()
    screenshot(arguments.page, arguments.picture, arguments.height)


if __name__ == "__main__":
    main()
