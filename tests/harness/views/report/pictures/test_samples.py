"""Samples, drawn: their distribution, their order, and what meters read meanwhile."""

from __future__ import annotations

import random
from statistics import median
from typing import Any

import pytest

from plumbline.harness.facts import Energy, Latency, Percentile
from plumbline.harness.readings import Reading, read
from plumbline.harness.record import Record
from plumbline.harness.statistics import percentile
from plumbline.harness.timing import summarise
from tests.harness.views.report.pictures.drawings import check, data_of, drawn, evidence_of, links
from tests.records import cell_of, latency_of, record_of, replace

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

from plumbline.harness.views.report.pictures import samples, states


def noisy(count: int = 1000, scale: float = 1.0, seed: int = 0) -> list[float]:
    chance = random.Random(seed)
    return [scale * (1e-3 + chance.expovariate(1e4)) for _ in range(count)]


def record(durations: list[float], disturbance: dict[str, float] | None = None, steady: bool = True, **more: Any) -> Record:
    """Make a record of a cell that was timed so."""
    latency = latency_of()
    readings = {name: read("1", "machine", value) for name, value in (disturbance or {}).items()}
    latency = replace(latency, model=summarise(durations, 1, 5, 0.25, steady), disturbance=readings, **more.pop("latency", {}))
    return record_of(more.pop("cell", None), latency=latency, **more)


def distribution(*records: Record) -> Any:
    return next(picture for picture in samples.pictures(evidence_of(*records)) if picture.name == "samples")


def test_the_marks_are_the_records_own() -> None:
    durations = noisy()
    whole = record(durations)
    picture = distribution(whole)
    check(picture)
    strips, ordered = data_of(picture, "quantiles"), sorted(durations)
    assert len(strips) == samples.QUANTILES
    for strip in strips:
        assert strip["seconds"] == percentile(ordered, strip["share"])
    assert whole.latency is not None
    model = whole.latency.model
    found = {mark["part"]: mark for mark in data_of(picture, "bounds")}
    assert (found[samples.MEDIAN]["seconds"], found[samples.MEDIAN]["low_s"], found[samples.MEDIAN]["high_s"]) == (
        model.median_s, *(model.interval_s or ()),
    )  # fmt: skip
    assert found[samples.P90]["seconds"] == model.percentiles["p90"].bound_s
    assert found[samples.P99]["seconds"] == model.percentiles["p99"].bound_s
    assert links(drawn(picture, evidence_of(whole))) == {"#c0"}


def test_few_samples_have_no_bound_and_no_more_ticks_than_samples() -> None:
    picture = distribution(record(noisy(10)))
    assert [mark["part"] for mark in data_of(picture, "bounds")] == [samples.MEDIAN]
    assert [strip["seconds"] for strip in data_of(picture, "quantiles")] == sorted(noisy(10))


def test_odd_cells_come_first_and_the_caption_says_which() -> None:
    quiet = [record(noisy(seed=seed), cell=cell_of(batch=2 + seed)) for seed in range(20)]
    waited = record(noisy(), {"waited": 0.2}, cell=cell_of("waited"))
    worse = record(noisy(), {"waited": 0.4}, cell=cell_of("worse"))
    vague = record([1e-3, 2e-3] * 20, cell=cell_of("vague"))
    unsteady = record(noisy(), steady=False, cell=cell_of("unsteady"))
    picture = distribution(*quiet, waited, worse, vague, unsteady)
    shown = list(dict.fromkeys(row["id"].partition("-")[0] for row in data_of(picture, "bounds")))
    assert shown == ["worse", "waited", "vague", "unsteady", "mlp"]
    assert "Drawn are 12 of 24 cells" in picture.caption
    assert "widest tails (8); disturbed (2); median not well known (1); warm-up not steady (1)" in picture.caption


def test_a_clock_that_is_too_coarse_shows_durations_of_zero() -> None:
    whole = record([0.0, *noisy(99)], {"waited": 0.3})
    for picture in samples.pictures(evidence_of(whole)):
        check(picture)
        drawn(picture, evidence_of(whole))


