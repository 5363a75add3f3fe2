"""Boards that a session has out of a lab, from the option that asks for them until pytest ends."""

from __future__ import annotations

import pytest

from plumbline.harness import journal
from plumbline.harness.session import matrix
from plumbline.harness.session.lab import Lab
from plumbline.harness.target import BadTarget, Target, in_lab


def with_boards(config: pytest.Config, targets: list[str]) -> list[str]:
    """Return the targets with boards in the place of `lab:...`; where nothing runs, boards are looked up, and not acquired.

    A run that is resumed gets the boards that it had. Raises BadPlace and MatrixError.
    """
    try:
        if not any(in_lab(Target.parse(target).place) for target in targets):
            return targets
        lab = Lab(wait_s=config.getoption("wait"))
        run = config.getoption("resume")
        earlier = {record.cell.place for folder in journal.runs_in(run) for record in journal.read(folder)} if run else set()
        if config.getoption("plan") or config.option.collectonly:
            return lab.look_up(targets, earlier)
        config.add_cleanup(lab.close)
        return lab.hand_out(targets, earlier)
    except BadTarget as error:
        raise matrix.MatrixError(f"--target: {error}") from error
