"""From `matrix.toml` and the options of the command line to cells.

A tier is a list of blocks; a block is the cross product of its axes. An option selects from the tier, and adds
what the tier does not have: `--batch 8` runs the tier's cells of batch 8, or, where it has none, all of its cells
at batch 8. A model that the tier does not have takes the tier's `others`, and an image size that it does not have
goes to the models that take it, unless an option named the models.

Of several options every combination of what they name is measured: the tier's cells that have the values together, or, where
it has none, those that have as many of them as can be found, with the rest put in their place. Where models are named, that
holds for each of them; else for the models of the tier together. What is added so and is impossible is left out, and said so
(`left_out`), if every value of it is measured in another cell; if not, it is a cell, and a red one: whatever was named is
measured, or there is a reason in the place of a figure.

A precision that this processor emulates is for small nets: larger ones are left out (`emulated`), unless model and precision are
named together.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from plumbline import PlumblineError, UnknownName, models
from plumbline.harness import runtimes
from plumbline.harness.cell import AXES, Cell, shown_model
from plumbline.harness.outcomes import UNAVAILABLE, UNSUPPORTED
from plumbline.harness.precisions import PRECISIONS
from plumbline.harness.session import places
from plumbline.harness.settings import Settings
from plumbline.harness.target import DEVICES, BadTarget, Target
from plumbline.models.registry import REGISTRY
from plumbline.texts import NotText, read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "matrix.toml"
Block = Mapping[str, tuple[Any, ...]]
BLOCKS = ("cells", "counted")
# Of a batch, in a tier whose arithmetic is emulated: 0.03 s an inference (bf16 without AVX-512 makes 1 GMAC a second).
EMULATED_MACS = 30e6
UNKNOWN_MACS = 2e9 / 224**2  # a pixel, of a model without a formula
# What a tier may say besides its cells, with the type; they are fields of Settings, or read by the plugin.
TIER_KEYS: dict[str, tuple[Any, ...]] = {
    "warmup_s": (int, float),
    "sampling_s": (int, float),
    "energy_s": (int, float),
    "min_samples": (int,),
    "accuracy_images": (int, str),
    "train_minutes": (int, float),
    "time_limit_s": (int, float),
    "memory_limit_bytes": (int,),
    "may_not_fit": (bool,),
}
MAY_BE_0 = ("accuracy_images", "energy_s", "train_minutes", "may_not_fit")


class MatrixError(PlumblineError, ValueError):
    """Something in the matrix file or an option is not right; the message says where, what it expected and what it got."""


@dataclass(frozen=True)
class Impossible:
    """Why a cell cannot run: `unsupported` whatever the machine, `unavailable` on this one; `axis` is to blame."""

    outcome: str
    axis: str
    reason: str


@dataclass(frozen=True)
class Tier:
    name: str
    blocks: tuple[Block, ...]
    counted: tuple[Block, ...] = ()
    others: Block = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    may_not_fit: bool = False

    def apply(self, settings: Settings) -> Settings:
        return replace(settings, **self.settings)


def load(path: Path) -> dict[str, Tier]:
    """Return the tiers of a matrix file, by name. Raises MatrixError with file, line and key."""
    try:
        text = read_text(path)
    except OSError as error:
        raise MatrixError(f"{path}: cannot be read: {error.strerror}") from error
    except NotText as error:
        raise MatrixError(f"{path}, {error}") from error
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise MatrixError(f"{path}: {error}") from error

    def wrong(keys: Sequence[str | int], message: str) -> MatrixError:
        return MatrixError(f"{path}, line {_line(text, keys)}, {_dotted(keys)}: {message}")

    for key in tables:
        if key != "tier":
            raise wrong([key], "unknown key; a matrix file holds [tier.NAME] tables only")
    if not isinstance(tables.get("tier"), dict) or not tables["tier"]:
        raise MatrixError(f"{path}: has no tiers; expected at least one [tier.NAME]")
    tiers = {}
    for name, table in tables["tier"].items():
        if not isinstance(table, dict):
            raise wrong(["tier", name], f"expected a table [tier.{name}], got {table!r}")
        settings = {
            key: _setting(key, value, wrong, ["tier", name, key])
            for key, value in table.items()
            if key not in ("others", *BLOCKS)
        }
        if not table.get("cells"):
            raise wrong(["tier", name], f"has no cells; expected at least one [[tier.{name}.cells]]")
        blocks = {kind: _blocks(table.get(kind, []), wrong, ["tier", name, kind]) for kind in BLOCKS}
        (others,) = _blocks([table.get("others", {})], wrong, ["tier", name, "others"], needs_model=False)
        may_not_fit = bool(settings.pop("may_not_fit", False))
        tiers[name] = Tier(name, blocks["cells"], blocks["counted"], others, settings, may_not_fit)
    return tiers


Wrong = Callable[[Sequence["str | int"], str], MatrixError]


def _setting(key: str, value: Any, wrong: Wrong, where: Sequence[str | int]) -> Any:
    if key not in TIER_KEYS:
        raise wrong(where, f"unknown key; known: {', '.join((*BLOCKS, 'others', *TIER_KEYS))}")
    if key == "accuracy_images" and isinstance(value, str):
        if value != "all":
            raise wrong(where, f"expected a number of images or 'all', got {value!r}")
        return None
    kinds = TIER_KEYS[key]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise wrong(where, f"expected {' or '.join(kind.__name__ for kind in kinds)}, got {value!r}")
    if value < 0 or (value == 0 and key not in MAY_BE_0):
        raise wrong(where, f"expected more than 0, got {value!r}")
    return value


def _blocks(tables: Any, wrong: Wrong, where: Sequence[str | int], needs_model: bool = True) -> tuple[Block, ...]:
    if not isinstance(tables, list) or not all(isinstance(block, dict) for block in tables):
        raise wrong(where, f"expected [[{_dotted(where)}]] tables, got {tables!r}")
    for number, block in enumerate(tables):
        here = [*where, number] if needs_model else where
        for axis, values in block.items():
            _check_axis(axis, values, wrong, here)
        if needs_model != ("model" in block):
            raise wrong(
                here, "a block of cells needs a model" if needs_model else "says how other models are measured; it names none"
            )
    return tuple({axis: tuple(values) for axis, values in block.items()} for block in tables)


def _check_axis(axis: str, values: Any, wrong: Wrong, where: Sequence[str | int]) -> None:
    if axis not in AXES:
        raise wrong([*where, axis], f"unknown key; known: {', '.join(AXES)}")
    if not isinstance(values, list) or not values:
        raise wrong([*where, axis], f"expected a list of values, got {values!r}")
    for value in values:
        try:
            check(axis, value)
        except MatrixError as error:
            raise wrong([*where, axis], str(error)) from error


def check(axis: str, value: Any) -> None:
    """Raise MatrixError unless `value` is one that the axis knows."""
    if axis in ("batch", "image_size"):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise MatrixError(f"expected a whole number from 1, got {value!r}")
    elif axis == "model":
        if models.kind_of(str(value)) == "registered":  # the probe is asked for those, when they are to run
            find(value)
    elif axis == "runtime":
        _runtime(value)
    elif axis == "variant":
        _variant(value)
    elif axis == "target":
        _place(value)
    elif value not in PRECISIONS:
        raise MatrixError(f"no precision {value!r}; known: {', '.join(PRECISIONS)}")


def check_all(axes: Mapping[str, Iterable[Any]]) -> None:
    """Raise MatrixError unless all values are such."""
    for axis, values in axes.items():
        for value in values:
            check(axis, value)


def _place(target: Any) -> places.Place:
    """Return the place of a target. Raises MatrixError."""
    try:
        return places.of(str(target))
    except (BadTarget, places.BadPlace) as error:
        raise MatrixError(str(error)) from error


def places_of(tier: Tier, options: Mapping[str, Sequence[Any]]) -> list[str]:
    """Return the names of the places of a tier's cells under the options."""
    blocks = (block for given in (*tier.blocks, *tier.counted) for block in _one_model_each(given))
    targets = options.get("target") or [target for block in blocks for target in block["target"]]
    return list(dict.fromkeys(_place(target).name for target in targets))


