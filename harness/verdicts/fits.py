"""A straight line through logarithms: how a quantity grows with another one, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from msgspec import Struct

from plumbline.harness.statistics import student

LEAST = 4  # points with two different values of x; of fewer the interval says nothing


class Fit(Struct, frozen=True):
    """y = 10^intercept * x^slope, by least squares of log y on log x.

    `slope_interval` is the slope's 95 % interval, `r2` the share of the variance of log y that the line explains. `deviation` is
    that of the residuals, in powers of ten; `centre` and `spread` are mean and sum of squares of log x, `points` their number.
    Source: Draper and Smith 1998, "Applied Regression Analysis", sections 1.4 and 3.1.
    """

    slope: float
    intercept: float
    slope_interval: tuple[float, float]
    r2: float
    deviation: float
    centre: float
    spread: float
    points: int

    def at(self, x: float) -> float:
        """Return what the line says of x."""
        return 10 ** float(self.intercept + self.slope * math.log10(x))

    def interval(self, x: float) -> tuple[float, float]:
        """Return the 95 % interval of the line at x: of where a mean of many lies, not of single points."""
        return self._around(x, 0.0)

    def prediction(self, x: float) -> tuple[float, float]:
        """Return the 95 % interval of one more point at x (section 1.4)."""
        return self._around(x, 1.0)

    def _around(self, x: float, single: float) -> tuple[float, float]:
        error = self.deviation * math.sqrt(single + 1 / self.points + (math.log10(x) - self.centre) ** 2 / self.spread)
        factor = 10 ** float(student(0.975, self.points - 2) * error)
        return self.at(x) / factor, self.at(x) * factor


def log_log(xs: Sequence[float], ys: Sequence[float]) -> Fit | None:
    """Fit a line to positive numbers, the n-th of each are of one point; None of fewer than LEAST points, or of one x alone."""
    u, v = [math.log10(x) for x in xs], [math.log10(y) for y in ys]
    if len(u) < LEAST or max(u) - min(u) < 1e-9:
        return None
    mean_u, mean_v = fmean(u), fmean(v)
    spread = math.fsum((each - mean_u) ** 2 for each in u)
    slope = math.fsum((a - mean_u) * (b - mean_v) for a, b in zip(u, v)) / spread
    intercept = mean_v - slope * mean_u
    left = math.fsum((b - intercept - slope * a) ** 2 for a, b in zip(u, v))
    whole = math.fsum((b - mean_v) ** 2 for b in v)
    deviation = math.sqrt(left / (len(u) - 2))
    half = student(0.975, len(u) - 2) * deviation / math.sqrt(spread)
    r2 = 1 - left / whole if whole > 0 else 1.0
    return Fit(slope, intercept, (slope - half, slope + half), r2, deviation, mean_u, spread, len(u))
