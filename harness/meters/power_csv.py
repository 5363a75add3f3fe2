"""A meter of your own, as a wall plug or a laboratory supply, whose program writes a file of time and watts meanwhile."""

from __future__ import annotations

import math
import os
from pathlib import Path
from statistics import median

from plumbline.harness.meters.meter import EnergyMeter, Rail, Unavailable, number

FILE, OFFSET_S = "PLUMBLINE_POWER_CSV", "PLUMBLINE_POWER_CSV_OFFSET_S"
TAIL_BYTES = 4096
STALE = 3  # intervals after which a last row is no reading of now
ROW = "a row each time it has measured: seconds since 1970 UTC, a comma, watts"


class PowerCsv(EnergyMeter):
    """The last row of the file. Its clock is assumed to be this machine's, plus an offset that the user states."""

    unit = "W"

    def open(self) -> Rail:
        if not (name := os.environ.get(FILE)):
            raise Unavailable(f"no external meter: {FILE} names the file that one writes")
        self._file = Path(name)
        offset = os.environ.get(OFFSET_S, "0")
        try:
            self._offset_s = float(offset)
        except ValueError:
            self._offset_s = math.nan
        if not math.isfinite(self._offset_s):
            raise Unavailable(f"{OFFSET_S}: expected seconds, got {offset!r}")
        rows = self._rows()
        gaps = [later[0] - earlier[0] for earlier, later in zip(rows, rows[1:])]
        if not gaps or min(gaps) <= 0:
            raise Unavailable(f"{FILE}: expected two rows at least whose times grow, got {len(rows)} rows; it takes {ROW}")
        self._update_s = median(gaps)
        watts = sorted({row[1] for row in rows})
        step = min((more - less for less, more in zip(watts, watts[1:])), default=0.0)
        self.read()
        about = f"its clock is taken for this machine's, with an offset of {self._offset_s:g} s"
        return Rail("external meter", "W", self._update_s, step, averaged_s=self._update_s, about=about)

    def read(self) -> float:
        written_s, watts = self._rows()[-1]
        age_s = self.clock() - written_s
        if abs(age_s) > max(STALE * self._update_s, 0.5):
            told = f"{age_s:.1f} s old" if age_s > 0 else f"{-age_s:.1f} s in the future"
            raise Unavailable(f"{FILE}: the last row is {told}: it is not written meanwhile, or its clock differs ({OFFSET_S})")
        return watts

    def _rows(self) -> list[tuple[float, float]]:
        """Read the last rows that are complete, by the clock of this machine."""
        try:
            with self._file.open("rb") as file:
                whole = file.seek(0, os.SEEK_END) <= TAIL_BYTES
                file.seek(0 if whole else -TAIL_BYTES, os.SEEK_SET if whole else os.SEEK_END)
                lines = file.read().decode(errors="replace").split("\n")[:-1]
        except OSError as error:
            raise Unavailable(f"{FILE}: the file cannot be read: {error.strerror}") from error
        lines = lines[0 if whole else 1 :]
        if whole and lines and not lines[0][:1].isdigit():
            del lines[0]  # the names of the columns
        rows = []
        for line in lines:
            time_text, comma, watts = line.partition(",")
            if not comma:
                raise Unavailable(f"{FILE}: expected {ROW}; got {line[:40]!r}")
            rows.append((number(time_text, FILE) + self._offset_s, number(watts, FILE)))
        if not rows:
            raise Unavailable(f"{FILE}: no row yet; it takes {ROW}")
        return rows
