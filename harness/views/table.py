"""The evaluation matrix: one row a cell, for people. ms, MiB and percent appear only here."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Collection, Sequence
from typing import Any

from tabulate import tabulate

from plumbline.harness.cell import AXES
from plumbline.harness.facts import Promise
from plumbline.harness.machine import described
from plumbline.harness.outcomes import OK
from plumbline.texts import duration

NOTHING = "-"
KEPT = 0.5  # of the speed that was to be gained: a variant that delivers less is flagged
SLOWER = 0.95  # and so is one that is slower than its dense parent
EXPLAINED = {  # of promises that are not kept
    "slower": "takes longer than its dense parent",
    "no faster": "its zeros are multiplied like any number (+sparse leaves them out), or the time goes elsewhere",
    "dense again": "none of its sparse layers was faster than a dense one here, so all of them run dense",
    "half the gain": "becomes faster, by less than half of what the products that it saves promise",
    "no smaller": "its zeros take as much on disk as any number (+sparse leaves them out, +share+huffman codes them)",
}
# For those without a top-1; which pictures and weights each of them lacks, its record says.
GET_THEM = (
    "plumbline data cifar10 --data ROOT fetches real pictures (mnist, cifar100, ... too), --data ROOT measures on them, "
    "--weights DIR takes trained weights, --weights pretrained published ones"
)
Record = dict[str, Any]


def matrix(records: Sequence[Record], style: str = "simple") -> str:
    """A table of the records with its notes, and below it the models that were counted only."""
    counted = [record for record in records if record["outcome"] == OK and record["latency"] is None]
    measured = [record for record in records if record not in counted]
    parts = [_measured(measured, style), "", *notes(measured)] if measured else []
    if variants := [record for record in measured if record.get("promise")]:
        words = "compressed: promised, and delivered in turns with the dense net"
        broken = explained(variants)
        parts += ["", words, "", compressed(variants, style), *([""] if broken else []), *broken]
    if counted:
        words = "counted, not timed: all routes agree" if style == "simple" else "Counted, not timed; all routes agree:\n"
        parts += [*([""] if parts else []), words, _of_records(counted, ["model", "image_size"], ["param\nM", "MAC\nM"], style)]
    return "\n".join(parts)


def _measured(records: Sequence[Record], style: str) -> str:
    """An axis on which all cells agree is named above the table instead of in each row."""
    cells = [record["cell"] for record in records]
    same = [axis for axis in ("variant", "runtime", "target") if len({cell[axis] for cell in cells}) == 1]
    machines = dict.fromkeys(described(record["machine"]) for record in records if record["machine"].get("cpu_model"))
    head = "; ".join([*machines, *(f"{axis} {cells[0][axis]}" for axis in same)])
    table = _of_records(records, [axis for axis in AXES if axis not in same], list(COLUMNS), style)
    return f"{head}\n\n{table}" if head else table


def _of_records(records: Sequence[Record], axes: Sequence[str], columns: Sequence[str], style: str) -> str:
    rows = [[_axis(record, axis) for axis in axes] + [COLUMNS[name](record) for name in columns] for record in records]
    return tabulated(rows, [_HEADERS.get(axis, axis) for axis in axes] + list(columns), LEFT, style)


def compressed(records: Sequence[Record], style: str) -> str:
    """What each variant promises, and whether it keeps that; the dense nets among the records have their top-1."""
    heads = [
        "model", "variant", "px", "run as", "M stored", "not zero", "MACs", "effective", "kB on disk", "smaller", "top-1",
        "points lost", "promised", "delivered", "kept", "trained in",
    ]  # fmt: skip
    return tabulated([_compressed(record) for record in records], heads, (*LEFT, "run as"), style)


def _compressed(record: Record) -> list[str]:
    cell, accuracy, told = record["cell"], record["accuracy"] or {}, record.get("promise")
    top1, loss = accuracy.get("top1"), accuracy.get("loss")
    seen = [NOTHING if top1 is None else f"{top1:.2%}", NOTHING if loss is None else f"{100 * loss:+.2f}"]
    run_as = f"{cell['runtime']} {cell['precision']} b{cell['batch']}"
    named = [cell["model"], cell["variant"], str(cell["image_size"]), run_as]
    if not told:
        return [*named, *[NOTHING] * 6, *seen, *[NOTHING] * 4]
    promise, speedup = Promise(**told), (record.get("delivery") or {}).get("speedup")
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
        kept(record),
        duration(sum(training["seconds"] for training in promise.trainings)) if promise.trainings else NOTHING,
    ]


def tabulated(rows: Sequence[Sequence[str]], heads: Sequence[str], left: Collection[str], style: str) -> str:
    """Rows under their heads, those in `left` to the left. A column in which no row has anything says nothing, and goes."""
    kept = [index for index in range(len(heads)) if any(row[index] != NOTHING for row in rows)]
    return tabulate(
        [[row[index] for index in kept] for row in rows],
        [heads[index] if style == "simple" else heads[index].replace("\n", " ") for index in kept],
        tablefmt=style,
        disable_numparse=True,
        colalign=["left" if heads[index] in left else "right" for index in kept],
    )


def line(record: Record) -> str:
    """One cell in one line, for the progress."""
    text = f"{record['cell']['id']}  {record['outcome']}"
    if record["outcome"] != OK:
        return f"{text}: {textwrap.shorten(record['reason'], 120, placeholder=' ...')}"
    if record["latency"] is None:
        text = f"{record['cell']['model']} at {record['cell']['image_size']} pixels  counted"
        text += f"  {record['counts']['parameters'] / 1e6:.4g} M parameters, {record['counts']['macs'] / 1e6:.4g} M MACs"
    else:
        text += f"  {_milliseconds(record)} ms {_doubt(record)}" + "".join(f"  ! {remark}" for remark in _remarks(record))
    if record["accuracy"] and record["accuracy"]["top1"] is not None:
        text += f"  top-1 {_top1(record)}"
    return text


def notes(records: Sequence[Record]) -> list[str]:
    """What the table cannot say in its cells."""
    lines = textwrap.wrap(
        "MACs of one image. error: RMS against float64 as a share of the outputs' spread, in percent of its tolerance. "
        "top-1: with Wilson's 95 % interval and the number of images. p50: median of the model alone, input on the device, "
        "with its 95 % interval (~: warm-up did not become steady). p90, p99: 99 % upper bounds by LoadGen's rule, which "
        "takes 64 and 662 samples; with fewer: few. e2e: host to host. inference: memory beyond what the process held "
        "before. switched: involuntary context switches; waiting: share of time in which a process of this machine had to "
        "wait for a processor. Both are other processes' doing: where they are high, measure again.",
        width=130,
    )
    emulated = sorted({record["cell"]["precision"] for record in records if _latency(record, "emulated")})
    for precision in emulated:
        lines.append(
            f"{precision}*: this processor has no {precision} arithmetic; it is emulated, and timed for a few iterations only."
        )
    if any(_top1(record).endswith("'") for record in records):
        lines.append("': top-1 of the same model in another batch.")
    lines += mixed(records)
    missing: dict[str, list[str]] = {}
    without = [record for record in records if _lacks_pictures_or_weights(record)]
    if without:
        lines.append(f"no top-1 in {len(without)} of {len(records)} rows: {GET_THEM}")
    for record in records:
        reason = (record["accuracy"] or {}).get("unavailable")
        if reason and record not in without:
            missing.setdefault(reason, [])
        if record["outcome"] != OK:
            missing.setdefault(f"{record['outcome']}: {record['reason']}", []).append(record["cell"]["id"])
        for remark in _remarks(record):
            missing.setdefault(f"!: {remark}", []).append(record["cell"]["id"])
    for reason, ids in missing.items():
        if not ids:
            lines.append(f"no top-1: {reason}")
        else:
            lines.append(f"{ids[0]}{f' and {len(ids) - 1} more' if len(ids) > 1 else ''}: {reason}")
    return lines


def _lacks_pictures_or_weights(record: Record) -> bool:
    """Whether it would have a top-1 if it were given pictures, or trained weights. A reason of other kinds is the net's own."""
    reason = str((record["accuracy"] or {}).get("unavailable") or "")
    return bool(reason) and (reason == (record.get("weights") or {}).get("source") or "data root" in reason)


