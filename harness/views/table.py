"""The evaluation matrix: one row a cell, for people. ms, MiB and percent appear only here."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Collection, Sequence

from tabulate import tabulate

from plumbline.harness.cell import AXES
from plumbline.harness.facts import Energy, Latency, Timing
from plumbline.harness.machine import described
from plumbline.harness.outcomes import OK
from plumbline.harness.readings import value_of
from plumbline.harness.record import Record
from plumbline.harness.rows import energy_of
from plumbline.harness.verdicts.realised import explained, verdict
from plumbline.texts import duration, number_of

NOTHING = "-"
SHOWN = 5  # disturbed cells that are named below a table; their rows are marked
# For those without a top-1; which pictures and weights each of them lacks, its record says.
GET_THEM = (
    "plumbline data cifar10 --data ROOT fetches real pictures (mnist, cifar100, ... too), --data ROOT measures on them, "
    "--weights DIR takes trained weights, --weights pretrained published ones"
)


def matrix(records: Sequence[Record], style: str = "simple", per_joule: bool = False) -> str:
    """Return a table of the records with its notes, and below it the models that were counted only.

    Energy is in mJ an inference, or in inferences a joule.
    """
    counted = [record for record in records if record.outcome == OK and record.latency is None]
    measured = [record for record in records if record not in counted]
    parts = [_measured(measured, style, per_joule), "", *notes(measured)] if measured else []
    if variants := [record for record in measured if record.promise]:
        words = "compressed: theoretical gain, and the gain realised in turns with the dense net"
        broken = explained(variants)
        parts += ["", words, "", compressed(variants, style), *([""] if broken else []), *broken]
    if counted:
        words = "counted, not timed: all routes agree" if style == "simple" else "Counted, not timed; all routes agree:\n"
        parts += [*([""] if parts else []), words, _of_records(counted, ["model", "image_size"], ["param\nM", "MAC\nM"], style)]
    return "\n".join(parts)


def _measured(records: Sequence[Record], style: str, per_joule: bool) -> str:
    """Tabulate the cells that were timed; an axis on which all agree is named above instead of in each row."""
    cells = [record.cell for record in records]
    same = [axis for axis in ("variant", "runtime", "target") if len({getattr(cell, axis) for cell in cells}) == 1]
    machines = dict.fromkeys(described(record.machine) for record in records if record.machine.cpu_model)
    head = "; ".join([*machines, *(f"{axis} {getattr(cells[0], axis)}" for axis in same)])
    columns = [name for name in COLUMNS if name != (MILLIJOULES if per_joule else PER_JOULE)]
    table = _of_records(records, [axis for axis in AXES if axis not in same], columns, style)
    return f"{head}\n\n{table}" if head else table


def _of_records(records: Sequence[Record], axes: Sequence[str], columns: Sequence[str], style: str) -> str:
    rows = [[_axis(record, axis) for axis in axes] + [COLUMNS[name](record) for name in columns] for record in records]
    return tabulated(rows, [_HEADERS.get(axis, axis) for axis in axes] + list(columns), LEFT, style)


def compressed(records: Sequence[Record], style: str) -> str:
    """Tabulate the theoretical and the realised gain of each variant; the dense nets among the records have their top-1."""
    heads = [
        "model", "variant", "px", "run as", "M stored", "not zero", "MACs", "effective", "kB on disk", "smaller", "top-1",
        "points lost", "theoretical", "realised", "verdict", "trained in",
    ]  # fmt: skip
    return tabulated([_compressed(record) for record in records], heads, (*LEFT, "run as"), style)


def _compressed(record: Record) -> list[str]:
    cell, promise = record.cell, record.promise
    loss = None if record.accuracy is None else record.accuracy.loss
    seen = [NOTHING if record.top1 is None else f"{record.top1:.2%}", NOTHING if loss is None else f"{100 * loss:+.2f}"]
    named = [cell.model, cell.variant, str(cell.image_size), f"{cell.runtime} {cell.precision} b{cell.batch}"]
    if promise is None:
        return [*named, *[NOTHING] * 6, *seen, *[NOTHING] * 4]
    speedup = None if record.delivery is None else record.delivery.speedup
    return [
        *named,
        f"{promise.parameters_stored / 1e6:.4g}",
        f"{promise.parameters_nonzero / max(1, promise.parameters_dense):.1%}",
        f"{promise.macs / promise.macs_dense:.1%}",
        f"{promise.macs_effective / promise.macs_dense:.1%}",
        NOTHING if promise.bytes is None else f"{promise.bytes / 1e3:.4g}",
        NOTHING if promise.bytes is None else f"{promise.bytes_dense / promise.bytes:.1f}x",
        *seen,
        f"{promise.speedup:.2f}x",
        NOTHING if speedup is None else f"{speedup:.2f}x",
        verdict(record) or NOTHING,
        duration(sum(training["seconds"] for training in promise.trainings)) if promise.trainings else NOTHING,
    ]


def tabulated(rows: Sequence[Sequence[str]], heads: Sequence[str], left: Collection[str], style: str) -> str:
    """Rows under their heads, those in `left` to the left. A column in which no row has anything says nothing, and goes."""
    shown = [index for index in range(len(heads)) if any(row[index] != NOTHING for row in rows)]
    return tabulate(
        [[row[index] for index in shown] for row in rows],
        [heads[index] if style == "simple" else heads[index].replace("\n", " ") for index in shown],
        tablefmt=style,
        disable_numparse=True,
        colalign=["left" if heads[index] in left else "right" for index in shown],
    )


def line(record: Record) -> str:
    """Tell of one cell in one line, for the progress."""
    text = f"{record.id}  {record.outcome}"
    if record.outcome != OK:
        return f"{text}: {textwrap.shorten(record.reason or '', 120, placeholder=' ...')}"
    if record.latency is not None:
        text += f"  {_known(record.latency)} ms {_doubt(record)}"
        text += "".join(f"  ! {remark}" for remark in _remarks(record.latency))
    elif record.counts is not None:
        text = f"{record.cell.model} at {record.cell.image_size} pixels  counted"
        text += f"  {record.counts.parameters / 1e6:.4g} M parameters, {record.counts.macs / 1e6:.4g} M MACs"
    return text if record.top1 is None else f"{text}  top-1 {_top1(record)}"


def notes(records: Sequence[Record]) -> list[str]:
    """Return what the table cannot say in its cells."""
    lines = textwrap.wrap(
        "MACs of one image. error: RMS against float64 as a share of the outputs' spread, in percent of its tolerance. "
        "top-1: with Wilson's 95 % interval and the number of images. p50: median of the model alone, input on the device, "
        "with its 95 % interval (~: warm-up did not become steady). p90, p99: 99 % upper bounds by LoadGen's rule, which "
        "takes 64 and 662 samples; with fewer: few. e2e: host to host. inference: memory beyond what the process held "
        "before (≤: of a runtime that keeps it, what the first one took). waited: time that the cell's threads were ready and "
        "had no processor, as a share; others: the share of its processors that other processes had. A median that is known "
        "to no better than ±10 % is shown by the ends of its interval.",
        width=130,
    )
    emulated = sorted({record.cell.precision for record in records if record.latency and record.latency.emulated})
    for precision in emulated:
        lines.append(
            f"{precision}*: this processor has no {precision} arithmetic; it is emulated, and timed for a few iterations only."
        )
    if any(_top1(record).endswith("'") for record in records):
        lines.append("': top-1 of the same model in another batch.")
    lines += mixed(records) + _of_energy(records)
    missing: dict[str, list[str]] = {}
    without = [record for record in records if _lacks_pictures_or_weights(record)]
    if without:
        lines.append(f"no top-1 in {len(without)} of {len(records)} rows: {GET_THEM}")
    for record in records:
        reason = record.accuracy.unavailable if record.accuracy else None
        if reason and record not in without:
            missing.setdefault(reason, [])
        if record.outcome != OK:
            missing.setdefault(f"{record.outcome}: {record.reason}", []).append(record.id)
        for remark in record.latency.remarks if record.latency else ():
            missing.setdefault(f"!: {remark}", []).append(record.id)
    lines += disturbed(records)
    for reason, ids in missing.items():
        if not ids:
            lines.append(f"no top-1: {reason}")
        else:
            lines.append(f"{ids[0]}{f' and {len(ids) - 1} more' if len(ids) > 1 else ''}: {reason}")
    return lines


def disturbed(records: Sequence[Record]) -> list[str]:
    """Say which cells were disturbed while they were measured, and by what, the worst of each; nothing where none was."""
    found = {record.id: record.latency.disturbed[0] for record in records if record.latency and record.latency.disturbed}
    if not found:
        return []
    shown = [f"{name}: {reason}" for name, reason in list(found.items())[:SHOWN]]
    more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    head = f"! disturbed: {number_of(len(found), 'cell')} of {len(records)}; measure these again when the machine is quiet"
    return [head, *(f"  {line}" for line in (*shown, *more))]


def _of_energy(records: Sequence[Record]) -> list[str]:
    """Say whose energy it is, and where a meter that is there found none."""
    known = filter(None, map(energy_of, records))
    meters = dict.fromkeys(f"{name}, {one.rail}{' (≈: an estimate)' if one.estimate else ''}" for name, one in known)
    lines = [f"energy: of an inference (a batch) beyond the power at rest, 95 % interval; {'; '.join(meters)}"] if meters else []
    lost: dict[str, list[str]] = {}
    for record in records:
        for name, one in record.latency.energy.items() if record.latency else ():
            if one.rail is not None and (reason := one.unavailable):
                lost.setdefault(f"no energy by {name}: {reason}", []).append(record.id)
            for remark in one.remarks:
                lost.setdefault(f"energy by {name}: {remark}", []).append(record.id)
    return lines + [f"{ids[0]}{f' and {len(ids) - 1} more' if len(ids) > 1 else ''}: {text}" for text, ids in lost.items()]


def _lacks_pictures_or_weights(record: Record) -> bool:
    """Whether it would have a top-1 if it were given pictures, or trained weights. A reason of other kinds is the net's own."""
    reason = (record.accuracy.unavailable if record.accuracy else None) or ""
    return bool(reason) and (reason == (record.weights.source if record.weights else None) or "data root" in reason)


