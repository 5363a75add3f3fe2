"""Debian's Chromium, driven by Playwright: for the report's tests, its measurement, and the tutorial's pictures."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
