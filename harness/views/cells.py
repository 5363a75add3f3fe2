"""One cell of a run in detail: its latencies, each labelled by what it is, and the bound below which none can be."""

from __future__ import annotations

from collections.abc import Sequence

from plumbline.harness.facts import Bound, Latency, OnDevice, Timing
from plumbline.harness.journal import RunError
from plumbline.harness.machine import described
from plumbline.harness.outcomes import OK
from plumbline.harness.record import Record
from plumbline.harness.views.table import milliseconds


def select(records: Sequence[Record], words: str | None) -> Record:
    """Find the one cell whose id holds the words. Raises RunError where there is none, or several."""
    exact = [record for record in records if record.id == words]
    found = exact or [record for record in records if words is None or words in record.id]
    if len(found) != 1:
        ids = "\n  ".join(record.id for record in found or records)
        raise RunError(f"expected one cell{f' with {words!r} in its id' if words else ''}, got {len(found)}; known:\n  {ids}")
    return found[0]


def one(record: Record) -> str:
    """Return a cell's outcome, its latencies and its bound, a line each."""
    lines = [record.id, described(record.machine), f"outcome: {record.outcome}{f': {record.reason}' if record.reason else ''}"]
    if record.latency is not None:
        lines += ["", *_latency(record.latency, record.cell.device)]
    if record.bound is not None and record.latency is not None:
        lines += ["", *_bound(record.bound, record.latency)]
    elif record.outcome == OK and record.latency is not None:
        lines += ["", "bound: none in this record, which an earlier plumbline or another test has made"]
    return "\n".join(lines)


def _latency(latency: Latency, device: str) -> list[str]:
    lines = [
        f"one request, waited for, by the host's clock: {_timing(latency.model)}",
        f"the same with transfer, host to host: {_timing(latency.with_transfer)}",
    ]
    return lines if latency.on_device is None else lines + _on_device(latency.on_device, device)


def _on_device(found: OnDevice, device: str) -> list[str]:
    events = f"unavailable: {found.unavailable}" if found.events is None else _timing(found.events)
    return [
        f"one request, waited for, by the clock of {device}: {events}",
        f"pipelined, {found.calls} requests queued and waited for once: {found.images_per_s:.4g} images/s",
    ]


def _timing(timing: Timing) -> str:
    interval = timing.interval_s
    between = "" if interval is None else f" (95 %: {milliseconds(interval[0])} to {milliseconds(interval[1])})"
    return f"median {milliseconds(timing.median_s)} ms{between}, {len(timing.samples_s)} samples"


def _bound(bound: Bound, latency: Latency) -> list[str]:
    if bound.seconds is None or bound.work is None:
        return [f"bound: none: {'; '.join(bound.missing)}"]
    if bound.seconds == 0:
        return ["bound: none: it multiplies nothing"]
    work = bound.work
    times = latency.model.median_s / bound.seconds
    lines = [f"bound: {milliseconds(bound.seconds)} ms; the median is {times:.3g} times its bound"]
    if bound.compute_s is not None and bound.macs_per_s is not None:
        lines.append(
            f"  compute: {milliseconds(bound.compute_s)} ms for {work.macs / 1e6:.4g} M MACs, by the best algorithm "
            f"{work.least_macs / 1e6:.4g} M multiplications, at {bound.macs_per_s / 1e9:.4g} GMAC/s"
        )
    if bound.bandwidth_s is not None and bound.bytes_per_s is not None and bound.cache_bytes is not None:
        lines.append(
            f"  bandwidth: {milliseconds(bound.bandwidth_s)} ms for what caches of {bound.cache_bytes / 2**20:.4g} MiB do not "
            f"hold of {work.weights_bytes / 2**20:.4g} MiB of weights, at {bound.bytes_per_s / 1e9:.4g} GB/s"
        )
    lines += [f"  missing: {reason}" for reason in bound.missing]
    lines.append(f"  peaks: {bound.device}; {bound.source}; {bound.headroom:g} times that is allowed for")
    if bound.measured_again:
        lines.append("  the first peaks did not allow for the latency, and were measured again")
    return lines
