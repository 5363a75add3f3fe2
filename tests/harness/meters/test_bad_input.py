"""What instruments do to people: they fail half-way, wrap, show garbage, hang. The cell says so and keeps its other facts."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from plumbline.harness import timing
from plumbline.harness.facts import Energy
from plumbline.harness.meters import METERS, EnergyMeter, Meter, Rail, Unavailable, running
from plumbline.harness.meters.cpu_time import CpuTime
from plumbline.harness.meters.energy import Series, power
from plumbline.harness.meters.meter import Counter, number, text_of
from plumbline.harness.meters.power_csv import FILE, OFFSET_S, PowerCsv
from plumbline.harness.meters.rapl import Rapl
from plumbline.harness.meters.running import Running, Watch, in_background
from tests.box import Box, Clock, box
from tests.harness.meters.test_devices import BUSY_S, INFERENCE_S, measured

Reader = Callable[[float], float]


class Fake(EnergyMeter):
    """Shows what a test says, by the time."""

    rail = Rail("a rail", "W", 0.1, 0.0)
    reader: Reader = staticmethod(lambda now: 10.0 if now < BUSY_S else 30.0)

    def open(self) -> Rail:
        return self.rail

    def read(self) -> float:
        return type(self).reader(self.clock())


def only(monkeypatch: pytest.MonkeyPatch, reader: Reader, rail: Rail = Fake.rail) -> tuple[Watch, Clock]:
    """A watch that has one meter, which reads so, and its clock; it has seen that at rest."""
    kind = type("One", (Fake,), {"rail": rail, "reader": staticmethod(reader)})
    monkeypatch.setitem(METERS, "one", kind)
    monkeypatch.setattr(running, "METERS", {"one": kind})
    clock = Clock()
    return Watch(5.0, clock=clock, time_of_day=clock, sleep=clock.advance, background=clock.background), clock


def by(monkeypatch: pytest.MonkeyPatch, reader: Reader, rail: Rail = Fake.rail, inference_s: float = INFERENCE_S) -> Energy:
    """What a meter that reads so says of an inference."""
    watch, clock = only(monkeypatch, reader, rail)
    clock.advance(max(0.0, BUSY_S - clock.now))
    return watch.run(lambda: clock.advance(inference_s), timing.nothing)["one"]


def steps(now: float) -> float:
    return 10.0 if now < BUSY_S else 30.0


def joules(now: float) -> float:
    return 1000 + 10.0 * min(now, BUSY_S) + 30.0 * max(0.0, now - BUSY_S)


COUNTER = Rail("a counter", "J", 0.1, 1e-3)


def fails(now: float) -> float:
    raise Unavailable("[Errno 5] Input/output error")


def breaks(now: float) -> float:
    """A meter of somebody who has not thought of everything."""
    return 10.0 if now < BUSY_S else 1 / 0


def reset_once_busy(wraps_at: float | None = None) -> Reader:
    """A counter as a meter keeps it, that begins anew when it has been busy for a second."""
    counter = Counter(wraps_at)
    return lambda now: counter.add(joules(now) - (1000 if now > BUSY_S + 1 else 0))


def test_a_meter_that_is_right_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    for reader, rail in ((steps, Fake.rail), (joules, COUNTER)):
        found = by(monkeypatch, reader, rail)
        assert found.joules == pytest.approx(0.1, rel=0.01)
        assert found.samples


def test_the_interval_of_a_counter_holds_what_its_steps_and_its_updates_hide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of a second of 2 s is 5 %, at either power; two steps of 1 J are 1 W."""
    fine, coarse = (by(monkeypatch, joules, Rail("a counter", "J", 0.1, step)) for step in (0.0, 1.0))
    assert fine.running_within_w == pytest.approx(1.5, rel=0.02)
    assert coarse.running_within_w == pytest.approx(2.5, rel=0.02)


def test_the_interval_of_a_power_follows_its_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    calm = by(monkeypatch, steps)
    swinging = by(monkeypatch, lambda now: steps(now) + (5.0 if int(now * 2.5) % 2 else -5.0))
    assert calm.running_within_w == pytest.approx(0.0, abs=1e-9)
    assert (swinging.running_within_w or 0.0) > 1.0


