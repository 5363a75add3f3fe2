"""The census: every registered model counted by every route, beside what has been published. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tabulate import tabulate

from plumbline import models
from plumbline.harness.facts import Counts
from plumbline.harness.probe.counts import taken

HEADERS = [
    "model",
    "pixels",
    "parameters",
    "MACs, formula",
    "torch's counter",
    "ptflops",
    "what ptflops adds or leaves out",
    "published",
]


def take(pairs: Iterable[tuple[str, int]], progress: Callable[[str], None]) -> dict[tuple[str, int], Counts]:
    """Return the counts of models at image sizes, in pixels."""
    counts = {}
    for reference, image_size in pairs:
        progress(f"counting {reference} at {image_size} pixels")
        counts[reference, image_size] = taken(models.find(reference), image_size)
    return counts


def wrong(counts: dict[tuple[str, int], Counts]) -> list[str]:
    """Return what does not agree, a line each."""
    return [f"{name} at {size} pixels: {one.wrong}" for (name, size), one in counts.items() if one.wrong]


def table(counts: dict[tuple[str, int], Counts], style: str) -> str:
    rows = [
        [
            f"`{name}`" if style == "github" else name,
            str(size),
            f"{one.parameters:,}",
            _macs(one.formula),
            _macs(one.flop_counter),
            _macs(one.ptflops),
            ", ".join(f"{kind} {amount:+,}" for kind, amount in one.explained.items()),
            _published(one),
        ]
        for (name, size), one in counts.items()
    ]
    align = ["left", *["right"] * 5, "left", "left"]
    return tabulate(rows, HEADERS, tablefmt=style, disable_numparse=True, colalign=align)


def _macs(route: dict[str, int] | None) -> str:
    return "none" if route is None else f"{route['macs']:,}"


def _published(counts: Counts) -> str:
    """Each figure of the whole model with its source, and how many of single layers."""
    whole = [figure for figure in counts.published if figure.layer is None]
    sources: dict[str, list[str]] = {}
    for figure in whole:
        sign = "" if figure.agrees else " (!)"
        sources.setdefault(figure.source, []).append(f"{_readable(figure.value)} {figure.metric}{sign}")
    texts = [f"{', '.join(figures)} ({source})" for source, figures in sources.items()]
    layers = sum(figure.layer is not None for figure in counts.published)
    return "; ".join([*texts, *([f"{layers} of its layers"] if layers else [])])


def _readable(value: str) -> str:
    digits, _, exponent = value.partition("e")
    unit = {"": "", "6": " M", "9": " G"}[exponent]
    return f"{int(digits):,}" if not unit else f"{digits}{unit}"
