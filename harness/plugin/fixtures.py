"""One fixture an axis, and the probe that a test asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from plumbline import models
from plumbline.harness.cell import Cell
from plumbline.harness.session import matrix
from plumbline.harness.session.client import CellProbe
from plumbline.harness.verdicts import budget as budgets


@pytest.fixture
def model(request: pytest.FixtureRequest) -> models.Model:
    """One from outside the registry can only be talked about here; the probe builds it."""
    return matrix.find(request.param)


@pytest.fixture
def variant(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def runtime(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def precision(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def batch(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def image_size(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def target(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def cell(model: models.Model, variant: str, runtime: str, precision: str, batch: int, image_size: int, target: str) -> Cell:
    """Return the cell that all seven axes make."""
    return Cell(model.name, variant, runtime, precision, batch, image_size, target)


@pytest.fixture
def probe(request: pytest.FixtureRequest, cell: Cell) -> CellProbe:
    """Yield the cell's fresh process, to be asked for counts, agreement, accuracy, latency and memory."""
    bench: Any = request.config.pluginmanager.get_plugin("plumbline-bench")
    request.node.keywords["measuring"] = True
    return bench.session.open(cell, matrix.impossible(cell))


@pytest.fixture
def budget(request: pytest.FixtureRequest) -> Callable[[CellProbe], None]:
    """Yield what raises OverBudget where a cell that was measured does not keep to the budget; without one it asks nothing."""
    bench: Any = request.config.pluginmanager.get_plugin("plumbline-bench")

    def keep(probe: CellProbe) -> None:
        found = bench.held(probe)
        request.node.user_properties += [(f"budget: {one.figure}", f"{one.verdict}: {one.words}") for one in found]
        budgets.keep(found)

    return keep


@pytest.fixture
def counter(request: pytest.FixtureRequest, cell: Cell) -> CellProbe:
    """Yield the same for a cell that the tier only counts: to be asked for counts."""
    return request.getfixturevalue("probe")