def mixed(records: Sequence[Record]) -> list[str]:
    """Warn where a run holds cells that different code has measured; a board that never answered has measured none."""
    revisions = sorted({str(record.revision) for record in records if record.machine.id})
    if len(revisions) < 2:
        return []
    return [f"measured by {len(revisions)} revisions of this project ({', '.join(revisions)}): rows may differ by its changes."]


def _axis(record: Record, axis: str) -> str:
    value = str(getattr(record.cell, axis))
    return value + "*" if axis == "precision" and record.latency and record.latency.emulated else value


def _model(record: Record) -> Timing | None:
    return None if record.latency is None else record.latency.model


def milliseconds(seconds: float | None) -> str:
    """Return three digits of seconds, in ms; of a second and more all of them."""
    return NOTHING if seconds is None else f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:.0f}"


def _median(record: Record) -> str:
    if record.latency is None:
        return NOTHING
    return _known(record.latency) + ("!" if _remarks(record.latency) else "")


def _known(latency: Latency) -> str:
    """Return the median in ms; of one that is not known well only between what."""
    ends = latency.model.interval_s
    return f"{milliseconds(ends[0])}-{milliseconds(ends[1])}" if latency.vague and ends else milliseconds(latency.model.median_s)


def _remarks(latency: Latency) -> list[str]:
    """Return why a figure is not that of the net alone on a quiet machine."""
    again = ", also when it was repeated" if latency.tries > 1 else ""
    return latency.remarks + ([f"disturbed{again}: {', '.join(latency.disturbed)}"] if latency.disturbed else [])


