"""A reading: what one instrument says of one quantity. Memory, disturbance, machine state and meters all give readings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

UNITS = ("s", "byte", "J", "W", "Hz", "°C", "1")  # base units, and 1 for a count or a share


class Reading(Struct, frozen=True):
    """Values of a quantity, or why there are none.

    `unit` is one of UNITS. `scope` says whose quantity it is: `inference`, `process`, `machine` or `model`. `values` holds one
    value, read over the whole window, or samples at `rate_hz`. `inferences` is how many fell into the window, where it is a
    window of inferences. `unavailable` is the reason why there are no values.
    """

    unit: str
    scope: str
    values: list[float] = []
    rate_hz: float | None = None
    inferences: int | None = None
    unavailable: str | None = None

    @property
    def value(self) -> float | None:
        """The one value, or the last sample; None where it is unavailable."""
        return self.values[-1] if self.values else None


Readings = dict[str, Reading]  # by quantity


def read(unit: str, scope: str, value: float | None, reason: str = "this system does not tell") -> Reading:
    """Make a reading of one value; None is unavailable for that reason."""
    return Reading(unit, scope, unavailable=reason) if value is None else Reading(unit, scope, [value])


def value_of(readings: Mapping[str, Reading] | None, quantity: str) -> float | None:
    """Return the value of a quantity; None where it was not read or is unavailable."""
    found = (readings or {}).get(quantity)
    return None if found is None else found.value


def samples_of(values: float | Sequence[float]) -> list[float]:
    """Return what a meter returned, one number or several, as a list."""
    return [float(value) for value in values] if isinstance(values, Sequence) else [float(values)]
