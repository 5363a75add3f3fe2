"""Whether a compressed net realises what it saves in theory."""

from __future__ import annotations

from collections.abc import Iterable

from plumbline.harness.record import Record
from plumbline.harness.verdicts.words import PASSED

SIZE = "no smaller"  # the one of EXPLAINED that says nothing of time
KEPT = 0.5  # of the theoretical gain: a variant that realises less is flagged
SLOWER = 0.95  # and so is one that is slower than its dense parent
GAIN = 1.05  # a speed-up from which there is a gain
EXPLAINED = {
    "slower": "takes longer than its dense parent",
    "no faster": "its zeros are multiplied like any number (+sparse leaves them out), or the time goes elsewhere",
    "dense again": "none of its sparse layers was faster than a dense one here, so all of them run dense",
    "under-delivers": "realised gain below 50 % of the theoretical one, that of its MACs",
    SIZE: "its zeros take as much on disk as any number (+sparse leaves them out, +share+huffman codes them)",
}


def shortfalls(record: Record) -> list[str]:
    """Return those of EXPLAINED that hold of a variant; none of a dense model, and of one that realises what it saves.

    An emulator's times are of no processor, and say nothing about a gain.
    """
    promise = record.promise
    if promise is None:
        return []
    speedup, found = None, []
    if record.delivery is not None and record.machine.emulator is None:
        speedup = record.delivery.speedup
    gain = promise.speedup - 1
    if speedup is not None and (speedup < SLOWER or (gain > GAIN - 1 and speedup - 1 < gain * KEPT)):
        dense = record.options.get("sparse_layers") == 0  # chosen when the cell was built
        no_gain = "dense again" if dense else "slower" if speedup < SLOWER else "no faster"
        found.append("under-delivers" if speedup >= GAIN and not dense else no_gain)
    fewer = promise.parameters_nonzero < 0.9 * promise.parameters_dense
    if promise.bytes is not None and fewer and promise.bytes > 0.99 * promise.bytes_dense:
        found.append(SIZE)
    return found


def verdict(record: Record) -> str | None:
    """Return the shortfalls of a variant, or PASSED; None of a dense net, and of a variant of which no speed-up is known."""
    known = record.delivery is not None and record.delivery.speedup is not None and record.machine.emulator is None
    return ", ".join(shortfalls(record)) or (PASSED if known and record.promise is not None else None)


def explained(records: Iterable[Record]) -> list[str]:
    """Explain those words that stand in a table of these records."""
    found = {word for record in records for word in shortfalls(record)}
    return [f"{word}: {meaning}." for word, meaning in EXPLAINED.items() if word in found]