def test_the_energy_of_a_power_that_rises_is_the_area_below_it() -> None:
    """From 0 to 10 W in a second: 5 J, whenever it was read."""
    times = [0.0, 0.05, 0.1, 0.2, 0.25, *(n / 20 for n in range(6, 21))]
    found = power(Series(0.0, 1.0, times, [10 * time for time in times]), Fake.rail)
    assert found.watts == pytest.approx(5.0)


def test_a_meter_that_fails_half_way(monkeypatch: pytest.MonkeyPatch) -> None:
    found = by(monkeypatch, lambda now: fails(now) if now > BUSY_S + 1 else steps(now))
    assert found.joules is None
    assert re.fullmatch(r"while it ran: \d+ of 2\d readings failed: \[Errno 5\] Input/output error", found.unavailable or "")
    assert found.idle_w == pytest.approx(10.0)
    assert found.inferences == 400


def test_a_reading_that_fails_now_and_then_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = by(monkeypatch, lambda now: fails(now) if BUSY_S + 1.05 < now < BUSY_S + 1.15 else steps(now))
    (remark,) = found.remarks
    assert re.fullmatch(r"while it ran: 1 of 2\d readings failed: \[Errno 5\] Input/output error", remark)
    assert found.joules == pytest.approx(0.1, rel=0.01)


def test_a_meter_that_fails_at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    found = by(monkeypatch, lambda now: fails(now) if now < BUSY_S else steps(now))
    assert re.fullmatch(r"at rest: (2\d) of \1 readings failed: \[Errno 5\] Input/output error", found.unavailable or "")
    assert found.idle_w is None
    assert found.running_w == pytest.approx(30.0)


@pytest.mark.parametrize(
    ("reader", "rail", "reason"),
    [
        (lambda now: joules(now) - (500 if now > BUSY_S + 1 else 0), COUNTER, "the counter went backwards, from "),
        (lambda now: 0.0, Fake.rail, "it reads 0 W all the time"),
        (lambda now: 77.0, COUNTER, "it reads 77 J all the time"),
        (lambda now: 3e7, Fake.rail, "garbage: it reads 3e+07 W"),
        (lambda now: 2e5 if BUSY_S + 1.05 < now < BUSY_S + 1.15 else steps(now), Fake.rail, "garbage: it reads 2e+05 W"),
        (reset_once_busy(), COUNTER, "the counter went backwards, from "),
        (reset_once_busy(wraps_at=33_000.0), COUNTER, "garbage: it reads "),  # a reset that is taken for a wrap
        (lambda now: float("nan") if now > BUSY_S else 10.0, Fake.rail, "expected finite numbers, got [nan]"),
        (breaks, Fake.rail, "ZeroDivisionError: division by zero"),
    ],
)
def test_what_no_meter_can_read(monkeypatch: pytest.MonkeyPatch, reader: Reader, rail: Rail, reason: str) -> None:
    found = by(monkeypatch, reader, rail)
    assert found.joules is None
    assert reason in (found.unavailable or "")


def test_an_inference_that_takes_no_more_than_rest_has_no_energy_rather_than_none(monkeypatch: pytest.MonkeyPatch) -> None:
    found = by(monkeypatch, lambda now: 10.0 + (0.5 if int(now * 2.5) % 2 else -0.5))
    assert found.joules is None
    assert "lost in what the machine takes anyway" in (found.unavailable or "")


def test_a_window_that_would_be_too_short_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    found = by(monkeypatch, steps, Rail("a plug", "W", 1.0, 0.1))
    assert found.unavailable == "window too short: 20 updates of it take 20 s, and energy_s allows 5 s"
    assert (found.rail, found.joules) == ("a plug", None)


def test_a_window_is_made_longer_until_it_has_twenty_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    found = by(monkeypatch, steps, Rail("a plug", "W", 0.2, 0.1))
    assert found.seconds == pytest.approx(4.0, abs=0.01)
    assert (found.inferences, found.updates) == (800, 20)