def test_names_are_text_wherever_they_stand() -> None:
    name = "<b onclick='x()'>\"}]</b>"
    whole = record(
        noisy(),
        {"waited": 0.3},
        cell=cell_of(name, runtime="</script>"),
        latency={"telemetry": {name: Reading("W", name, [1, 2], 5)}},
    )
    for picture in samples.pictures(evidence_of(whole)):
        check(picture)
        assert "<b" not in drawn(picture, evidence_of(whole))


def test_cells_without_samples_are_counted() -> None:
    assert samples.pictures(evidence_of(record_of(), record_of(latency=latency_of()))) == []
    assert (
        "Timed without samples, so that nothing can be drawn: 1 cell."
        in distribution(record(noisy()), record_of(latency=latency_of())).caption
    )


def in_order(whole: Record) -> Any:
    found = [picture for picture in samples.pictures(evidence_of(whole)) if picture.name == "samples-c0"]
    return found[0] if found else None


def test_a_quiet_cell_has_no_picture_of_its_own() -> None:
    assert in_order(record(noisy())) is None


def test_a_handful_of_samples_has_no_order_to_look_at() -> None:
    assert in_order(record(noisy(samples.FEW), {"waited": 0.2})) is not None
    assert in_order(record(noisy(samples.FEW - 1), {"waited": 0.2})) is None


def test_samples_stand_in_their_order() -> None:
    durations = noisy(1000)
    durations[700] = 1.0
    picture = in_order(record(durations, {"waited": 0.2}))
    check(picture)
    rows = data_of(picture, "order_c0")
    assert len(rows) == 250, "of a thousand samples a point stands for four"
    for row in rows:
        some = durations[row["first"] - 1 : row["first"] + 3]
        assert (row["median_s"], row["least_s"], row["most_s"]) == (median(some), min(some), max(some))
        assert row["at_s"] == pytest.approx(0.25 + sum(durations[: row["first"] - 1])), "after a quarter of a second of warm-up"
    assert max(rows, key=lambda row: row["most_s"])["first"] == 701, "the spike is where it was"
    assert "disturbed: its threads together waited for a processor for 20.0% of the time" in picture.caption


def test_points_that_are_samples_have_no_bars_to_speak_of() -> None:
    few, many = (in_order(record(noisy(count), {"waited": 0.2})).caption for count in (samples.BINS, samples.BINS + 1))
    assert "each point is a sample." in few and "its bar" not in few
    assert "each point is the median of 2 samples, its bar reaches" in many


def test_percentiles_without_a_bound_are_explained_where_there_are_some() -> None:
    words = "A percentile without a bound had too few samples"
    whole = record(noisy(1000))
    assert whole.latency is not None
    bounded = {name: Percentile(1e-3, 2e-3) for name in ("p50", "p90", "p99")}
    latency = replace(whole.latency, model=replace(whole.latency.model, percentiles=bounded))
    assert words not in distribution(replace(whole, latency=latency)).caption
    unbounded = replace(latency, model=replace(latency.model, percentiles={**bounded, "p99": Percentile(1e-3, None, "few")}))
    assert words in distribution(replace(whole, latency=unbounded)).caption


def test_meters_with_a_rate_share_the_axis_and_others_are_told_before_and_after() -> None:
    telemetry = {
        "clock": Reading("Hz", "machine", [2e9, 1.9e9, 1.2e9], rate_hz=2.0),
        "once": Reading("1", "machine", [3.0]),
        "absent": Reading("°C", "machine", unavailable="no sensor"),
    }
    states_of = {"before": {"temperature": read("°C", "machine", 40.0)}, "after": {"temperature": read("°C", "machine", 71.5)}}
    whole = record(
        noisy(),
        {"clock_drop": 0.4},
        latency={"telemetry": telemetry},
        state_before=states_of["before"],
        state_after=states_of["after"],
    )
    picture = in_order(whole)
    check(picture)
    assert [(row["at_s"], row["value"]) for row in data_of(picture, "clock_c0")] == [(0.0, 2e9), (0.5, 1.9e9), (1.0, 1.2e9)]
    assert "temperature 40 °C, then 71.5 °C" in picture.caption
    assert "Meters that read nothing: absent" in picture.caption
    assert "once" not in str(picture.specification)
    drawn(picture, evidence_of(whole))