def expand(tier: Tier, options: Mapping[str, Sequence[Any]]) -> list[Cell]:
    """Return the cells of a tier to be measured under the options, without repeats.

    Model after model as the options name them, else in the order of the file.
    """
    return _without_emulated(_resolve(tier, options)[0], options)[0]


def emulated(tier: Tier, options: Mapping[str, Sequence[Any]]) -> list[Cell]:
    """List the cells left out on this processor: software stands in for their arithmetic, and their nets are not small."""
    return _without_emulated(_resolve(tier, options)[0], options)[1]


def _without_emulated(cells: list[Cell], options: Mapping[str, Sequence[Any]]) -> tuple[list[Cell], list[Cell]]:
    """Return the cells that are measured, and those that are left out.

    What model and precision name together is measured, and what is the only cell of a value that was named.
    """
    if "model" in options and "precision" in options:
        return cells, []
    fast = [cell for cell in cells if not _too_slow(cell)]
    wanting = unmeasured(fast, options)
    out = [cell for cell in cells if _too_slow(cell) and not any((axis, getattr(cell, axis)) in wanting for axis in options)]
    left = set(out)
    return [cell for cell in cells if cell not in left], out


@cache
def _too_slow(cell: Cell) -> bool:
    if not PRECISIONS[cell.precision].emulated(cell.device_kind, places.of(cell.target).capabilities.cpu_flags):
        return False
    formula = find(cell.model).formula(cell.image_size) if unfit(find(cell.model), cell.image_size) is None else ()
    macs = UNKNOWN_MACS * cell.image_size**2 if formula is None else sum(layer.macs for layer in formula)
    return cell.batch * macs > EMULATED_MACS


