"""Processor time."""

from __future__ import annotations

import os

from plumbline.harness.meters.meter import Meter


class CpuTime(Meter):
    """Seconds of processor time, of all threads of the process: how many cores an inference keeps busy."""

    unit = "s"

    def begin(self) -> None:
        self._began = self._now()

    def end(self) -> float:
        return self._now() - self._began

    @staticmethod
    def _now() -> float:
        times = os.times()
        return times.user + times.system
