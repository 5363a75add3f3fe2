"""Where the time of a cell goes, layer by layer, and what another cell does differently: tables for people, from a run."""

from __future__ import annotations

from collections.abc import Iterable

from plumbline.harness.facts import Layers
from plumbline.harness.journal import RunError
from plumbline.harness.record import Record
from plumbline.harness.views import cells
from plumbline.harness.views.table import NOTHING, tabulated

LEFT = ("layer", "operator", "format")
EVERYTHING_ELSE = "everything else"


def select(records: Iterable[Record], words: str | None) -> Record:
    """Find the one cell with layers whose id holds the words. Raises RunError where there is none, or several."""
    with_layers = [record for record in records if record.layers]
    if not with_layers:
        raise RunError("no cell of this run says where its time goes; measure with pytest benchmarks --layers")
    return cells.select(with_layers, words)


def table(record: Record, style: str = "simple") -> str:
    """Return the parts of one inference, in the order in which they ran."""
    found = _layers(record)
    if found.sum_s is None:
        return f"{record.id}\n\nunavailable: {found.unavailable}"
    batch = record.cell.batch
    rows = [
        [
            part.layer or part.name,
            part.operator,
            part.number_format or NOTHING,
            f"{part.seconds * 1e3:.3f}",
            f"{part.seconds / found.sum_s:.1%}",
            f"{part.macs / 1e6:.4g}" if part.macs else NOTHING,
            f"{part.macs * batch / part.seconds / 1e9:.3g}" if part.macs and part.seconds else NOTHING,
        ]
        for part in found.parts
    ]
    heads = ["layer", "operator", "format", "ms", "share", "MAC\nM", "GMAC\n/s"]
    return f"{record.id}\n\n{tabulated(rows, heads, LEFT, style)}\n\n{summary(found)}"


def difference(record: Record, other: Record, style: str = "simple") -> str:
    """Tabulate what two cells of one model do differently, layer by layer."""
    rows = [[name, *_compared(seconds, against)] for name, seconds, against in compared(record, other)]
    heads = ["layer", "ms", "against\nms", "difference\nms", "times\nas fast"]
    title = f"{record.id}\nagainst {other.id}"
    return f"{title}\n\n{tabulated(rows, heads, LEFT, style)}"


def compared(record: Record, other: Record) -> list[tuple[str, float, float]]:
    """Return the seconds of two cells of one model by layer; what belongs to no layer of both and the sum are the last two.

    Raises RunError where it is not known of one of them.
    """
    for one in (record, other):
        if (reason := _layers(one).unavailable) is not None:
            raise RunError(f"{one.id}: {reason}")
    seconds, against = by_layer(record), by_layer(other)
    both = [name for name in against if name in seconds]
    sums = [_layers(one).sum_s or 0.0 for one in (record, other)]
    rest = [whole - sum(by[name] for name in both) for whole, by in zip(sums, (seconds, against))]
    found = [(name, seconds[name], against[name]) for name in both]
    return [*found, (EVERYTHING_ELSE, rest[0], rest[1]), ("sum", sums[0], sums[1])]


def summary(found: Layers) -> str:
    """Put the sum beside the whole, and what it missed where that is more than a tenth."""
    assert found.sum_s is not None and found.whole_s is not None
    share = found.sum_s / found.whole_s
    text = f"sum {found.sum_s * 1e3:.3f} ms of {found.whole_s * 1e3:.3f} ms, {share:.1%} ({found.repeats} inferences)"
    return text if found.missed is None else f"{text}: {found.missed}"


def _layers(record: Record) -> Layers:
    assert record.layers is not None, f"{record.id} was not asked where its time goes"
    return record.layers


def by_layer(record: Record) -> dict[str, float]:
    """Seconds of each layer of the model."""
    seconds: dict[str, float] = {}
    for part in _layers(record).parts:
        if part.layer is not None:
            seconds[part.layer] = seconds.get(part.layer, 0.0) + part.seconds
    return seconds


def _compared(seconds: float, against: float) -> list[str]:
    ratio = f"{against / seconds:.2f}x" if seconds > 0 else NOTHING
    return [f"{seconds * 1e3:.3f}", f"{against * 1e3:.3f}", f"{(seconds - against) * 1e3:+.3f}", ratio]