def _axis(record: Record, axis: str) -> str:
    value = str(record["cell"][axis])
    return value + "*" if axis == "precision" and _latency(record, "emulated") else value


def _latency(record: Record, *keys: str) -> Any:
    value = record["latency"]
    for key in keys:
        if value is None:
            return None
        value = value[key]
    return value


def _remarks(record: Record) -> list[str]:
    """Why its latency is not that of the net alone; none in the records of earlier versions."""
    return (record["latency"] or {}).get("remarks", [])


def _milliseconds(record: Record, *keys: str) -> str:
    seconds = _latency(record, *(keys or ("model", "median_s")))
    return NOTHING if seconds is None else f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:.0f}"


def _doubt(record: Record) -> str:
    interval, median = _latency(record, "model", "interval_s"), _latency(record, "model", "median_s")
    if interval is None:
        return NOTHING
    unsteady = "" if _latency(record, "model", "steady") or _latency(record, "emulated") else "~"
    return f"{unsteady}±{(interval[1] - interval[0]) / 2 / median:.1%}"


def _bound(name: str) -> Callable[[Record], str]:
    def column(record: Record) -> str:
        if record["latency"] is None:
            return NOTHING
        if _latency(record, "model", "percentiles", name, "bound_s") is None:
            return "few"
        return "≤" + _milliseconds(record, "model", "percentiles", name, "bound_s")

    return column


