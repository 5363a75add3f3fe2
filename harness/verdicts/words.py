"""The words that a verdict may be."""

from __future__ import annotations

PASSED, FAILED, MISSING, INCONCLUSIVE = "passed", "failed", "missing", "inconclusive"
