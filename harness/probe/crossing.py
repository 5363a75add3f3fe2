"""How far apart two processors are: how long a line of the cache takes from one to the other and back.

A hypervisor may put the processors of a virtual machine beside each other, or on different parts of a chip, and move them while
something is measured. No counter shows it; a net of many small layers takes twice as long, as its threads wait for each other
after each of them.
"""

from __future__ import annotations

import ctypes
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from plumbline import compiler
from plumbline.harness.machine import allowed_processors
from plumbline.harness.readings import Reading, read

SOURCE = Path(__file__).with_suffix(".c")
TRIPS = 300  # of 50 ns to 500 ns each
MANY = 4  # processors from which on it is not known which of them threads use


@cache
def _library() -> Any:
    """Compile crossing.c, or take it from the cache. Raises NoCompiler, OSError and subprocess.CalledProcessError."""
    found = compiler.compiler()
    library = compiler.library(SOURCE, [*found, "-O2", "-pthread", "-fPIC"], [*found, "-pthread"])
    library.plumbline_round_trip.argtypes = [ctypes.c_int] * 3
    library.plumbline_round_trip.restype = ctypes.c_double
    return library


def round_trip() -> Reading:
    """Read how long a line takes between the first and the last processor of this process, in seconds; takes a millisecond."""
    processors = sorted(allowed_processors())
    if len(processors) < 2:
        return read("s", "machine", None, "there is one processor only")
    if len(processors) > MANY:
        return read("s", "machine", None, f"of {len(processors)} processors it is not known which ones the threads use")
    try:
        found = _library().plumbline_round_trip(processors[0], processors[-1], TRIPS)
    except (compiler.NoCompiler, OSError, AttributeError) as error:
        return read("s", "machine", None, str(error))
    except subprocess.CalledProcessError as error:
        return read("s", "machine", None, f"the C compiler refuses {SOURCE.name}: {error.stderr.strip().splitlines()[-1]}")
    return read("s", "machine", found if found > 0 else None, "the other processor did not answer")
