"""`plumbline check-plugin`: whether a runtime, meter, model or variant that somebody brings keeps to its contract.

What it does with models is seen through the front door: small nets become cells, which a probe checks as in any session.
"""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from plumbline import UnknownName
from plumbline.files import cache_folder
from plumbline.harness import meters, runtimes
from plumbline.harness.cell import Cell
from plumbline.harness.outcomes import UNSUPPORTED, CellEnded
from plumbline.harness.precisions import PRECISIONS
from plumbline.harness.readings import samples_of, value_of
from plumbline.harness.runtimes import Runtime
from plumbline.harness.session import matrix, places
from plumbline.harness.session.client import CellProbe, Connection, NotDescribed, describe
from plumbline.harness.settings import Settings
from plumbline.harness.target import DEVICES
from plumbline.harness.verdicts.qualification import claims
from plumbline.models.compression import variants
from plumbline.models.registry import REGISTRY
from plumbline.models.sources import outside

NETS = ("small_cnn", "mlp")  # convolutions and matrix products, with weights and real pictures that need no download
BATCHES = (3, 1)


@dataclass(frozen=True)
class Claim:
    """One thing that a contract asks for: `wrong` says what was found instead, `skipped` why it does not apply; else it holds."""

    text: str
    wrong: str | None = None
    skipped: str | None = None
    here: bool = False  # skipped for what this machine lacks


def kinds() -> dict[str, dict[str, EntryPoint]]:
    """Return what installed packages announce, by kind."""
    return {
        "runtime": runtimes.announced(),
        "meter": meters.announced(),
        "model": outside.announced(),
        "variant": variants.announced(),
    }


def find(name: str) -> tuple[str, str]:
    """Kind and name of `name` or `kind:name`; our own are found, too. Raises UnknownName."""
    kind, _, bare = name.rpartition(":")
    known = {found: set(names) for found, names in kinds().items()}
    known["runtime"] |= set(runtimes.RUNTIMES)
    known["meter"] |= set(meters.METERS)
    known["model"] |= set(REGISTRY.names())
    known["variant"] |= {variants.DENSE, *variants.TECHNIQUES}
    fits = [found for found, names in known.items() if bare.partition("+")[0] in names and kind in ("", found)]
    if len(fits) == 1:
        return fits[0], bare
    if fits:
        raise UnknownName(f"{bare!r} is a {' and a '.join(fits)}; name it {fits[0]}:{bare}")
    groups = ", ".join(f"plumbline.{found}s" for found in known)
    raise UnknownName(f"no plugin {name!r}; expected the name of an entry point in one of the groups {groups}")


def check(plugins: Iterable[tuple[str, str]], progress: Callable[[str], None]) -> Iterator[tuple[str, str, Iterator[Claim]]]:
    """Kind and name of each plugin, with every claim of its contract, as it turns out."""
    with (
        tempfile.TemporaryDirectory() as folder,
        (Path(folder) / "probe.log").open("wb") as log,
        closing(Connection(log, progress=progress)) as server,
    ):
        for kind, name in plugins:
            yield kind, name, CHECKS[kind](name, server)


def _runtime(name: str, server: Connection) -> Iterator[Claim]:
    try:
        choice = runtimes.find(name)
    except UnknownName as error:
        yield Claim("it loads, and is a Runtime", str(error))
        return
    adapter = choice.adapter
    yield Claim("it loads, and is a Runtime")
    yield Claim("reading it imports neither torch nor its libraries", _imports(adapter))
    yield Claim("what it declares is known", _declared(adapter))
    yield Claim("its libraries are installed", runtimes.missing(adapter))
    for precision in adapter.precisions:
        claims = [
            _cell(Cell(net, "dense", choice.name, precision, batch, 8, adapter.devices[0]), server)
            for net in NETS
            for batch in BATCHES
        ]
        yield from claims
        refused = all(claim.skipped is not None for claim in claims) and not any(claim.here for claim in claims)
        yield Claim(f"it runs something in {precision}", "every cell was refused; leave it out" if refused else None)
    for reference in (f"{name}+{key}={value}" for key, values in adapter.options.items() for value in values[1:]):
        cell = Cell(NETS[0], "dense", reference, adapter.precisions[0], 1, 8, adapter.devices[0])
        yield _cell(cell, server, may_refuse=False)  # an option that it does not take is refused, too


def _model(name: str, server: Connection) -> Iterator[Claim]:
    try:
        if outside.is_outside(name):
            (model,) = describe([name])
            matrix.learn(name, model)
        model = matrix.find(name)
    except (NotDescribed, matrix.MatrixError) as error:
        yield Claim("it is found and says what it is", str(error))
        return
    yield Claim("it is found and says what it is")
    runtime = runtimes.usual(model.format)
    for batch in dict.fromkeys([model.batch] if model.batch else BATCHES):
        yield _cell(Cell(model.name, "dense", runtime, "fp32", batch, model.image_size, "cpu"), server)


def _variant(name: str, server: Connection) -> Iterator[Claim]:
    try:
        variant = variants.find(name)
    except UnknownName as error:
        yield Claim("it loads", str(error))
        return
    yield Claim("it loads")
    for net in NETS:
        try:
            changed = _changed(variant, net)
        except Exception as error:  # noqa: BLE001 - whatever a stranger's variant raises is what is wrong with it
            changed = f"{type(error).__name__}: {error}"
        yield Claim(f"it leaves the net that it is given as it was ({net})", changed)
        for batch in BATCHES:
            yield _cell(Cell(net, name, "eager", "fp32", batch, 8, "cpu"), server)


