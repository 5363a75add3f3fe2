"""From the command line to a session: which cells, in which order, what is red, and what is shown."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack
from functools import cached_property
from typing import Any

import pytest

from plumbline.harness import environment, journal, speed
from plumbline.harness.cell import AXES, Cell, id_of, shown_model
from plumbline.harness.journal import Journal, RunError
from plumbline.harness.lock import Busy
from plumbline.harness.outcomes import FAILED, OK, OUT_OF_MEMORY, TIMED_OUT, UNAVAILABLE, UNSUPPORTED, CellEnded
from plumbline.harness.plugin.request import Request
from plumbline.harness.plugin.screen import Terminal
from plumbline.harness.plugin.share import STARTS, Left, Share, Wire
from plumbline.harness.record import Record
from plumbline.harness.session import matrix, places, plan
from plumbline.harness.session.client import NEXT_LOCK_S, WHO, CellProbe
from plumbline.harness.session.places import Place
from plumbline.harness.session.session import Session, known_speed
from plumbline.harness.verdicts import budget as budgets
from plumbline.harness.views import table
from plumbline.models.weights.weights import candidates, file_name
from plumbline.texts import duration, number_of

AGAIN_S = 30.0  # after which one who waits for a machine looks whether the session goes on
LEFT_BEHIND_S = NEXT_LOCK_S + (Place.silence_s or 0.0)
MEASURED, COUNTED = "probe", "counter"  # the fixtures for a tier's cells, and for those that it only counts


class Bench:
    """What the command line asked for, and the session that answers it."""

    def __init__(self, config: pytest.Config, request: Request, screen: Terminal | Wire, share: Share | None = None) -> None:
        self.config, self.request, self._share = config, request, share
        self.tier, self.options, self.settings = request.tier, request.options, request.settings
        self.budget, self.run_dir = request.budget, request.run_dir
        # pytest-benchmark looks for its fixture by name, and would skip every cell; see pytest_collection_modifyitems
        self._benchmark_only = config.getoption("benchmark_only", False)
        config.option.benchmark_only = False
        self._screen = screen
        self.session: Session | None = None
        self._estimate: plan.Estimate | None = None
        self._selected: list[pytest.Item] = []
        self._finished: list[pytest.Item] = []
        self._done = 0
        self._finishers = ExitStack()
        self._stops: Callable[[], bool] = lambda: False
        self._gone: set[str] = set()  # places that do not answer

    @cached_property
    def cells(self) -> list[Cell]:
        return matrix.expand(self.tier, self.options)

    @cached_property
    def _unmeasured(self) -> set[tuple[str, Any]]:
        """What was named and is measured nowhere: that is red, whichever axis is to blame."""
        return matrix.unmeasured(self.cells, self.options)

    @cached_property
    def counted(self) -> list[Cell]:
        return matrix.counted(self.tier, self.options)

    # -- collection ---------------------------------------------------------------------------------------------

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Set all axes together from the cells, so that there is no cross product to prune."""
        marks = metafunc.definition.iter_markers("parametrize")
        own = [mark.args[0] if mark.args else mark.kwargs["argnames"] for mark in marks]
        taken = {name.strip() for names in own for name in (names.split(",") if isinstance(names, str) else names)}
        axes = [axis for axis in AXES if axis in metafunc.fixturenames and axis not in taken]
        if axes:
            cells = self.counted if COUNTED in metafunc.fixturenames else self.cells
            rows = list(dict.fromkeys(cell.values(axes) for cell in cells))
            metafunc.parametrize(axes, rows, ids=[id_of(axes, row) for row in rows], indirect=True)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if not self.counted:  # pytest would show a test without cells as skipped
            items[:] = [item for item in items if COUNTED not in getattr(item, "fixturenames", ())]
        if self._benchmark_only:
            others = {
                item
                for item in items
                if MEASURED not in getattr(item, "fixturenames", ()) and "benchmark" not in getattr(item, "fixturenames", ())
            }
            self.config.hook.pytest_deselected(items=list(others))
            items[:] = [item for item in items if item not in others]
        if self.request.resume:
            kept: list[Record] = []
            try:
                kept = [record for record in journal.read(self.run_dir) if record.outcome == OK]
            except RunError as error:
                self._screen.refuse(error)
            done = {(kind, record.id) for record in kept for kind in (COUNTED, *([MEASURED] if record.latency else []))}
            self._finished = [item for item in items if _opens(item) and (_opens(item), _cell(item).id) in done]
        if self._share is not None:
            ended = set(self._share.done)
            self._finished += [item for item in items if item.nodeid in ended and item not in self._finished]
        if self._finished:
            self.config.hook.pytest_deselected(items=self._finished)
            finished = set(self._finished)
            items[:] = [item for item in items if item not in finished]
        self._selected = self._in_order([item for item in items if _opens(item)])
        ordered = iter(self._selected)
        items[:] = [next(ordered) if _opens(item) else item for item in items]

    def _in_order(self, items: list[pytest.Item]) -> list[pytest.Item]:
        """Put what is quick first, so that a first row is there soon; what is only counted comes last."""
        kinds = {kind: [item for item in items if _opens(item) == kind] for kind in (MEASURED, COUNTED)}
        cells = list(dict.fromkeys(map(_cell, kinds[MEASURED])))
        estimate = plan.Estimate(cells, [], self.settings, self.run_dir.parent, speed.load(self.settings.cache))
        order = {cell: number for number, cell in enumerate(plan.quickest_first(cells, estimate))}
        return [*sorted(kinds[MEASURED], key=lambda item: order[_cell(item)]), *kinds[COUNTED]]

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> None:
        self._screen.begin(session)
        self._stops = lambda: bool(session.shouldstop)
        if self._share is not None and self._share.start > STARTS:
            self._screen.refuse(RunError(f"its worker has died {STARTS} times"))
        try:
            for name, error in places.silent(self._places).items():
                self._give_up(name, error)
            _ = self.cells, self.counted
        except places.BadPlace as error:
            self._screen.refuse(error)

    @cached_property
    def _places(self) -> list[str]:
        return matrix.places_of(self.tier, self.options)

    def _give_up(self, name: str, error: Exception) -> None:
        """Let the cells of a place that does not answer be unavailable. Raises the error where nothing else is to be measured."""
        self._gone.add(name)
        if self._share is None and self._gone == set(self._places):
            raise error
        places.give_up(name, str(error))
        self._screen.line(f"{error}; its cells are unavailable")

    # -- running ------------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> bool | None:
        if self.config.getoption("plan"):
            self._say_what_is_left_out()
            possible = self._possible()
            found = known_speed(self.settings) if possible else None
            self._screen.line(plan.describe(self.tier.name, *self._selected_cells(), self.settings, self.run_dir.parent, found))
            return True
        if self._selected and not self.config.option.collectonly:
            self._start()
        return None

    def _selected_cells(self) -> tuple[list[Cell], list[Cell]]:
        """Those to be measured, and those to be counted only."""
        kinds = {kind: [_cell(item) for item in self._selected if _opens(item) == kind] for kind in (MEASURED, COUNTED)}
        return kinds[MEASURED], kinds[COUNTED]

    def _possible(self) -> list[Cell]:
        return [cell for cell in map(_cell, self._selected) if matrix.impossible(cell) is None]

    def _start(self) -> None:
        """Everything that could go wrong for all cells goes wrong here, before the first."""
        try:
            if self._share is None:
                for line in preamble(self.request, os.environ):
                    self._screen.line(line)
            self._say_what_is_left_out()
            self._check_weights()
            run = Journal(self.run_dir, resume=self.request.resume)
            log = self._finishers.enter_context((self.run_dir / "probe.log").open("ab"))
            who = WHO if self._share is None else self._share.who
            self.session = Session(self.settings, run, log, self._progress, self._lock_s, who)
            self._finishers.callback(self.session.close)
            for remark in self._started(self.session):
                self._screen.line(remark)
            found, possible = self.session.speed(), self._possible()
            self._estimate = plan.Estimate(*self._selected_cells(), self.settings, self.run_dir.parent, found)
            self._screen.line(f"{number_of(len(self._selected), 'cell')}, about {duration(self._estimate.left())}")
            if warned := plan.slow(possible, self._estimate, self.settings):
                self._screen.line(warned)
        except (Busy, CellEnded, OSError, places.BadPlace, pytest.UsageError) as error:
            self._screen.refuse(error)

    def _started(self, session: Session) -> list[str]:
        """Start it; a board that another one of the same fleet turns out to be is measured when that one is done."""
        while True:
            try:
                return session.start(self._possible(), self._give_up)
            except Busy as busy:
                if self._share is None or not self._share.is_of_another(str(busy)) or self._stops():
                    raise
                self._progress("waiting for another board of this session, which is the same machine")
                session.wait_for_locks(AGAIN_S)  # there, where waiting disturbs nobody

    @property
    def _lock_s(self) -> float:
        """How long to wait for another session; a worker waits for what the one before it, which died, has left behind."""
        asked: float = self.config.getoption("wait")
        return asked if self._share is None or self._share.start == 1 else max(asked, LEFT_BEHIND_S)

    def _check_weights(self) -> None:
        """Refuse a folder that was named and has nothing for any cell: no reason for seeded weights."""
        folder, cells = self.settings.weights, self._selected_cells()[0]
        if self.config.getoption("weights") in (None, "pretrained") or folder is None:
            return
        possible = dict.fromkeys((cell.model, cell.image_size) for cell in cells if matrix.impossible(cell) is None)
        pairs = [(matrix.find(model), size) for model, size in possible if matrix.find(model).file is None]
        if cells and not any(candidates(model, size, folder) for model, size in pairs):
            expected = ", ".join(sorted(file_name(model, size) for model, size in pairs)) or "none, as ONNX files have their own"
            got = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
            raise pytest.UsageError(f"--weights {folder}: fits no model of these cells; expected any of {expected}; got {got}")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Run the test of a cell and keep its record, whatever becomes of it."""
        opened = getattr(item, "funcargs", {})
        probe: CellProbe | None = opened.get(MEASURED) or opened.get(COUNTED)
        if probe is None:
            return (yield)
        assert self.session is not None
        outcome, reason, result, error = OK, None, None, None
        try:
            result = yield
        except CellEnded as end:
            outcome, reason, error = end.outcome, end.reason, self._verdict(probe.cell, end)
        except budgets.OverBudget as over:  # it is right, and was timed: its record is as good as any
            error = pytest.fail.Exception(str(over), pytrace=False)
        except AssertionError as failure:
            outcome, reason, error = FAILED, str(failure).partition("\n")[0] or "an assertion failed", failure
        except pytest.fail.Exception as failure:
            outcome, reason, error = FAILED, str(failure) or "the test failed", failure
        except pytest.skip.Exception:  # the test's own wish: nothing became of this cell
            probe.close()
            raise
        except Exception as failure:  # noqa: BLE001 - a broken test is that cell's failure; it is raised again below
            outcome, reason, error = FAILED, f"{type(failure).__name__}: {failure}", failure
        except BaseException:  # Ctrl-C, pytest.exit: nothing became of this cell
            self.session.kill()
            raise
        try:
            record = self.session.finish(probe, outcome, reason)
        except RunError as lost:
            self._screen.abort(f"{lost}; the records before it are whole")
        self._done += 1
        self._report(probe.cell, record)
        if record.latency is not None and record.latency.disturbed:
            item.user_properties.append(("disturbed", "; ".join(record.latency.disturbed)))
        if error is not None:
            raise error
        if "latency" in probe.facts:
            _replay(item, probe, record.machine.id)
        return result

    def held(self, probe: CellProbe) -> list[budgets.Held]:
        """Hold a cell that was measured against the budget, if one was named."""
        if self.budget is None or self.session is None:
            return []
        return list(budgets.held(self.budget, self.session.record(probe, OK, None)))

    def _verdict(self, cell: Cell, end: CellEnded) -> BaseException:
        """Return what an ended cell is to pytest: a skip, an expected failure, or a failure."""
        text = f"{end.outcome}: {end.reason}"
        if end.outcome in (UNSUPPORTED, UNAVAILABLE):
            blamed = end.axis in self.options and getattr(cell, end.axis) in self.options[end.axis]
            if not blamed and not any(getattr(cell, axis) == value for axis, value in self._unmeasured):
                return pytest.skip.Exception(text)
        if end.outcome in (OUT_OF_MEMORY, TIMED_OUT) and self.tier.may_not_fit:
            return pytest.xfail.Exception(f"{text} (tier {self.tier.name}: may not fit)")
        return pytest.fail.Exception(text, pytrace=False)

    # -- showing ------------------------------------------------------------------------------------------------

    def pytest_report_teststatus(self, report: pytest.CollectReport | pytest.TestReport) -> tuple[str, str, str] | None:
        """No dot for a cell: it has a line of its own."""
        return None if self.session is None else no_dot(self.config, report)

    def _report(self, cell: Cell, record: Record) -> None:
        assert self._estimate is not None
        self._estimate.ran(cell, record.seconds, record.steps_s)
        seconds = self._estimate.left()
        left = f"{duration(seconds)} left" if self._done < len(self._selected) else "done"
        count = len(str(len(self._selected)))
        self._screen.line(f"[{self._done:{count}}/{len(self._selected)}] {table.line(record)}  ({record.seconds:.1f} s, {left})")
        self._screen.left(Left(self._done, len(self._selected), seconds))

    def _progress(self, text: str) -> None:
        self._screen.progress(text, first=self._done == 0)

    def _say_what_is_left_out(self) -> None:
        """In one line: what was named together, cannot be, and is measured apart."""
        out = matrix.left_out(self.tier, self.options)
        if out:
            reasons = "; ".join(dict.fromkeys(impossible.reason for impossible in out.values()))
            self._screen.line(f"left out, as they cannot be: {len(out)} of the cells that the options name together ({reasons})")
        slow = matrix.emulated(self.tier, self.options)
        if slow:
            precisions = ", ".join(dict.fromkeys(cell.precision for cell in slow))
            self._screen.line(
                f"left out, as this processor has no arithmetic in {precisions}: {number_of(len(slow), 'cell')} of more than "
                f"{matrix.EMULATED_MACS / 1e6:g} M MACs (--model NAME --precision {slow[0].precision} measures one all the same)"
            )

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.session is None or not self.session.records:
            return
        terminalreporter.section("evaluation matrix")
        terminalreporter.write_line(table.matrix(list(self.session.records.values())))
        terminalreporter.write_line(f"{number_of(len(self.session.records), 'record')} in {self.run_dir}")
        if self._selected and not self.session.measured:
            terminalreporter.write_line("nothing was measured: no cell ended ok", red=True)

    # -- ending -------------------------------------------------------------------------------------------------

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        unmeasured = self.session is not None and not self.session.measured
        if (unmeasured or self._gone) and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        self._finishers.close()  # here, as a worker has ended for its session when this has
        nothing_left = self._finished and not self._selected
        if nothing_left and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK  # a resumed run that is complete was measured before

    def pytest_unconfigure(self) -> None:
        self._finishers.close()

    @pytest.hookimpl(optionalhook=True)
    def pytest_benchmark_update_machine_info(self, machine_info: dict[str, Any]) -> None:
        machine_info.pop("node", None)  # a host name is nobody's business


class ReplayClock:
    """A clock that advances by recorded durations, so that pytest-benchmark reports them as its own."""

    def __init__(self, samples: list[float]) -> None:
        self._samples, self._now = iter(samples), 0.0

    def __call__(self) -> float:
        return self._now

    def step(self) -> None:
        self._now += next(self._samples, 0.0)


def _replay(item: pytest.Item, probe: CellProbe, machine_id: str) -> None:
    if not item.config.pluginmanager.hasplugin("benchmark") or hasattr(item.config, "workerinput"):  # it is off in a worker
        return
    samples = probe.latency().model.samples_s
    clock = ReplayClock(samples)
    item.add_marker(pytest.mark.benchmark(timer=clock, group=f"{shown_model(probe.cell.model)} at {probe.cell.image_size} px"))
    benchmark = item._request.getfixturevalue("benchmark")  # type: ignore[attr-defined]
    benchmark.extra_info.update(cell=probe.cell.id, target=probe.cell.target, fingerprint=machine_id)
    benchmark.pedantic(clock.step, rounds=len(samples), iterations=1)


def preamble(request: Request, environ: Mapping[str, str]) -> list[str]:
    """Return what is said once, before the first cell of any board."""
    lines = ["", f"inputs: seed {request.settings.inputs_seed} (--inputs-seed repeats them)"]
    if len(request.files) > 1:  # rows and records do not hold the path
        lines += [f"{shown}: {file}" for file, shown in request.files.items()]
    without = environment.left_out_note(environ)
    return [*lines, without] if without else lines


def no_dot(config: pytest.Config, report: pytest.CollectReport | pytest.TestReport) -> tuple[str, str, str] | None:
    """Return the status of a cell's test with nothing to be written; None of other tests, and where more words are wanted."""
    if "measuring" not in report.keywords or config.get_verbosity() > 0 or getattr(report, "when", None) != "call":
        return None
    return "xfailed" if hasattr(report, "wasxfail") else report.outcome, "", ""


def _opens(item: pytest.Item) -> str | None:
    """Return the fixture by which a test gets the probe of a cell, if it does."""
    return next((name for name in (MEASURED, COUNTED) if name in getattr(item, "fixturenames", ())), None)


def _cell(item: pytest.Item) -> Cell:
    return Cell(**{axis: item.callspec.params[axis] for axis in AXES})  # type: ignore[attr-defined]
