"""`plumbline doctor`: whether a machine is fit to measure, and how far its instruments can be trusted."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from plumbline.harness.examination import Examination
from plumbline.harness.lock import holder, lock_machine
from plumbline.harness.machine import Machine
from plumbline.harness.session import places
from plumbline.harness.session.client import Connection, examined
from plumbline.harness.session.shipping import Needed
from plumbline.harness.settings import Settings
from plumbline.harness.target import HERE, BadTarget, Target, with_agent


def examine(target: str, progress: Callable[[str], None]) -> tuple[Machine, Examination]:
    """Examine the machine of a target. Raises Busy, BadPlace, BadTarget and CellEnded."""
    asked = Target.parse(target)
    if with_agent(asked.place):
        raise BadTarget(
            f"{target}: an agent answers cells alone, and its board cannot be examined; expected a place with plumbline"
        )
    place = places.of(target)
    with ExitStack() as stack:
        if place.name == HERE:
            stack.callback(lock_machine(0, holder()).release)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        log = stack.enter_context((folder / "probe.log").open("wb"))
        server = Connection(log, progress=progress, place=place, lock_s=None if place.name == HERE else 0.0)
        stack.callback(server.close)
        place.prepare(Needed(), progress, server.holding)
        found = examined(server, Settings.here(None), asked.device)
        progress("")
        return server.machine, found
