"""The answers: expand a matrix of cells, prove each cell's model right in a fresh process, then measure it."""

from __future__ import annotations