def test_what_a_meter_averages_over_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def averaged(now: float) -> float:
        """The power of the last second."""
        return 10.0 + 20.0 * min(1.0, max(0.0, now - BUSY_S))

    assert by(monkeypatch, averaged, Rail("a GPU", "W", 0.1, 0.0, averaged_s=1.0)).running_w == pytest.approx(30.0, rel=1e-3)
    assert (by(monkeypatch, averaged).running_w or 0) < 26, "else the truth is missed"


@pytest.mark.parametrize(
    ("rail", "jump_s", "reason"),
    [
        (Fake.rail, 3600.0, "nothing was read for 3.6e+03 of "),  # it slept: what it took meanwhile is not known
        (Fake.rail, -0.4, "the clock went back by 0."),
        (COUNTER, -0.4, "the clock went back by 0."),
    ],
)
def test_a_clock_that_jumps(rail: Rail, jump_s: float, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ran_s = [0.0]

    def reader(now: float) -> float:
        return (30.0 if ran_s[0] else 10.0) if rail.unit == "W" else 1000 + 10 * now + 20 * ran_s[0]

    watch, clock = only(monkeypatch, reader, rail)

    def inference() -> None:
        clock.advance(INFERENCE_S)
        ran_s[0] += INFERENCE_S
        if abs(ran_s[0] - 1) < INFERENCE_S / 2:
            clock.jump(jump_s)

    found = watch.run(inference, timing.nothing)["one"]
    assert reason in (found.unavailable or "")
    assert found.idle_w == pytest.approx(10.0)


def test_a_slow_inference_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    found = by(monkeypatch, steps, inference_s=3.0)
    assert (found.inferences, found.seconds) == (1, 3.0)
    assert found.joules == pytest.approx(60.0, rel=0.01)


def test_no_meter_is_opened_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fake, "open", lambda self: pytest.fail("opened"))
    monkeypatch.setitem(METERS, "one", Fake)
    assert Watch(0.0).run(lambda: None, timing.nothing) == {}


def test_what_a_thread_raises_is_not_lost() -> None:
    def poll() -> float:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), in_background(poll):
        pass


def test_a_thread_polls_until_the_window_ends() -> None:
    calls: list[int] = []

    def poll() -> float:
        calls.append(1)
        return 0.0

    with in_background(poll):
        while len(calls) < 3:
            pass
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("plumbline-meters")]


@pytest.mark.parametrize("text", ["", "-5", "nan", "inf", "EAGAIN", "12 mW"])
def test_garbage_is_named(text: str) -> None:
    with pytest.raises(Unavailable, match="in1_input: expected a number of 0 or more, got"):
        number(text, "in1_input")


def test_a_counter_that_wraps_and_one_that_was_reset() -> None:
    wraps = Counter(wraps_at=100.0)
    assert [wraps.add(value) for value in (90.0, 99.0, 4.0, 10.0)] == [0.0, 9.0, 14.0, 20.0]
    reset = Counter()
    assert [reset.add(value) for value in (90.0, 4.0, 5.0)] == [0.0, -86.0, -85.0]


