"""How far apart two processors are."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plumbline import compiler
from plumbline.harness.probe import crossing


@pytest.fixture(autouse=True)
def _compiled_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(compiler, "cache_folder", lambda: tmp_path)
    library = crossing._library
    library.cache_clear()
    yield
    library.cache_clear()


def one_processor() -> set[int]:
    return {0}


def many_processors() -> set[int]:
    return set(range(crossing.MANY + 1))


def test_a_round_trip_takes_less_than_a_microsecond_and_leaves_the_affinity_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    if len(os.sched_getaffinity(0)) < 2 or len(os.sched_getaffinity(0)) > crossing.MANY:
        pytest.skip("takes a machine with 2 to 4 processors")
    monkeypatch.setattr(crossing, "TRIPS", 20)  # a busy machine gives the other player few moments
    before = os.sched_getaffinity(0)
    for _ in range(200):
        if (seconds := crossing.round_trip().value) is not None:
            break
    assert seconds is not None
    assert 1e-9 < seconds < 1e-4
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("processors", "says"), [(one_processor, "there is one processor only"), (many_processors, "it is not known which ones")]
)
def test_of_one_processor_and_of_many_nothing_is_said(
    processors: Callable[[], set[int]], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crossing, "allowed_processors", processors)
    found = crossing.round_trip()
    assert found.value is None
    assert says in (found.unavailable or "")


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossing, "allowed_processors", lambda: {0, 1})
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    assert "no C compiler" in (crossing.round_trip().unavailable or "")


def test_what_the_compiler_says_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise subprocess.CalledProcessError(1, "cc", stderr="first\nno such flag\n")

    monkeypatch.setattr(crossing, "allowed_processors", lambda: {0, 1})
    monkeypatch.setattr(compiler, "library", refuse)
    assert crossing.round_trip().unavailable == "the C compiler refuses crossing.c: no such flag"


def test_another_processor_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossing, "allowed_processors", lambda: {0, 1})
    monkeypatch.setattr(crossing, "_library", lambda: type("L", (), {"plumbline_round_trip": staticmethod(lambda *_: -1.0)}))
    assert crossing.round_trip().unavailable == "the other processor did not answer"
