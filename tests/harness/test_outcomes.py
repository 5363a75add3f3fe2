"""What is told of an exception."""

from __future__ import annotations

import pytest

from plumbline.harness.outcomes import first_line


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("no kernel\nin 300 lines of C++"), "ValueError: no kernel"),
        (RuntimeError("\n  CUDA error  \n"), "RuntimeError: CUDA error"),
        (NotImplementedError(), "NotImplementedError"),  # many a library raises one that says nothing
        (AssertionError(" \n"), "AssertionError"),
    ],
)
def test_an_error_is_told_by_its_type_and_first_line(error: Exception, told: str) -> None:
    assert first_line(error) == told
