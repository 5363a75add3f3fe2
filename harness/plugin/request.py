"""What the command line asks for, read and checked before anything is collected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from plumbline.harness import journal
from plumbline.harness.cell import AXES, shown_model
from plumbline.harness.journal import NAME, RunError
from plumbline.harness.plugin import options
from plumbline.harness.plugin.labs import with_boards
from plumbline.harness.plugin.share import Share
from plumbline.harness.session import matrix, places
from plumbline.harness.session.client import NotDescribed, describe
from plumbline.harness.session.session import default_run_dir
from plumbline.harness.settings import Settings
from plumbline.harness.verdicts import budget as budgets
from plumbline.models.sources.outside import described


class Request:
    """The tier and its options, the settings, the budget, and the folder of the records; of a board's `share`, that board's.

    Raises MatrixError, BadPlace and BadBudget.
    """

    def __init__(self, config: pytest.Config, share: Share | None = None) -> None:
        asked = {axis: options.values(axis, config.getoption(f"axis_{axis}")) for axis in AXES}
        if share is not None:
            asked["target"] = list(share.targets)
        places.load(config.getoption("targets") or places.FILE)
        path = config.getoption("matrix") or matrix.FILE
        tiers = matrix.load(path)
        name = config.getoption("tier")
        if name not in tiers:
            raise matrix.MatrixError(f"no tier {name!r}; known: {', '.join(tiers)} ({path})")
        self.tier = tiers[name]
        self.options = {axis: values for axis, values in asked.items() if values}
        targets = self.options.pop("target", [])
        _check(self.options)
        self.files: dict[str, str] = {}  # of models: their paths, and what is shown of them
        self.described: dict[str, dict[str, Any]] = {} if share is None else share.described
        self._learn_models_from_outside()
        named = config.getoption("budget")
        self.budget = None if named is None else budgets.find(named, config.getoption("budgets") or budgets.FILE)
        self.resume = bool(config.getoption("resume"))
        self.run_dir: Path = (
            config.getoption("resume") or config.getoption("run_dir") or default_run_dir(config.invocation_params.dir)
        )
        self.settings = self._settings(config)
        if share is not None:
            self.run_dir = share.run_dir
            self.resume = (share.run_dir / NAME).exists()
            self.settings = replace(self.settings, inputs_seed=share.inputs_seed)
        if targets:  # last, as a board of a lab is taken from others
            self.options["target"] = targets if share is not None else with_boards(config, targets, self.run_dir)
            _check(self.options)
        self.options = matrix.canonical(self.options)
        if self.resume and config.getoption("inputs_seed") is None:
            self.settings = self._as_before(self.settings)

    def _settings(self, config: pytest.Config) -> Settings:
        found = self.tier.apply(options.settings(config))
        if config.getoption("time_limit") is not None:
            found = replace(found, time_limit_s=config.getoption("time_limit"))
        if config.getoption("train_minutes") is not None:
            found = replace(found, train_minutes=config.getoption("train_minutes"))
        if self.budget is not None:
            found = replace(found, p99_within_s=self.budget.p99_within_s)
        if config.getoption("memory_limit") is not None:
            found = replace(found, memory_limit_bytes=config.getoption("memory_limit"))
        return found

    def _as_before(self, settings: Settings) -> Settings:
        """Let a run that is there go on with the pictures with which it began, the boards of a fleet with those of its first."""
        try:
            earlier = [record for folder in journal.runs_in(self.run_dir)[:1] for record in journal.read(folder)]
        except RunError:
            return settings  # what is wrong with it is said when it is opened
        return replace(settings, inputs_seed=earlier[0].settings.inputs_seed) if earlier else settings

    def _learn_models_from_outside(self) -> None:
        """Learn of models from outside what the probe says: it alone imports a stranger's code. A board's worker is told."""
        references = matrix.outside(self.tier, self.options)
        unknown = [reference for reference in references if reference not in self.described]
        try:
            found = describe(unknown) if unknown else []
        except NotDescribed as error:
            raise matrix.MatrixError(f"--model: {error}") from error
        self.described |= {reference: model.description() for reference, model in zip(unknown, found, strict=True)}
        for reference in references:
            model = described(dict(self.described[reference]))
            matrix.learn(reference, model)
            if model.file is not None:
                self.files[str(model.file)] = shown_model(model.name)


def _check(axes: Mapping[str, Sequence[Any]]) -> None:
    """Raise MatrixError, with the option, unless all values are such."""
    for axis, values in axes.items():
        for value in values:
            try:
                matrix.check(axis, value)
            except matrix.MatrixError as error:
                raise matrix.MatrixError(f"--{axis.replace('_', '-')}: {error}") from error
