"""An estimate, by CodeCarbon (the extra `codecarbon`): what it assumes that a machine takes, by how busy it is."""

from __future__ import annotations

import logging
import os
import time
from typing import Any, ClassVar

from plumbline.harness.meters.meter import EnergyMeter, Rail, Unavailable

ASKED = "PLUMBLINE_CODECARBON"
UPDATE_S = 0.1  # it has a value whenever it is asked; the load that it multiplies is known by ticks of 10 ms
JOULES = 3.6e6  # of a kWh


class CodeCarbon(EnergyMeter):
    """The memory, processors and GPUs of the machine, as CodeCarbon finds them.

    On request alone: to find them takes it seconds and 70 MiB, in each cell's process.
    """

    estimate: ClassVar[bool] = True

    def open(self) -> Rail:
        if os.environ.get(ASKED, "0") in ("", "0"):
            raise Unavailable(f"no estimate is asked for: {ASKED}=1 asks CodeCarbon for one")
        try:
            import codecarbon
        except ImportError as error:
            raise Unavailable("codecarbon is not installed: pip install 'plumbline[codecarbon]'") from error
        logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
        # offline, as the other tracker asks the network where it is; the country matters for emissions alone
        tracker = codecarbon.OfflineEmissionsTracker(country_iso_code="USA", output_methods=[], log_level="critical")
        tracker.get_detected_hardware()
        self._parts: list[Any] = tracker._hardware  # its own reading of them starts threads, and a file
        for part in self._parts:
            part.start()
        self._joules, self._read_s = 0.0, time.monotonic()
        by = ", ".join(part.description() for part in self._parts)
        about = f"an estimate, not measured: CodeCarbon {codecarbon.__version__} by {by}; what it assumes is in no interval"
        return Rail(" + ".join(type(part).__name__ for part in self._parts), "J", UPDATE_S, 0.0, about=about)

    def read(self) -> float:
        now = time.monotonic()
        lasted_s, self._read_s = now - self._read_s, now
        self._joules += JOULES * sum(part.measure_power_and_energy(lasted_s)[1].kWh for part in self._parts)
        return self._joules