def _doubt(record: Record) -> str:
    if record.latency is None or record.latency.model.interval_s is None:
        return NOTHING
    timing, (low, high) = record.latency.model, record.latency.model.interval_s
    unsteady = "" if timing.steady or record.latency.emulated else "~"
    return f"{unsteady}±{(high - low) / 2 / timing.median_s:.1%}"


def _bound(name: str) -> Callable[[Record], str]:
    def column(record: Record) -> str:
        timing = _model(record)
        if timing is None:
            return NOTHING
        bound = timing.percentiles[name].bound_s
        return "few" if bound is None else "≤" + milliseconds(bound)

    return column


def _top1(record: Record) -> str:
    accuracy = record.accuracy
    if accuracy is None or accuracy.top1 is None or accuracy.interval is None:
        return NOTHING
    low, high = (f"{100 * end:.1f}" for end in accuracy.interval)
    return f"{accuracy.top1:.2%} ({low}-{high}) of {accuracy.images}" + ("'" if accuracy.measured_by else "")


def _error(record: Record) -> str:
    agreement = record.agreement
    return NOTHING if agreement is None else f"{agreement.error / agreement.tolerance:.0%}"


def _parameters(record: Record) -> str:
    return NOTHING if record.counts is None else f"{record.counts.parameters / 1e6:.4g}"


