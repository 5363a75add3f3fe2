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
from plumbline.harness.plugin.options import pytest_addoption
from plumbline.harness.plugin.report import Report
from plumbline.harness.session import matrix, places
from plumbline.harness.verdicts.budget import BadBudget

__all__ = [
    "batch", "budget", "cell", "counter", "image_size", "model", "precision", "probe", "pytest_addoption", "runtime", "target",
    "variant",
]  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("numprocesses", None) or hasattr(config, "workerinput"):
        raise pytest.UsageError(
            "pytest -n measures several cells at once, on the same cores, and would ruin all of their numbers; run without -n"
        )
    if not __debug__ and config.getoption("assertmode") == "plain":
        raise pytest.UsageError(
            "python -O leaves out the assertions that pytest does not rewrite, and with them every check of a benchmark; "
            "run without -O ($PYTHONOPTIMIZE), or without --assert=plain"
        )
    try:
        bench = Bench(config)
    except (matrix.MatrixError, places.BadPlace, BadBudget) as error:
        raise pytest.UsageError(str(error)) from error
    config.pluginmanager.register(bench, "plumbline-bench")
    if (file := config.getoption("report")) is not None:
        config.pluginmanager.register(Report(file, bench.run_dir), "plumbline-report")
