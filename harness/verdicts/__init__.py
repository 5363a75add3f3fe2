"""Verdicts: words about facts and records. Pure: no torch, no pytest, no processes."""
