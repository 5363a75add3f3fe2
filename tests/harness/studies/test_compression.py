"""The study of compression: its tables and limits, and nets that are written to files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from plumbline.harness.cli import main
from plumbline.harness.facts import Promise
from plumbline.harness.machine import here
from plumbline.harness.messages import Compress
from plumbline.harness.outcomes import CellEnded
from plumbline.harness.record import Record
from plumbline.harness.session.matrix import FILE, expand, load
from plumbline.harness.settings import Settings
from plumbline.harness.studies import compress, compression
from plumbline.harness.studies.compression import DEEP, SMALL, THIN, tables
from plumbline.harness.verdicts.limits import Limit
from plumbline.models import find as model
from plumbline.models.compression import stored
from tests.records import accuracy_of, cell_of, prepared_of, record_of, replace


def record(variant: str, nonzero: int = 25, stages: dict[str, int] | None = None, top1: float = 0.97) -> Record:
    promise = Promise(100, 100, nonzero, 100, 1000, 1000, 250, 400, 400, stages, [{"epochs": 4, "seconds": 3.0}])
    return record_of(cell_of(variant=variant, batch=32), prepared=prepared_of(promise), accuracy=accuracy_of(top1, loss=0.01))


def test_the_tables_say_what_was_swept_and_what_each_stage_took() -> None:
    stages = {"dense": 40_000, "pruned": 8000, "shared": 3000, "coded": 1250}
    swept = [record("l1+decimals=1+penalty=0.01", 3), record("l1"), record("l1+penalty=0.01", 60, top1=0.5)]
    text = tables([*swept, record("prune90+huffman", stages=stages)])
    rows = [line.split() for line in text.splitlines()]
    assert ["mlp", "8", "4", "0.0001", "-", "75.0%,", "97.00%", "(-1.00)"] in rows
    assert ["mlp", "8", "4", "0.01", "97.0%,", "97.00%", "(-1.00)", "40.0%,", "50.00%", "(-1.00)"] in rows
    assert ["mlp", "prune90+huffman", "40", "8", "3", "1.25", "32.0x"] in rows
    assert "stage by stage" not in tables([record("prune90")])
    assert "revisions" not in text
    other = replace(record("share"), revision="f00dbabe")
    assert "- measured by 2 revisions of this project (5ca1ab1e, f00dbabe): rows may" in tables([*swept, other])


def test_the_tier_says_what_its_cells_were_to_reach() -> None:
    def scores(which: tuple[str, int, str], top1: float | None, loss: float | None, **promised: Any) -> list[str]:
        name, size, variant = which
        told = record(variant).promise
        assert told is not None
        found = record_of(
            cell_of(name, image_size=size, variant=variant),
            prepared=prepared_of(replace(told, **promised)),
            accuracy=None if top1 is None else accuracy_of(top1, loss=loss),
        )
        lines = tables([found]).splitlines()
        return [line.split("  ")[-1].strip() for line in lines[lines.index("Limits") + 4 :]]

    assert scores(DEEP, 0.9, 0.003, bytes_dense=3000, bytes=100) == ["passed", "passed"]
    assert scores(DEEP, 0.9, 0.0031, bytes_dense=3000, bytes=101) == ["failed", "failed"]
    assert scores(DEEP, None, None, bytes=None) == ["missing", "missing"]
    assert scores(THIN, 0.9, 0.01) == ["passed"]
    assert scores(THIN, 0.9, 0.011) == ["failed"]
    assert scores(SMALL, 0.5386, 0.0, bytes=94_000_000) == ["passed", "failed"]
    assert "Limits" not in tables([record(THIN[2])])
    cells = {(cell.model, cell.image_size, cell.variant) for cell in expand(load(FILE)["compression"], {})}
    assert {DEEP, THIN, SMALL} <= cells


def test_goals_are_told_also_when_a_later_part_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*_: Any) -> Any:
        raise ValueError("so")

    parts = {"one": lambda *_: ("first", [Limit("figure", 1, 2, "x")]), "two": fails, "three": lambda *_: ("third", [])}
    monkeypatch.setattr(compression, "PARTS", parts)
    with pytest.raises(ValueError, match="so"):
        compression.report([], None, 0.1, "simple", lambda text: None)
    said = capsys.readouterr().out
    assert "first" in said and "third" not in said
    assert said.split()[-6:] == ["figure", "1x", "at", "least", "2x", "failed"]
    told: list[str] = []
    compression.report(["three"], None, 0.1, "simple", told.append)
    assert capsys.readouterr().out == f"{here()}\n\nthird\n\n"
    assert told == ["three", ""]


@pytest.mark.usefixtures("place")
def test_a_compressed_net_is_written_and_built_again(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, settings = tmp_path / "new" / "mlp.plumbline", Settings(cache=cache)

    def compressed(name: str, variant: str, size: int) -> int:
        request = Compress(cell_of(name, variant=variant, image_size=size), settings, str(out))
        return compress.command(request, print)

    assert compressed("mlp", "prune95+share+bits=4+huffman", 8) == 0
    net = stored.load(model("mlp"), 8, out)
    said = capsys.readouterr().out
    assert f"{sum(int(parameter.count_nonzero()) for parameter in net.parameters()):,} of 2,176,010 parameters left" in said
    assert f"coded: {out.stat().st_size:>13,} bytes" in said
    with pytest.raises(CellEnded, match=r"filter99: .*groups of channels that can be pruned allow"):
        compressed("mlp", "filter99", 8)
    with pytest.raises(CellEnded, match="expected trained weights of squeezenet1_1, got none"):
        compressed("squeezenet1_1", "prune50", 224)


@pytest.mark.parametrize(("came", "code"), [(1.0, 1), (2.0, 0), (None, 0)])
def test_a_missed_limit_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], came: float | None, code: int
) -> None:
    monkeypatch.setattr(compression, "PARTS", {"one": lambda *_: ("first", [Limit("figure", came, 2, "x")])})
    monkeypatch.setattr(sys, "argv", ["plumbline", "compression", "one"])
    assert main() == code
    assert ("beyond the limit: figure" in capsys.readouterr().err) is bool(code)
