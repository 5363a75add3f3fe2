"""The words that a verdict may be."""

from __future__ import annotations

PASSED, FAILED, MISSING = "passed", "failed", "missing"