def _meter(name: str, server: Connection) -> Iterator[Claim]:
    try:
        meter = meters.find(name)
    except UnknownName as error:
        yield Claim("it loads, and is a Meter", str(error))
        return
    yield Claim("it loads, and is a Meter")
    fits = meter.unit in meters.UNITS
    yield Claim("its unit is a base unit", None if fits else f"expected one of {', '.join(meters.UNITS)}, got {meter.unit!r}")
    read: list[float] = []
    for _ in range(3):
        began = meter()
        try:
            began.begin()
            until = time.perf_counter() + 0.05
            while time.perf_counter() < until:
                pass
            read += samples_of(began.end())
        except meters.Unavailable as reason:
            yield Claim("it reads a number, again and again", skipped=f"unavailable here: {reason}")
            return
        except Exception as error:  # noqa: BLE001 - whatever a stranger's meter raises is what is wrong with it
            yield Claim("it reads a number, again and again", f"{type(error).__name__}: {error}")
            return
    wrong = [value for value in read if not isinstance(value, (int, float)) or not math.isfinite(value)]
    yield Claim("it reads a number, again and again", f"expected finite numbers, got {wrong[0]!r}" if wrong else None)
    yield _cell(Cell(NETS[0], "dense", "eager", "fp32", 1, 8, "cpu"), server, meter=name)


CHECKS: dict[str, Callable[[str, Connection], Iterator[Claim]]] = {
    "runtime": _runtime,
    "meter": _meter,
    "model": _model,
    "variant": _variant,
}


def _cell(cell: Cell, server: Connection, *, may_refuse: bool = True, meter: str | None = None) -> Claim:
    """Check what a benchmark asserts of a cell; a runtime that runs otherwise than it was asked to is refused by the probe."""
    text = f"{cell.id} is right, and measured"
    impossible = matrix.impossible(cell)
    if impossible is not None:
        return Claim(text, skipped=impossible.reason, here=True)
    if PRECISIONS[cell.precision].emulated(cell.device_kind, places.of(cell.target).capabilities.cpu_flags):
        return Claim(text, skipped=f"this processor emulates {cell.precision}", here=True)
    settings = Settings(cache=cache_folder(), sampling_s=0.05, warmup_s=0.02, accuracy_images=100, time_limit_s=120)
    probe = CellProbe(server, cell, settings)
    try:
        return Claim(text, next(_wrong(probe, meter), None))
    except CellEnded as end:
        if may_refuse and end.outcome == UNSUPPORTED:
            return Claim(text, skipped=end.reason)
        return Claim(text, f"{end.outcome}: {end.reason}")
    finally:
        probe.close()


def _wrong(probe: CellProbe, meter: str | None) -> Iterator[str]:
    if probe.prepared().parameters < 1:
        yield "it has no parameters"
    yield from (f"not so: {claim.text}: {claim.found}" for claim in claims(probe) if not claim.holds)
    latency, weights = probe.latency(), value_of(probe.memory(), "weights") or 0
    if weights < 1:
        yield f"its weights take {weights} bytes"
    if meter in latency.energy:
        if not latency.energy[meter].samples:
            yield f"in a cell it read nothing: {latency.energy[meter].unavailable}"
    elif meter is not None and latency.telemetry[meter].value is None:
        yield f"in a cell it read nothing: {latency.telemetry[meter]}"


def _imports(adapter: type[Runtime]) -> str | None:
    """Return what importing a runtime's module imports that it should leave to its methods."""
    heavy = sorted({"torch", *adapter.libraries})
    code = f"import sys; import {adapter.__module__}; print(*[name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    return f"it imports {done.stdout.strip()}; import them inside the methods" if done.stdout.strip() else None


def _declared(adapter: type[Runtime]) -> str | None:
    known: dict[str, tuple[Any, Any]] = {
        "precisions": (adapter.precisions, PRECISIONS),
        "devices": (adapter.devices, DEVICES),
        "formats": (adapter.formats, ("torch", "onnx")),
        "runs": ([adapter.runs], ("net", "file")),
    }
    for what, (declared, possible) in known.items():
        strange = [value for value in declared if value not in possible]
        if strange or not declared:
            return f"{what}: expected some of {', '.join(possible)}, got {', '.join(map(repr, declared)) or 'none'}"
    short = [key for key, values in adapter.options.items() if len(values) < 2 or not all(isinstance(v, str) for v in values)]
    if short:
        return f"option {short[0]!r}: expected two or more strings, the usual one first, got {adapter.options[short[0]]!r}"
    return None


def _changed(variant: Callable[[Any], Any], name: str) -> str | None:
    """Whether a variant works in place, or gives another net the second time; imports torch."""
    import torch

    model = matrix.find(name)
    torch.manual_seed(0)
    net = model.instantiate(8).eval()
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    shape = str(net)
    images = torch.randn(2, model.dataset(8).channels, 8, 8)
    with torch.no_grad():
        expected = net(images)
        first, second = variant(net)(images), variant(net)(images)
        same = torch.equal(net(images), expected)
    after = net.state_dict()
    if str(net) != shape or before.keys() != after.keys() or not same:
        return "the net that went in is another one now"
    different = [key for key, tensor in before.items() if not torch.equal(tensor, after[key])]
    if different:
        return f"{different[0]} of the net that went in is another one now"
    return None if torch.equal(first, second) else "applied twice to one net it gives two different ones"
