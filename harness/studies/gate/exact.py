"""What two revisions say of a cell that is no measurement, and is compared exactly."""

from __future__ import annotations

import math

from msgspec import Struct

from plumbline.harness.facts import Counts, Outputs, Prepared

SAME_FUNCTION = 1e-6  # RMS difference of two revisions in float64, as a share of the outputs' spread: sums in another order


class Facts(Struct):
    """What a side says of a cell before it is timed; `reason` is why it is not. `turn_s` is an inference, in seconds.

    `sources` are what it has loaded: files of its revision, and `import NAME` of packages.
    """

    reason: str | None = None
    counts: Counts | None = None
    prepared: Prepared | None = None
    outputs: Outputs | None = None
    weights_bytes: float | None = None
    turn_s: float = 0.0
    seconds: float = 0.0
    sources: list[str] = []

    def exact(self) -> dict[str, float]:
        """Return the quantities that are compared exactly; where one grows, that is a regression."""
        found: dict[str, float] = {}
        if self.counts is not None:
            found |= {"parameters": self.counts.parameters, "MACs": self.counts.macs}
        if self.prepared is not None:
            if (promise := self.prepared.promise) is not None:
                found |= {"parameters stored": promise.parameters_stored, "effective MACs": promise.macs_effective}
                found |= {} if promise.bytes is None else {"bytes of the net": promise.bytes}
            artefact = {} if self.raced else self.prepared.artefact or {}
            named = {"bytes": "bytes of the file", "nodes": "nodes of its graph"}
            found |= {words: artefact[key] for key, words in named.items() if key in artefact}
        if self.weights_bytes is not None and not self.raced:
            found["bytes of the weights"] = self.weights_bytes
        return found

    @property
    def raced(self) -> bool:
        """Whether a race has chosen which layers are sparse: another one may choose otherwise, and with that other bytes."""
        return self.prepared is not None and "sparse_layers" in self.prepared.options


def function_changed(base: Facts, head: Facts) -> str | None:
    """Say whether the head computes another function than its base, by both their float64 references; None where it does not."""
    if base.outputs is None or head.outputs is None:
        return None
    old, new, spread = base.outputs.reference, head.outputs.reference, base.outputs.spread
    if len(old) != len(new):
        return f"it computes another function than its base: {len(new)} outputs, the base {len(old)}"
    difference = math.sqrt(sum((first - second) ** 2 for first, second in zip(old, new)) / max(1, len(old))) / spread
    if difference <= SAME_FUNCTION:
        return None
    return f"it computes another function than its base: outputs differ by {difference:.2g} of their spread, in float64"


def changes(base: Facts, head: Facts) -> tuple[list[str], list[str]]:
    """Return what grew and what shrank, in words."""
    old, new = base.exact(), head.exact()
    changed = {key: (old[key], new[key]) for key in old if key in new and old[key] != new[key]}
    words = {key: f"{key} {before:,.0f} -> {after:,.0f}" for key, (before, after) in changed.items()}
    grew = [words[key] for key, (before, after) in changed.items() if after > before]
    return grew, [words[key] for key in changed if words[key] not in grew]