@pytest.mark.parametrize(
    ("unit", "values", "watts", "at"),
    [
        ("J", [0.0, 1.0, 3.0, 4.0], [2.0, 4.0, 2.0], [0.25, 0.75, 1.25]),
        ("W", [5.0, 6.0, 7.0, 6.0], [5.0, 6.0, 7.0, 6.0], [0, 0.5, 1, 1.5]),
    ],
)
def test_power_is_drawn_of_counters_and_of_powers(unit: str, values: list[float], watts: list[float], at: list[float]) -> None:
    energy = Energy("rail", "machine", unit, seconds=2.0, samples=values, joules=1.0, running_w=6.0)
    whole = record(noisy(), latency={"energy": {"rails": energy}})
    picture = in_order(whole)
    check(picture)
    rows = data_of(picture, "power_rails_c0")
    assert [row["watts"] for row in rows] == watts
    assert [row["at_s"] for row in rows] == at
    assert "further inferences" in picture.caption


def test_the_reasons_are_in_an_order() -> None:
    def of(whole: Record) -> Latency:
        assert whole.latency is not None
        return whole.latency

    found = [samples.why(of(each)) for each in (record(noisy(), {"others": 0.3}), record([1e-3, 2e-3] * 20), record(noisy()))]
    assert found == sorted(found)
    assert [each.kind for each in found] == [samples.DISTURBED, samples.VAGUE, samples.TAILS]


def test_the_machine_during_the_session() -> None:
    def state(clock: float, load: float) -> dict[str, Reading]:
        return {
            "clock": read("Hz", "machine", clock), "load_1min": read("1", "machine", load),
            "temperature": read("°C", "machine", None, "no sensor"), "throttled": read("1", "machine", 0.0),
        }  # fmt: skip

    records = [
        record_of(
            cell_of(batch=1 + number), started_at=f"2026-01-01T00:0{number}:00+00:00", seconds=30.0,
            state_before=state(2e9, 0.1 * number), state_after=state(2e9, 1.0),
        )
        for number in range(4)
    ]  # fmt: skip
    evidence = evidence_of(*records, record_of(cell_of("old"), session="before", started_at="2025-12-31T00:00:00+00:00"))
    (picture,) = states.pictures(evidence)
    check(picture)
    rows = data_of(picture, "state_load_1min")
    assert [(row["at_s"], row["value"], row["when"]) for row in rows[:4]] == [
        (0.0, 0.0, states.BEFORE), (30.0, 1.0, states.AFTER), (60.0, 0.1, states.BEFORE), (90.0, 1.0, states.AFTER),
    ]  # fmt: skip
    assert "The same all the time: clock 2 GHz." in picture.caption
    assert "Not read: temperature: no sensor." in picture.caption
    assert "This is the last of 2 sessions." in picture.caption
    assert links(drawn(picture, evidence)) == {"#c0", "#c1", "#c2", "#c3"}
    assert states.pictures(evidence_of()) == states.pictures(evidence_of(record_of())) == []


def test_of_a_long_session_every_nth_cell_is_drawn() -> None:
    records = [
        record_of(cell_of(batch=1 + number), state_before={"load_1min": read("1", "machine", float(number))})
        for number in range(1000)
    ]
    (picture,) = states.pictures(evidence_of(*records))
    assert len(data_of(picture, "state_load_1min")) == 250
    assert "250 of 1000 cells are drawn, evenly spaced." in picture.caption
