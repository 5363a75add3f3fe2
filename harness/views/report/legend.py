"""What the names of variants mean: of each technique that occurs in them what its registry says of it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from plumbline import UnknownName
from plumbline.models.compression import variants
from plumbline.models.compression.variants import Technique, Variant

UNKNOWN = "not known to this plumbline: a technique of another package, or of another version"


@cache
def chain(name: str) -> Variant | None:
    """Return the chain of a variant; None where this plumbline does not know its technique, as of a package that is not here."""
    try:
        return variants.find(name)
    except UnknownName:
        return None


def legend(names: Iterable[str]) -> dict[str, str]:
    """Return of each technique in these variants, as it is written, what it does, with those options that one of them sets."""
    techniques: dict[str, Technique] = {}
    options: dict[str, dict[str, None]] = {}
    unknown: dict[str, str] = {}
    for name in dict.fromkeys(names):
        found = chain(name)
        if found is None:
            unknown[name] = UNKNOWN
            continue
        for step in found.steps:
            one = techniques.setdefault(step.technique.name, step.technique)
            own = options.setdefault(one.name, {})
            own.update(
                dict.fromkeys(key for key, usual in one.options.items() if key != one.amount and step.options[key] != usual)
            )
    known = sorted(techniques.values(), key=lambda one: _place(one.name))
    return {f"{one.name}{'N' if one.amount else ''}": _words(one, options[one.name]) for one in known} | unknown


def _words(technique: Technique, options: Iterable[str]) -> str:
    number = [] if technique.amount is None else [f"N: its {technique.amount}, in percent"]
    return ". ".join([technique.summary, *number, *(_option(technique, name) for name in options)]) + "."


def _option(technique: Technique, name: str) -> str:
    values = " or ".join(technique.choices.get(name, (name.upper(),)))
    return (
        f"+{name}={values}: {technique.options[name]} unless it is said" if technique.options[name] != "" else f"+{name}={values}"
    )


def _place(name: str) -> int:
    return list(variants.TECHNIQUES).index(name) if name in variants.TECHNIQUES else len(variants.TECHNIQUES)