def _macs(record: Record) -> str:
    return NOTHING if record.counts is None else f"{record.counts.macs / 1e6:.4g}"


def _mebibytes(quantity: str) -> Callable[[Record], str]:
    def column(record: Record) -> str:
        value = value_of(record.memory, quantity)
        return NOTHING if value is None else f"{value / 2**20:.3g}" if value < 1000 * 2**20 else f"{value / 2**20:.0f}"

    return column


def _inference_mebibytes(record: Record) -> str:
    """Return what an inference needs; of a runtime that keeps memory what the first one took, which is no less."""
    found = _mebibytes("inference")(record)
    first = _mebibytes("first_inference")(record)
    return found if found != NOTHING or first == NOTHING else f"≤{first}"


def _rate(record: Record) -> str:
    timing = _model(record)
    return (
        NOTHING
        if timing is None
        else f"{timing.images_per_s:.3g}"
        if timing.images_per_s < 1000
        else f"{timing.images_per_s:.0f}"
    )


def _disturbance(quantity: str, shown: str) -> Callable[[Record], str]:
    def column(record: Record) -> str:
        value = None if record.latency is None else value_of(record.latency.disturbance, quantity)
        return NOTHING if value is None else format(value, shown)

    return column


def _energy(shown: Callable[[Energy], tuple[float | None, tuple[float, float] | None]]) -> Callable[[Record], str]:
    def column(record: Record) -> str:
        found = energy_of(record)
        value, interval = (None, None) if found is None else shown(found[1])
        if found is None or value is None or interval is None:
            return NOTHING
        return f"{'≈' if found[1].estimate else ''}{value:.3g} ({interval[0]:.3g}-{interval[1]:.3g})"

    return column


def _milli(energy: Energy) -> tuple[float | None, tuple[float, float] | None]:
    if energy.joules is None or energy.interval is None:
        return None, None
    return energy.joules * 1e3, (energy.interval[0] * 1e3, energy.interval[1] * 1e3)


MILLIJOULES, PER_JOULE = "inference\nmJ", "inferences\n/J"
LEFT = ("model", "variant", "runtime", "precision", "target", "outcome", "verdict")
_HEADERS = {"image_size": "px"}
# A line break in a heading keeps the column narrow on a terminal.
COLUMNS: dict[str, Callable[[Record], str]] = {
    "outcome": lambda record: record.outcome,
    "param\nM": _parameters,
    "MAC\nM": _macs,
    "error": _error,
    "top-1": _top1,
    "first\nms": lambda record: milliseconds(record.latency.first_s if record.latency else None),
    "p50\nms": _median,
    "±": _doubt,
    "p90\nms": _bound("p90"),
    "p99\nms": _bound("p99"),
    "e2e\nms": lambda record: milliseconds(record.latency.with_transfer.median_s if record.latency else None),
    "image\n/s": _rate,
    MILLIJOULES: _energy(_milli),
    PER_JOULE: _energy(lambda energy: (energy.inferences_per_joule, energy.per_joule_interval)),
    "weights\nMiB": _mebibytes("weights"),
    "inference\nMiB": _inference_mebibytes,
    "process\nMiB": _mebibytes("process_peak"),
    "waited": _disturbance("waited", ".1%"),
    "others": _disturbance("others", ".1%"),
}