def _top1(record: Record) -> str:
    accuracy = record["accuracy"]
    if accuracy is None or accuracy["top1"] is None:
        return NOTHING
    low, high = (f"{100 * end:.1f}" for end in accuracy["interval"])
    return f"{accuracy['top1']:.2%} ({low}-{high}) of {accuracy['images']}" + ("'" if accuracy["measured_by"] else "")


def _error(record: Record) -> str:
    agreement = record["agreement"]
    return NOTHING if agreement is None else f"{agreement['error'] / agreement['tolerance']:.0%}"


def _count(name: str, unit: float) -> Callable[[Record], str]:
    return lambda record: NOTHING if record["counts"] is None else f"{record['counts'][name] / unit:.4g}"


def _mebibytes(name: str) -> Callable[[Record], str]:
    def column(record: Record) -> str:
        value = (record["memory"] or {}).get(name)
        return NOTHING if value is None else f"{value / 2**20:.3g}" if value < 1000 * 2**20 else f"{value / 2**20:.0f}"

    return column


def _rate(record: Record) -> str:
    rate = _latency(record, "model", "images_per_s")
    return NOTHING if rate is None else f"{rate:.3g}" if rate < 1000 else f"{rate:.0f}"


def _share(name: str) -> Callable[[Record], str]:
    def column(record: Record) -> str:
        value = _latency(record, "doubt", name)
        return NOTHING if value is None else f"{value:.1%}"

    return column


def broken_promises(record: Record) -> list[str]:
    """Those of `EXPLAINED` that hold of a variant; none of a dense model, and of one that keeps what it promises."""
    if not record.get("promise"):
        return []
    promise, delivered, broken = Promise(**record["promise"]), (record.get("delivery") or {}).get("speedup"), []
    gain = promise.speedup - 1
    if delivered is not None and (delivered < SLOWER or (gain > 0.05 and delivered - 1 < gain * KEPT)):
        dense = (record.get("options") or {}).get("sparse_layers") == 0  # chosen when the cell was prepared
        no_gain = "dense again" if dense else "slower" if delivered < SLOWER else "no faster"
        broken.append("half the gain" if delivered >= 1.05 and not dense else no_gain)
    fewer = promise.parameters_nonzero < 0.9 * promise.parameters_dense
    if promise.bytes is not None and fewer and promise.bytes > 0.99 * promise.bytes_dense:
        broken.append("no smaller")
    return broken


def kept(record: Record) -> str:
    """Whether a variant keeps what it promises, in plain words."""
    return ", ".join(broken_promises(record)) or ("yes" if (record.get("delivery") or {}).get("speedup") else NOTHING)


def mixed(records: Sequence[Record]) -> list[str]:
    """A warning where a resumed run holds cells that different code has measured."""
    revisions = {record["machine"]["git_revision"] for record in records}
    if len(revisions) < 2:
        return []
    names = ", ".join(sorted(str(revision)[:7] for revision in revisions))
    return [f"measured by {len(revisions)} revisions of this project ({names}): rows may differ by its changes."]


def explained(records: Sequence[Record]) -> list[str]:
    """What those words mean that stand in a table."""
    found = {word for record in records for word in broken_promises(record)}
    return [f"{word}: {meaning}." for word, meaning in EXPLAINED.items() if word in found]


def _switches(record: Record) -> str:
    value = _latency(record, "doubt", "involuntary_switches")
    return NOTHING if value is None else str(value)


LEFT = ("model", "variant", "runtime", "precision", "target", "outcome", "kept")
_HEADERS = {"image_size": "px"}
# A line break in a heading keeps the column narrow on a terminal.
COLUMNS: dict[str, Callable[[Record], str]] = {
    "outcome": lambda record: str(record["outcome"]),
    "param\nM": _count("parameters", 1e6),
    "MAC\nM": _count("macs", 1e6),
    "error": _error,
    "top-1": _top1,
    "first\nms": lambda record: _milliseconds(record, "first_s"),
    "p50\nms": lambda record: _milliseconds(record) + ("!" if _remarks(record) else ""),
    "±": _doubt,
    "p90\nms": _bound("p90"),
    "p99\nms": _bound("p99"),
    "e2e\nms": lambda record: _milliseconds(record, "with_transfer", "median_s"),
    "image\n/s": _rate,
    "weights\nMiB": _mebibytes("weights_bytes"),
    "inference\nMiB": _mebibytes("peak_bytes"),
    "process\nMiB": _mebibytes("process_peak_bytes"),
    "switched": _switches,
    "waiting": _share("cpu_pressure"),
}
