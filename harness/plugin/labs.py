"""Boards that a session has out of a lab, from the option that asks for them until pytest ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from plumbline.harness import journal
from plumbline.harness.session import matrix
from plumbline.harness.session.lab import Lab
from plumbline.harness.target import BadTarget, Target, in_lab


def can_be_several(config: pytest.Config, run_dir: Path) -> None:
    """Raise UsageError where the options allow for one board only, or the folder of a new run holds one already."""
    if not config.pluginmanager.hasplugin("xdist"):
        raise pytest.UsageError("several boards take pytest-xdist; run without -p no:xdist, or name one board")
    if config.getoption("usepdb"):
        raise pytest.UsageError("--pdb asks at one place, and these are several boards; name one --target")
    if config.getoption("lf", False) or config.getoption("stepwise", False):
        wrong = "--lf and --sw know the cells of one board; name one, or --resume RUN measures what failed on each"
        raise pytest.UsageError(wrong)
    if ids := [argument for argument in config.args if "::" in argument and "[" in argument]:
        raise pytest.UsageError(f"{ids[0]} is a cell of one board; expected one --target with it, or -k for cells of each")
    if journal.runs_in(run_dir) and not config.getoption("resume"):
        raise pytest.UsageError(str(journal.taken(run_dir)))


def with_boards(config: pytest.Config, targets: list[str], run_dir: Path) -> list[str]:
    """Return the targets with boards in the place of `lab:...`; where nothing runs, boards are looked up, and not acquired.

    A run that is resumed gets the boards that it had. What can be refused before a board is taken from others is refused. Raises
    BadPlace, MatrixError and UsageError.
    """
    try:
        named = [Target.parse(target).place for target in targets]
        if not any(map(in_lab, named)):
            return targets
        lab = Lab(wait_s=config.getoption("wait"))
        run = config.getoption("resume")
        earlier = (
            {record.cell.place for folder in journal.runs_in(run) or [run] for record in journal.read(folder)} if run else set()
        )
        if config.getoption("plan") or config.option.collectonly:
            return lab.look_up(targets, earlier)
        if len(set(named)) > 1 or len(set(targets)) < len(targets):
            can_be_several(config, run_dir)
        if run is None:
            journal.make_room(run_dir)
        config.add_cleanup(lab.close)
        return lab.hand_out(targets, earlier)
    except BadTarget as error:
        raise matrix.MatrixError(f"--target: {error}") from error
    except journal.RunError as error:
        raise matrix.MatrixError(str(error)) from error
