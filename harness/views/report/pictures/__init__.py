"""The pictures of a report: a file a kind, each with `pictures(evidence)`, which returns none where there is nothing to draw."""

from __future__ import annotations

from importlib import import_module

from altair.utils.schemapi import debug_mode

from plumbline.harness.studies.report import Evidence
from plumbline.harness.views.report.picture import Picture

# The files, in the order of their pictures on the page.
KINDS = ("tradeoffs", "scaling", "compression", "layers", "samples", "states", "devices", "history", "gate")


def pictures(evidence: Evidence) -> list[Picture]:
    """Draw all kinds of pictures. Altair does not hold each part of them against its schema, as tests do: a fifth of the time."""
    modules = (import_module(f"{__name__}.{kind}") for kind in KINDS)
    with debug_mode(False):
        return [picture for module in modules for picture in module.pictures(evidence)]
