"""The pytest plugin: options, the seven axes as fixtures, one hook that sets them, and what is red."""

from __future__ import annotations

import pytest

from plumbline.harness.plugin.bench import Bench
from plumbline.harness.plugin.fixtures import (
    batch,
    budget,
    cell,
    counter,
    image_size,
    model,
    precision,
    probe,
    runtime,
    target,
    variant,
)
from plumbline.harness.plugin.fleet import Fleet, is_of_fleet, members
from plumbline.harness.plugin.options import pytest_addoption
from plumbline.harness.plugin.report import Report
from plumbline.harness.plugin.request import Request
from plumbline.harness.plugin.screen import Terminal
from plumbline.harness.plugin.share import Wire, of_worker
from plumbline.harness.session import matrix, places
from plumbline.harness.verdicts.budget import BadBudget

__all__ = [
    "batch", "budget", "cell", "counter", "image_size", "model", "precision", "probe", "pytest_addoption", "runtime", "target",
    "variant",
]  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    share = of_worker(config)
    asked = any(config.getoption(option, None) for option in ("numprocesses", "tx"))
    if share is None and (asked or hasattr(config, "workerinput")):
        raise pytest.UsageError(
            "pytest -n measures several cells at once, on the same cores, and would ruin all of their numbers; run without -n "
            "(boards that are named by --target are measured at once without it)"
        )
    if not __debug__ and config.getoption("assertmode") == "plain":
        raise pytest.UsageError(
            "python -O leaves out the assertions that pytest does not rewrite, and with them every check of a benchmark; "
            "run without -O ($PYTHONOPTIMIZE), or without --assert=plain"
        )
    try:
        request = Request(config, share)
        named = members(request.options.get("target", ()))
    except (matrix.MatrixError, places.BadPlace, BadBudget) as error:
        raise pytest.UsageError(str(error)) from error
    runs_nothing = config.option.collectonly or config.getoption("plan")
    if share is None and not runs_nothing and (len(named) > 1 or is_of_fleet(request)):
        config.pluginmanager.register(Fleet(config, request, named), "plumbline-fleet")
    else:
        screen = Terminal(config) if share is None else Wire(config)
        config.pluginmanager.register(Bench(config, request, screen, share), "plumbline-bench")
    file, shown = config.getoption("report"), config.getoption("open_report")
    if shown and (file is None or file.suffix.lower() != ".html"):
        raise pytest.UsageError(f"--open-report: expected a --report FILE.html, as a browser shows pages, got {file or 'none'}")
    if share is None and file is not None:
        config.pluginmanager.register(Report(file, request.run_dir, shown), "plumbline-report")
