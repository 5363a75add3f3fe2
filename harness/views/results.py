"""A run as a page of docs/results: what was measured, where and when, and the evaluation matrix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from plumbline.harness.machine import described
from plumbline.harness.record import Record
from plumbline.harness.settings import Settings
from plumbline.harness.views.table import matrix
from plumbline.texts import duration


def page(records: Sequence[Record], title: str) -> str:
    """Return Markdown that names date, machine, revision and settings. Nothing in it is typed by hand."""
    facts = {
        "measured": _dates(records),
        "by revision": ", ".join(dict.fromkeys(str(record.revision) for record in records)),
        "on": "; ".join(dict.fromkeys(_machine(record) for record in records if record.machine.id)),
        "cells": ", ".join(f"{count} {outcome}" for outcome, count in Counter(record.outcome for record in records).items()),
        "which took": duration(sum(record.seconds for record in records)),
        "settings": settings_of(records[0].settings),
    }
    lines = [f"- {name}: {text}" for name, text in facts.items() if text]
    head = ["<!-- made by `plumbline results`; do not edit -->", f"# {title}", "", *lines, ""]
    return "\n".join([*head, "```", matrix(records), "```", ""])


def _dates(records: Sequence[Record]) -> str:
    days = sorted({record.started_at[:10] for record in records})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def _machine(record: Record) -> str:
    here = record.machine
    memory = f"{here.memory_bytes / 2**30:.0f} GiB"
    return f"{described(here)}, {memory}, {here.system} {here.kernel}, Python {here.python}, {here.threads} threads"


def settings_of(settings: Settings) -> str:
    """Say what differs from the usual settings."""
    usual = Settings()
    changed = (name for name in settings.__struct_fields__ if getattr(settings, name) != getattr(usual, name))
    return ", ".join(f"{name} {getattr(settings, name)}" for name in changed)
