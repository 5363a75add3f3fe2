"""A target: a place, which is where a probe runs, and a device there."""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from plumbline import PlumblineError

DEVICES = ("cpu", "cuda")
DEVICE = re.compile(r"cpu|cuda(:\d+)?")
HERE = ""  # the name of the place that is this machine


class BadTarget(PlumblineError, ValueError):
    """A target that is written otherwise than `DEVICE`, `PLACE` or `PLACE@DEVICE`."""


class Target(NamedTuple):
    """`place` is HERE or a name of targets.toml, `device` what torch calls it there."""

    place: str
    device: str

    @classmethod
    @cache
    def parse(cls, text: str) -> Target:
        """Read `DEVICE` (here), `PLACE` (its cpu) or `PLACE@DEVICE`. Raises BadTarget."""
        if DEVICE.fullmatch(text):
            return cls(HERE, text)
        place, _, device = text.rpartition("@") if "@" in text else (text, "", "cpu")
        if not place or not DEVICE.fullmatch(device):
            raise BadTarget(f"expected a target as cpu, cuda:1, PLACE or PLACE@cuda:1, got {text!r}")
        return cls(place, device)
