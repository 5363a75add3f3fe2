"""Words for people, and text files as the editors of every system save them."""

from __future__ import annotations

import argparse
import codecs
import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

from plumbline import PlumblineError

# Those of 32 bits first: the little-endian one begins with that of 16. The last two are the first letter of text without a mark.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"), (b"\0", "utf-16-be"),
)  # fmt: skip


# Units of memory and storage, in bytes.
BYTES = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}


class NotText(PlumblineError, ValueError):
    """Bytes that are no text; the message says in which line, counted from 1."""


def read_text(path: Path) -> str:
    """UTF-8, with a byte order mark or without, or UTF-16 or UTF-32 as Windows' tools write them. Raises `NotText`."""
    data = path.read_bytes()
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), "utf-8-sig")
    if encoding == "utf-8-sig" and data[1:2] == b"\0":
        encoding = "utf-16-le"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].decode(encoding, "replace").count("\n") + 1
        raise NotText(f"line {line}: expected text in UTF-8, got bytes that are none; save it as UTF-8") from error


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, in words."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if seconds < 595:
        minutes, tens = divmod(round(seconds / 10), 6)
        return f"{minutes} min {tens}0 s" if tens else f"{minutes} min"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def not_started(command: Sequence[str], error: OSError) -> str:
    """Say why a command was not started."""
    if isinstance(error, FileNotFoundError):
        return f"expected a command {command[0]!r} on this machine, got none; install it, or name another one in targets.toml"
    return f"{command[0]!r} cannot be run on this machine: {error.strerror}"


def positive(text: str) -> float:
    """Read an option that is a number above zero. Raises argparse.ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number > 0, got {text!r}")
    return value


def not_negative(text: str) -> float:
    """Read an option that is a number of 0 or more. Raises argparse.ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number >= 0, got {text!r}")
    return value


def whole_number(text: str) -> int:
    """Read an option that is a whole number above zero. Raises argparse.ArgumentTypeError."""
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected a whole number > 0, got {text!r}")
    return int(text)


def size(count: float) -> str:
    """Return bytes for people, in powers of 1,000: 340 B, 12 MB, 1.2 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.1f} {unit}" if unit == "GB" else f"{count:.0f} {unit}"
        count /= 1000
    raise AssertionError("the last unit takes any size")


def number_of(number: int, thing: str) -> str:
    """Return a number of things: 1 cell, 2 cells."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def nearest(name: str, known: Iterable[str]) -> str:
    """A question after names that are nearly this one; empty where there are none."""
    close = difflib.get_close_matches(name, list(known), n=4, cutoff=0.6)
    return f" (did you mean {', '.join(close)}?)" if close else ""