def test_a_counter_that_is_reset_between_two_windows_says_what_it_did_in_each(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = Counter()
    found = by(monkeypatch, lambda now: counter.add(joules(now) - (1000 if now > BUSY_S - 1 else 0)), COUNTER)
    assert found.unavailable is None
    assert found.joules == pytest.approx(0.1, rel=0.01)


def test_a_clock_that_goes_back_shows_in_every_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, clock = only(monkeypatch, joules, COUNTER)
    meter, rail = watch._meters["one"]
    watch._meters["two"], watch._idle["two"] = (meter, rail), watch._idle["one"]
    clock.advance(BUSY_S - clock.now)

    jumps = iter([-0.4])

    def inference() -> None:
        clock.advance(INFERENCE_S)
        if clock.now > BUSY_S + 1:
            clock.jump(next(jumps, 0.0))

    found = watch.run(inference, timing.nothing)
    assert ["the clock went back by 0." in (found[name].unavailable or "") for name in ("one", "two")] == [True, True]


def test_what_disturbs_a_window_is_a_remark(monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter([["others were busy at first"], ["others were busy at last"]])
    only(monkeypatch, steps)
    clock = Clock()
    watch = Watch(
        5.0, looking=lambda: partial(next, said), clock=clock, time_of_day=clock, sleep=clock.advance, background=clock.background
    )
    clock.advance(BUSY_S - clock.now)
    found = watch.run(lambda: clock.advance(INFERENCE_S), timing.nothing)["one"]
    assert found.remarks == ["while it ran: others were busy at last", "at rest: others were busy at first"]
    assert found.joules == pytest.approx(0.1, rel=0.01)


class Broken(Meter):
    """A meter of a stranger, which fails in a way of its own."""

    def begin(self) -> None:
        raise OSError("no such device")


class Nonsense(Meter):
    """A meter of a stranger, whose number is none."""

    def end(self) -> float:
        return float("nan")


def test_a_meter_that_breaks_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that is none could not even be sent: the whole answer would be refused."""
    monkeypatch.setitem(METERS, "broken", Broken)
    monkeypatch.setitem(METERS, "nonsense", Nonsense)
    found = Running().read(10)
    assert found["broken"].unavailable == "OSError: no such device"
    assert found["nonsense"].unavailable == "expected finite numbers, got [nan]"
    assert found["cpu_time"].value is not None


def test_the_time_of_a_processor_is_known_finer_than_a_tick() -> None:
    """Known truth: by the process's own clock. The kernel's ticks are of 10 ms, and this loop takes 2."""
    meter = CpuTime()
    meter.begin()
    began = time.process_time()
    while time.process_time() < began + 0.002:
        pass
    assert meter.end() == pytest.approx(time.process_time() - began, abs=1e-3)


VDD_IN = "sys/bus/i2c/devices/1-0040/hwmon/hwmon1/"


def changed(device: Box, **texts: str) -> Box:
    device.changes |= {VDD_IN + name: text for name, text in texts.items()}
    device.clock.advance(0.0)
    return device


def test_a_sensor_that_shows_garbage(tmp_path: Path) -> None:
    found = measured(changed(box("orin_nano", tmp_path), curr1_input="-2147483648"))["rails"]
    assert found.unavailable == "curr1_input: expected a number of -80 or more, got '-2147483648'"


def test_a_rail_that_takes_nothing_may_show_a_little_less(tmp_path: Path) -> None:
    """An AGX Orin whose accelerators are off: 8 mA at 20 V less than nothing, by the monitor's own offset."""
    device = box("agx_orin", tmp_path)
    device.changes["sys/bus/i2c/devices/1-0040/hwmon/hwmon3/curr2_input"] = "-8"
    device.clock.advance(0.0)
    found = measured(device)["rails"]
    assert found.unavailable is None
    assert found.idle_w == pytest.approx(9.0 - 1.0 - 0.16)


def test_a_sensor_that_shows_garbage_once_it_is_busy(tmp_path: Path) -> None:
    device = box("orin_nano", tmp_path)
    original = device.clock._went

    def went(now: float) -> None:
        if now >= BUSY_S + 0.5:
            device.changes[VDD_IN + "curr1_input"] = "garbage"
        original(now)

    device.clock._went = went
    found = measured(device)["rails"]
    assert "readings failed: curr1_input: expected a number of -80 or more, got 'garbage'" in (found.unavailable or "")
    assert found.idle_w == pytest.approx(5.0)


@pytest.mark.parametrize("label", ["VDD_IN", "VDD_SOC"])
def test_a_rail_that_appears_twice(label: str, tmp_path: Path) -> None:
    device = changed(box("orin_nano", tmp_path), in2_label=label)
    found = measured(device)["rails"]
    if label == "VDD_IN":
        assert (
            found.unavailable == "the rail VDD_IN appears twice (1-0040 in1 and 1-0040 in2): which of them counts cannot be told"
        )
    else:
        assert found.joules is not None, "the total is another rail, and is known"


def test_a_processor_that_appears_twice(tmp_path: Path) -> None:
    """Each package has a dram of its own, and no other zone has a namesake."""
    device = box("x86_laptop", tmp_path)
    zones = "sys/class/powercap/intel-rapl:1"
    device.changes = {
        f"{zones}/name": "package-1",
        f"{zones}/energy_uj": "1",
        f"{zones}:0/name": "dram",
        f"{zones}:0/energy_uj": "1",
    }
    device.clock.advance(0.0)
    assert Rapl(device.root).open().name == "package-0 + dram + package-1 + dram"
    device.changes[f"{zones}/name"] = "package-0"
    device.clock.advance(0.0)
    with pytest.raises(Unavailable, match="the RAPL zone package-0 appears twice: which of them counts cannot be told"):
        Rapl(device.root).open()


def test_a_counter_that_only_root_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = box("x86_laptop", tmp_path)
    original = Path.read_text

    def refused(self: Path, **how: str) -> str:
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return original(self, **how)

    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(Unavailable, match="read by root alone here; let root make them readable: sudo chmod a\\+r"):
        Rapl(device.root).open()


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="in1_input cannot be read: No such file or directory"):
        text_of(tmp_path / "in1_input")


def external(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, offset_s: float = 0.0, stated_s: float = 0.0) -> Energy:
    """What a meter says that writes a row each 0.1 s, by a clock that differs."""
    file, clock = tmp_path / "watts.csv", Clock()
    monkeypatch.setenv(FILE, str(file))
    monkeypatch.setenv(OFFSET_S, str(stated_s))
    file.write_text("time,watts\n")
    next_s = [0.0]

    def write(now: float) -> None:
        while next_s[0] <= now:
            with file.open("a") as rows:
                rows.write(f"{next_s[0] + offset_s:.3f},{steps(next_s[0]):.1f}\n")
            next_s[0] += 0.1

    clock._went = write
    clock.now = 0.5
    write(0.5)
    watch = Watch(5.0, clock=clock, time_of_day=clock, sleep=clock.advance, background=clock.background)
    clock.advance(BUSY_S - clock.now)
    return watch.run(lambda: clock.advance(INFERENCE_S), timing.nothing)["power_csv"]


@pytest.mark.parametrize("offset_s", [0.0, 7200.0])
def test_a_meter_of_your_own(offset_s: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = external(monkeypatch, tmp_path, offset_s, -offset_s)
    assert found.joules == pytest.approx(0.1, rel=0.03)
    assert found.update_s == pytest.approx(0.1)
    assert f"with an offset of {-offset_s:g} s" in found.about


@pytest.mark.parametrize("offset", ["nan", "soon"])
def test_an_offset_that_is_none(offset: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Beside it each row would be of now."""
    monkeypatch.setenv(FILE, str(tmp_path / "watts.csv"))
    monkeypatch.setenv(OFFSET_S, offset)
    (tmp_path / "watts.csv").write_text("1.0,2.0\n2.0,3.0\n")
    with pytest.raises(Unavailable, match=f"{OFFSET_S}: expected seconds, got '{offset}'"):
        PowerCsv().open()


def test_a_meter_of_your_own_whose_clock_differs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = external(monkeypatch, tmp_path, 7200.0)
    assert "the last row is 7200.0 s in the future: it is not written meanwhile, or its clock differs" in (
        found.unavailable or ""
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no row yet; it takes a row each time"),
        ("time,watts\n1.0,2.0\n", "expected two rows at least"),
        ("1.0;2.0\n2.0;3.0\n", "expected a row each time it has measured"),
        ("1.0,many\n2.0,3.0\n", "expected a number of 0 or more, got 'many'"),
        ("2.0,3.0\n1.0,3.0\n", "whose times grow"),
    ],
)
def test_a_file_that_is_no_meter(text: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(FILE, str(tmp_path / "watts.csv"))
    (tmp_path / "watts.csv").write_text(text)
    with pytest.raises(Unavailable, match=reason):
        PowerCsv().open()