def left_out(tier: Tier, options: Mapping[str, Sequence[Any]]) -> dict[Cell, Impossible]:
    """Return what the options would add to a tier, cannot be, and is no cell, as all that it names is measured in others."""
    return _resolve(tier, options)[1]


def unmeasured(cells: Iterable[Cell], options: Mapping[str, Sequence[Any]]) -> set[tuple[str, Any]]:
    """Return the named values, as pairs of axis and value, of which no cell is worth trying."""
    if not options:
        return set()
    named = {(axis, value) for axis, values in canonical(options).items() for value in values}
    return named - {(axis, getattr(cell, axis)) for cell in cells if _refused(cell) is None for axis in options}


def canonical(options: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """Return the options with every value by the name that it has in a cell, each once. Raises MatrixError."""
    return {axis: list(dict.fromkeys(_canonical(axis, value) for value in values)) for axis, values in options.items()}


def _resolve(tier: Tier, options: Mapping[str, Sequence[Any]]) -> tuple[list[Cell], dict[Cell, Impossible]]:
    """Return the cells, and what was left out."""
    blocks = [block for given in tier.blocks for block in _one_model_each(given)]
    if not options:
        return _cells(blocks), {}
    options = canonical(options)
    axes = [axis for axis in AXES if axis in options and axis != "model"]
    groups = [_of_model(blocks, name, tier) for name in options["model"]] if "model" in options else [blocks]
    combinations = [dict(zip(axes, values)) for values in itertools.product(*(options[axis] for axis in axes))]
    cells = {cell: None for group in groups for named in combinations for cell in _with(group, named, "model" in options)}
    own = set(_cells(blocks))
    refused = {cell: reason for cell in cells if cell not in own and (reason := _refused(cell)) is not None}
    wanting = unmeasured(cells, options)
    out = {
        cell: reason for cell, reason in refused.items() if all((axis, getattr(cell, axis)) not in wanting for axis in options)
    }
    return [cell for cell in cells if cell not in out], out


def _of_model(blocks: Iterable[Block], name: str, tier: Tier) -> list[Block]:
    """Return a model's blocks in the tier, or what the tier says of others."""
    return [block for block in blocks if name in block["model"]] or list(_one_model_each({**tier.others, "model": (name,)}))


def _with(blocks: Sequence[Block], named: Mapping[str, Any], models_named: bool) -> list[Cell]:
    """Return the cells of one combination of named values.

    Those that have them all, else those that have most with the rest put in their place, else all with all of them; the first of
    these in which anything is possible.
    """
    given = {axis: (value,) for axis, value in named.items()}
    holders = [{**block, **given} for block in blocks if all(value in block[axis] for axis, value in named.items())]
    narrowed = blocks
    for axis, value in named.items():
        narrowed = _choose(narrowed, axis, value, models_named)
    choices = [_cells(choice) for choice in (holders, narrowed, [{**block, **given} for block in blocks]) if choice]
    return next((cells for cells in choices if any(_refused(cell) is None for cell in cells)), choices[0])


def counted(tier: Tier, options: Mapping[str, Sequence[Any]]) -> list[Cell]:
    """Return the cells of a tier whose models are counted only. Options leave some out; none adds to them."""
    if "model" in options:
        return []
    options = canonical(options)
    blocks = [block for given in tier.counted for block in _one_model_each(given)]
    measured = set(expand(tier, options))
    chosen = [cell for cell in _cells(blocks) if all(getattr(cell, axis) in values for axis, values in options.items())]
    return [cell for cell in chosen if cell not in measured]


def _cells(blocks: Iterable[Block]) -> list[Cell]:
    return list(dict.fromkeys(Cell(*values) for block in blocks for values in itertools.product(*(block[axis] for axis in AXES))))


def _one_model_each(block: Mapping[str, tuple[Any, ...]]) -> Iterator[Block]:
    """Make a block for each model: dense, its usual runtime, fp32, batch 1, its usual size, the targets here."""
    here = tuple(device for device in DEVICES if device == "cpu" or places.of(device).capabilities.cuda is None)
    for reference in block["model"]:
        model = find(reference)
        runtime = runtimes.usual(model.format)
        usual: Block = {
            "variant": ("dense",),
            "runtime": (runtime,),
            "precision": ("fp32",),
            "batch": (model.batch or 1,),
            "target": here,
        }
        chosen = {**usual, "image_size": (model.image_size,), **block, "model": (model.name,)}
        yield {**chosen, **{axis: tuple(names) for axis, names in canonical({axis: chosen[axis] for axis in CANONICAL}).items()}}


def _choose(blocks: Sequence[Block], axis: str, value: Any, models_named: bool) -> list[Block]:
    """Return the blocks that have the value, or, where none has it, all of them with it."""
    holders = [block for block in blocks if value in block[axis]]
    if not holders and axis == "image_size" and not models_named:  # what was asked for by name is not left out
        holders = [block for block in blocks if value in find(block["model"][0]).sizes]
    return [{**block, axis: (value,)} for block in holders or blocks]


def impossible(cell: Cell) -> Impossible | None:
    """Return what can be said without running anything. None means that the cell is worth trying."""
    gone = places.of(cell.target).gone
    return _refused(cell) or (None if gone is None else Impossible(UNAVAILABLE, "target", gone))


def _refused(cell: Cell) -> Impossible | None:
    """As `impossible`, of a place that does not answer as of one that can run anything: its cells are known all the same."""
    model, runtime, precision = find(cell.model), runtimes.find(cell.runtime).adapter, PRECISIONS[cell.precision]
    if (unfit := _unfit(cell.model, cell.image_size)) is not None:
        return unfit
    if model.batch not in (None, cell.batch):
        return Impossible(UNSUPPORTED, "batch", f"{cell.model} takes a batch of {model.batch} and no other, got {cell.batch}")
    if model.format not in runtime.formats:
        fits = [name for name, adapter in runtimes.RUNTIMES.items() if model.format in adapter.formats]
        return Impossible(UNSUPPORTED, "runtime", f"{cell.model} is run by {', '.join(fits)}, got {cell.runtime}")
    if cell.variant != models.DENSE and model.file is not None:
        return Impossible(
            UNSUPPORTED, "variant", f"{cell.model} is a file, and is run as it is; expected dense, got {cell.variant}"
        )
    if models.variant(cell.variant).has("sparse") and cell.runtime.partition("+")[0] != "eager":
        return Impossible(UNSUPPORTED, "runtime", f"sparse layers are run by eager, got {cell.runtime}")
    if cell.precision not in runtime.precisions:
        return Impossible(UNSUPPORTED, "precision", f"{cell.runtime} runs {', '.join(runtime.precisions)}, got {cell.precision}")
    if cell.device_kind not in precision.devices:
        return Impossible(
            UNSUPPORTED, "precision", f"{cell.precision} is arithmetic of {', '.join(precision.devices)}, got {cell.target}"
        )
    if cell.device_kind not in runtime.devices:
        return Impossible(UNSUPPORTED, "target", f"{cell.runtime} runs on {', '.join(runtime.devices)}, got {cell.target}")
    place = places.of(cell.target)
    if (gone := place.missing(runtimes.find(cell.runtime))) is not None:
        return Impossible(UNAVAILABLE, "runtime", gone)
    if cell.device_kind == "cuda" and (reason := place.capabilities.cuda) is not None:
        return Impossible(UNAVAILABLE, "target", reason)
    return None


@cache
def _unfit(reference: str, image_size: int) -> Impossible | None:
    return unfit(find(reference), image_size)


def unfit(model: models.Model, image_size: int) -> Impossible | None:
    """Why a model cannot take images of that size, in pixels."""
    if image_size not in model.sizes:
        return Impossible(
            UNSUPPORTED, "image_size", f"{model.name} takes images of {shown(model.sizes)} pixels, got {image_size}"
        )
    try:
        model.formula(image_size)
    except ValueError as error:
        return Impossible(UNSUPPORTED, "model", f"{model.name}: {error}")
    return None


def find(reference: Any) -> models.Model:
    """Return a registered model, or what the probe has said of another one. Raises MatrixError."""
    return _described[reference] if reference in _described else _registered(str(reference))


def _runtime(reference: Any) -> runtimes.Choice:
    """Return a runtime with its options. Raises MatrixError."""
    try:
        return runtimes.find(str(reference))
    except UnknownName as error:
        raise MatrixError(str(error)) from error


def _variant(reference: Any) -> models.Variant:
    """Return a chain of techniques. Raises MatrixError."""
    try:
        return models.variant(str(reference))
    except UnknownName as error:
        raise MatrixError(str(error)) from error


def _target(text: Any) -> Target:
    """Return what a target means: `board@cpu` is `board`."""
    return Target.parse(str(text))


CANONICAL: Mapping[str, Callable[[Any], Any]] = {"runtime": _runtime, "variant": _variant, "target": _target}


def _canonical(axis: str, value: Any) -> Any:
    """Return the name that a value has in a cell. Raises MatrixError."""
    named = find if axis == "model" else CANONICAL.get(axis)
    return value if named is None else named(value).name


def outside(tier: Tier, options: Mapping[str, Sequence[Any]]) -> list[str]:
    """Return the models of a tier or an option that no registry knows, and that only the probe can describe."""
    blocks = (*tier.blocks, *tier.counted)
    named = [*options.get("model", ()), *(reference for block in blocks for reference in block["model"])]
    return unknown(named)


def unknown(names: Iterable[str]) -> list[str]:
    """Return those models, each once, that no registry knows, and of which the probe has not been asked."""
    return [name for name in dict.fromkeys(map(str, names)) if models.kind_of(name) != "registered" and name not in _described]


def learn(reference: str, model: models.Model) -> None:
    """Keep what the probe said of a model from outside, by the words that asked for it and by its name.

    What is shown of two names must differ: the same file, reached by two paths, is one model.
    """
    files = (known for known in _described.values() if known.file is not None and model.file is not None)
    same = (known for known in files if shown_model(known.name) == shown_model(model.name))
    _described[reference] = _described[model.name] = next(same, model)


_described: dict[str, models.Model] = {}


@cache
def _registered(reference: str) -> models.Model:
    try:
        return REGISTRY.find(reference)
    except UnknownName as error:
        raise MatrixError(str(error)) from error


def shown(sizes: Sequence[int]) -> str:
    """Return the image sizes that a model takes, in words."""
    if not isinstance(sizes, range):
        return ", ".join(map(str, sizes))
    return f"{sizes[0]} to {sizes[-1]}" + (f" in steps of {sizes.step}" if sizes.step > 1 else "")


def _dotted(keys: Iterable[str | int]) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).lstrip(".")


def _line(text: str, keys: Sequence[str | int]) -> int:
    """Return the line of a key, counted from 1: the header of its table (of the n-th one, for an array), then the key in it."""
    lines = text.splitlines()
    names = [key for key in keys if isinstance(key, str)]
    number = next((key for key in keys if isinstance(key, int)), 0)
    for depth in range(len(names), 0, -1):
        header = re.compile(r"\[+\s*" + r"\s*\.\s*".join(f'"?{re.escape(name)}"?' for name in names[:depth]) + r"\s*\]+")
        headers = [index for index, line in enumerate(lines) if header.match(line.strip())]
        if headers:
            start = headers[min(number, len(headers) - 1)]
            inner = names[depth] if depth < len(names) else None
            for index in range(start + 1, len(lines)):
                if inner is None or lines[index].lstrip().startswith("["):
                    break
                if re.match(rf'\s*"?{re.escape(inner)}"?\s*=', lines[index]):
                    return index + 1
            return start + 1
    last = re.escape(names[-1])
    return next((index + 1 for index, line in enumerate(lines) if re.match(rf'\s*\[*"?{last}\b', line)), 1)
