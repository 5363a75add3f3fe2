"""Processor time."""

from __future__ import annotations

import time

from plumbline.harness.meters.meter import Meter


class CpuTime(Meter):
    """Seconds of processor time, of all threads of the process: how many cores an inference keeps busy."""

    unit = "s"

    def begin(self) -> None:
        self._began = time.process_time()  # os.times() knows ticks of 10 ms only, and shows a short window as 0

    def end(self) -> float:
        return time.process_time() - self._began
