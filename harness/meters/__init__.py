"""What reads a quantity while a cell is timed, and what reads its energy. `meter.py` says what a meter must declare.

`running.py` starts and reads them; it is not imported here, as it takes scipy, and lists of meters do not.
"""

from __future__ import annotations

from plumbline.harness.meters.meter import EnergyMeter as EnergyMeter
from plumbline.harness.meters.meter import Meter as Meter
from plumbline.harness.meters.meter import Rail as Rail
from plumbline.harness.meters.meter import Unavailable as Unavailable
from plumbline.harness.meters.registry import METERS as METERS
from plumbline.harness.meters.registry import announced as announced
from plumbline.harness.meters.registry import find as find
from plumbline.harness.readings import UNITS as UNITS
