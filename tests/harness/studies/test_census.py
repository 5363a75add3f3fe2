"""All counts of all models, side by side."""

from __future__ import annotations

import pytest

from plumbline import models


def test_a_formula_that_is_wrong_makes_the_census_red(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from plumbline.harness.studies import census
    from plumbline.models.layers import linear

    honest = models.find("mlp")
    wrong = replace(honest, layers=lambda **_: [linear("linear0", 64, 10)])
    monkeypatch.setattr(models, "find", lambda reference: wrong)
    (line,) = census.wrong(census.take([("mlp", 8)], lambda text: None))
    assert line.startswith("mlp at 8 pixels: the formula gives {'parameters': 650, 'macs': 640}")
