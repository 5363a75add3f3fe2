"""Recommendations: an edge study's and others, worked out by hand on synthetic grids, and brute force over random ones."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plumbline.harness.rows import Row
from plumbline.harness.verdicts.figures import DISTURBED, DOUBTS, EMULATED, ESTIMATED, FIGURES, ORDERS
from plumbline.harness.verdicts.recommendation import Answer, Question, Setting, apart, recommend, setting_of
from tests import grids
from tests.grids import DENSE, EVEN, edge_study, row, rows_of
from tests.records import replace

LIMITS = {"memory": 2.6e9, "accuracy": 0.7}


def answer(rows: list[Row], **fields: Any) -> Answer:
    (found,) = recommend(rows, Question(**fields))
    return found


def chosen(rows: list[Row], **fields: Any) -> tuple[str, int, int] | None:
    best = answer(rows, **fields).best
    return None if best is None else (best.row.model, best.row.batch, best.row.image_size)


def of(rows: list[Row], model: str) -> list[Row]:
    return [each for each in rows if each.model == model]


def test_the_edge_studys_conclusion() -> None:
    """VGG-16, batch 16, 224 pixels: under 2.6 GB, with a top-1 of 0.7, at the least energy.

    Energies in units of 0.1 J at batch 16, where an image takes 1.125 times that of its MACs: VGG-16 at 224 pixels 15.47, the
    only size whose interval lies above 0.7. On this grid a MAC of ResNet-50 costs 8, one of MobileNetV3-L 100 times as much: of
    their sizes above 0.7 the least are 160 pixels (8 x 2.09 = 16.72) and 192 (100 x 0.16 = 16.0).
    """
    rows = rows_of(edge_study(DENSE))
    assert len(rows) == 3 * 4 * 6
    assert chosen(rows, limits=LIMITS, by=["energy"]) == ("vgg16", 16, 224)


def test_and_of_vgg16_alone_where_all_macs_cost_alike() -> None:
    """Of that net, the only size above 0.7 is 224 pixels; batch 8 and 32 take 1.15625 / 1.125 times the energy of 16."""
    found = answer(of(rows_of(edge_study(EVEN)), "vgg16"), limits=LIMITS, by=["energy"])
    assert [(each.row.batch, each.row.image_size) for each in found.fitting] == [(16, 224), (8, 224), (1, 224)]
    assert found.best is not None
    assert found.best.row.joules == pytest.approx(16 * 1.125 * 1.547)


def test_with_all_three_nets_another_one_wins_there() -> None:
    """0.16 GMAC at 192 pixels are the fewest with a top-1 above 0.7; at 160 the interval around 0.70 reaches below."""
    assert chosen(rows_of(edge_study(EVEN)), limits=LIMITS, by=["energy"]) == ("mobilenet_v3_large", 16, 192)


@pytest.mark.parametrize(
    ("grid", "ceiling", "expected"),
    [
        # 700 MB + 554 MB of weights + 65 MB an image: 2.29 GB at batch 16, 1.77 GB at batch 8, 1.32 GB at batch 1, 3.33 GB at 32
        (edge_study(DENSE), 2.0e9, ("vgg16", 8, 224)),  # 1.15625 x 15.47 = 17.89; MobileNetV3-L 1.125 x 16.0 = 18.0
        (edge_study(DENSE), 1.5e9, ("mobilenet_v3_large", 16, 192)),  # 18.0; VGG-16 at batch 1: 2.0039 x 15.47 = 31.0
        (edge_study(DENSE), 0.7e9, None),
        # the least energy at batch 32: 1 + 2 / 32 = 1.0625; at 16: 1 + 1 / 16 + 16 / 1024 = 1.078
        (edge_study(DENSE, optimum=32), 3.5e9, ("vgg16", 32, 224)),
        (edge_study(DENSE, optimum=32), 2.6e9, ("vgg16", 16, 224)),
        # the least at batch 1, of those that there are
        (edge_study(DENSE, optimum=1), 2.6e9, ("vgg16", 1, 224)),
    ],
)
def test_other_ceilings_and_other_optima_give_other_answers(
    grid: list[Any], ceiling: float, expected: tuple[str, int, int] | None
) -> None:
    assert chosen(rows_of(grid), limits={**LIMITS, "memory": ceiling}, by=["energy"]) == expected


def test_what_did_not_fit_on_the_device_is_not_chosen() -> None:
    """The same by outcomes, without a limit: of the batches of VGG-16 above 16 it is known only that they did not fit."""
    found = answer(of(rows_of(edge_study(EVEN, optimum=128, fits_bytes=2.6e9)), "vgg16"), limits={"accuracy": 0.7}, by=["energy"])
    assert found.best is not None
    assert (found.best.row.batch, found.best.row.image_size) == (16, 224)
    # 1.2536 GB, and 65, 47.8, 33.2 and 16.25 MB an image: 20.7, 28.2, 40.6 and 82.9 images fit
    assert found.untimed == {"out_of_memory": 3 + 3 + 2 + 1}


def test_what_binds_and_what_relaxing_it_gains() -> None:
    """With the optimum at batch 32, memory keeps it out: 3.3336 GB; it would take 1.0625 / 1.078125 of the energy."""
    found = answer(of(rows_of(edge_study(EVEN, optimum=32)), "vgg16"), limits=LIMITS, by=["energy"])
    best = found.best
    assert best is not None
    assert best.row.batch == 16
    (step,) = found.steps["memory"]
    assert (step.row.batch, step.row.image_size) == (32, 224)
    assert step.row.process_bytes == pytest.approx(3.3336e9)
    assert step.excess == {"memory": pytest.approx(3.3336 / 2.6 - 1), "accuracy": 0}
    assert step.row.joules is not None
    assert best.row.joules is not None
    assert (step.row.joules / 32) / (best.row.joules / 16) == pytest.approx(1.0625 / 1.078125)
    # top-1 binds, too: 192 pixels lack 0.7 - 0.686 = 2 %, and 112 take least of all
    assert [each.row.image_size for each in found.steps["accuracy"]] == [192, 160, 112]
    assert found.steps["accuracy"][0].excess["accuracy"] == pytest.approx((0.7 - 0.68593) / 0.7, abs=1e-5)


def test_nothing_fits() -> None:
    """Above 0.9 there is none: the nearest is ResNet-50 at 224 pixels, whose lower end of 0.8086 on 50,000 images is 0.80513."""
    found = answer(rows_of(edge_study(EVEN)), limits={**LIMITS, "accuracy": 0.9}, by=["energy"])
    assert found.best is None
    nearest = found.nearest[0]
    assert (nearest.row.model, nearest.row.batch, nearest.row.image_size) == ("resnet50", 16, 224)
    assert nearest.distance == pytest.approx((0, (0.9 - 0.80513) / 0.9), abs=1e-4)
    assert found.closest["accuracy"].row.model == "resnet50"
    memory = found.closest["memory"].row
    assert (memory.model, memory.batch, memory.image_size) == ("mobilenet_v3_large", 1, 112)
    assert found.steps["memory"] == []
    assert found.steps["accuracy"][0].row == nearest.row


def test_by_hand_a_distance_sums_over_limits() -> None:
    """30 ms for 20 and 0.6 for 0.8 miss a half and a quarter; 35 ms and 0.8 three quarters, which is as far."""
    rows = [
        row(1, latency_s=30e-3, latency_high_s=30e-3, top1=0.6, top1_low=0.6),
        row(2, latency_s=35e-3, latency_high_s=35e-3, top1=0.8, top1_low=0.8),
        row(3, latency_s=1e-3, latency_high_s=1e-3),  # of unknown top-1
    ]
    found = answer(rows, limits={"latency": 20e-3, "accuracy": 0.8})
    assert [each.distance for each in found.nearest] == [(0, pytest.approx(0.75)), (0, pytest.approx(0.75)), (1, 0)]
    assert {each.row.key for each in found.nearest[:2]} == {"c1", "c2"}
    assert found.unknown == {"accuracy": 1}
    assert [each.row.key for each in found.steps["latency"]] == ["c2"]
    assert found.steps["accuracy"] == []


# Each limit with a row that holds it, one that does not though its point estimate would, and the field that makes it unknown.
@pytest.mark.parametrize(
    ("name", "limit", "holds", "misses"),
    [
        ("latency", 33e-3, {"latency_high_s": 33e-3}, {"latency_s": 32e-3, "latency_high_s": 33.1e-3}),
        ("p99", 33e-3, {"p99_s": 33e-3}, {"p99_s": 33.1e-3}),
        ("first", 33e-3, {"first_s": 33e-3}, {"first_s": 33.1e-3}),
        ("memory", 512e6, {"process_bytes": 512e6}, {"process_bytes": 512.1e6}),
        ("inference_memory", 512e6, {"inference_bytes": 512e6}, {"inference_bytes": 512.1e6}),
        ("energy", 5e-3, {"batch": 2, "joules_high": 10e-3}, {"batch": 2, "joules": 9e-3, "joules_high": 10.1e-3}),
        ("size", 5e6, {"stored_bytes": 5e6}, {"stored_bytes": 5.1e6}),
        ("accuracy", 0.7, {"top1_low": 0.7}, {"top1": 0.75, "top1_low": 0.69}),
        (
            "throughput", 100.0,
            {"batch": 2, "latency_s": 19e-3, "latency_high_s": 20e-3},
            {"batch": 2, "latency_s": 19e-3, "latency_high_s": 20.1e-3},
        ),
        ("macs", 4e9, {"macs": 4 * 10**9}, {"macs": 4 * 10**9 + 1}),
    ],
)  # fmt: skip
def test_the_statistic_of_each_limit(name: str, limit: float, holds: dict[str, Any], misses: dict[str, Any]) -> None:
    assert answer([row(**holds)], limits={name: limit}).best is not None
    found = answer([row(**misses)], limits={name: limit})
    assert found.best is None
    assert (found.nearest[0].excess[name] or 0) > 0
    nothing = answer([row(latency_high_s=None)], limits={name: limit})
    assert nothing.best is None
    assert (nothing.unknown, nothing.closest) == ({name: 1}, {})


def test_each_limit_has_its_case() -> None:
    cases = next(mark for mark in test_the_statistic_of_each_limit.pytestmark if mark.name == "parametrize").args[1]
    assert {case[0] for case in cases} == set(FIGURES)


@pytest.mark.parametrize(
    ("name", "better", "worse"),
    [
        ("throughput", {"batch": 4, "latency_s": 3e-3}, {"batch": 1, "latency_s": 1e-3}),
        ("latency", {"batch": 1, "latency_s": 1e-3}, {"batch": 4, "latency_s": 3e-3}),
        ("energy", {"batch": 4, "joules": 3.0}, {"batch": 1, "joules": 1.0}),
        ("accuracy", {"top1": 0.8}, {"top1": 0.7}),
        ("memory", {"process_bytes": 1.0}, {"process_bytes": 2.0}),
        ("size", {"stored_bytes": 1.0}, {"stored_bytes": 2.0}),
    ],
)
def test_each_order(name: str, better: dict[str, Any], worse: dict[str, Any]) -> None:
    for rows in ([row(1, **better), row(2, **worse)], [row(2, **worse), row(1, **better)]):
        found = answer(rows, by=[name])
        assert [each.row.key for each in found.fitting] == ["c1", "c2"]


def test_ties_are_broken_by_what_was_asked_then_by_the_other_orders_then_by_name() -> None:
    rows = [row(1, top1=0.7), row(2, top1=0.7, latency_s=0.9e-3), row(3, top1=0.7, latency_s=0.9e-3, process_bytes=1.0)]
    assert [each.row.key for each in answer(rows, by=["accuracy"]).fitting] == ["c3", "c2", "c1"]
    assert [each.row.key for each in answer([row(2), row(1)]).fitting] == ["c1", "c2"]
    asked = [row(1, top1=0.7, latency_s=0.9e-3, stored_bytes=2.0), row(2, top1=0.7, stored_bytes=1.0)]
    assert [each.row.key for each in answer(asked, by=["accuracy", "size"]).fitting] == ["c2", "c1"]


def test_what_is_not_known_is_not_the_least() -> None:
    found = answer([row(1), row(2, joules=1.0)], by=["energy"])
    assert ([each.row.key for each in found.fitting], found.unordered) == (["c2"], 1)
    assert answer([row(1)], by=["energy"]).best is None


@pytest.mark.parametrize(
    ("fields", "doubt"),
    [
        ({"emulated": True}, EMULATED),
        ({"disturbed": "others had a processor"}, DISTURBED),
        ({"remarks": "1 of 2 threads work"}, DISTURBED),
        ({"joules": 0.5, "joules_high": 0.5, "energy_is_estimate": True}, ESTIMATED),
    ],
)
def test_a_doubtful_setting_is_chosen_only_where_that_is_allowed(fields: dict[str, Any], doubt: str) -> None:
    rows = [row(1, joules=1.0, joules_high=1.0), row(2, **{"joules": 0.5, "joules_high": 0.5, "latency_s": 0.5e-3, **fields})]
    found = answer(rows, by=["energy"])
    assert found.best is not None
    assert (found.best.row.key, found.aside) == ("c1", {doubt: 1})
    assert found.overlooked is not None
    assert found.overlooked.row.key == "c2"
    allowed = answer(rows, by=["energy"], allowed=[doubt])
    assert allowed.best is not None
    assert (allowed.best.row.key, allowed.aside, allowed.overlooked) == ("c2", {}, None)


def test_one_that_is_left_out_is_named_only_if_it_would_be_the_best() -> None:
    assert answer([row(1), row(2, latency_s=2e-3, emulated=True)]).overlooked is None
    assert answer([row(1), row(2, latency_s=0.5e-3, emulated=True, top1_low=0.6)], limits={"accuracy": 0.7}).overlooked is None


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [((1.0, 2.0), (3.0, 4.0), True), ((1.0, 3.0), (2.0, 4.0), False), ((1.0, 2.0), (2.0, 3.0), False), ((1.0, 2.0), None, False)],
)
def test_intervals_that_overlap_tell_nothing_apart(
    one: tuple[float, float], other: tuple[float, float] | None, expected: bool
) -> None:
    low, high = other or (None, None)
    pair = [row(1, latency_low_s=one[0], latency_high_s=one[1]), row(2, latency_low_s=low, latency_high_s=high)]
    a, b = (setting_of(each, Question()) for each in pair)
    assert apart(a, b, ORDERS["latency"]) is expected
    assert apart(b, a, ORDERS["latency"]) is expected


def test_what_cannot_be_told_from_the_best_is_no_better_one() -> None:
    near = row(2, latency_s=0.999e-3, process_bytes=2.0)
    far = row(3, latency_s=0.5e-3, latency_low_s=0.49e-3, latency_high_s=0.51e-3, process_bytes=3.0)
    found = answer([row(1, process_bytes=1.0), near, far], limits={"memory": 1.0})
    assert [each.row.key for each in found.better] == ["c3"]
    assert [each.row.key for each in found.steps["memory"]] == ["c3"]


def test_estimated_energy_is_no_doubt_where_energy_is_not_asked_for() -> None:
    assert answer([row(energy_is_estimate=True)]).aside == {}


@pytest.mark.parametrize("outcome", ["failed", "crashed", "timed_out", "out_of_memory", "unsupported", "unavailable"])
def test_what_is_not_correct_is_not_chosen(outcome: str) -> None:
    """Even if it was timed before it ended."""
    found = answer([row(outcome=outcome)])
    assert (found.best, found.untimed, found.timed) == (None, {outcome: 1}, False)


def test_machines_and_targets_are_not_mixed() -> None:
    rows = [row(1), row(2, machine_id="other", latency_s=0.5e-3), row(3, target="cuda", latency_s=0.1e-3)]
    found = {(each.machine_id, each.target): each.best.row.key for each in recommend(rows, Question()) if each.best}
    assert found == {("m", "cpu"): "c1", ("other", "cpu"): "c2", ("m", "cuda"): "c3"}


def test_a_cell_that_reached_no_probe_counts_for_the_machine_of_its_session() -> None:
    rows = [row(1), row(2, outcome="unsupported", latency_s=None, machine_id="without versions")]
    (found,) = recommend(rows, Question())
    assert (found.machine_id, found.rows, found.untimed) == ("m", 2, {"unsupported": 1})


def test_the_latest_record_of_a_cell_counts() -> None:
    later = "2026-01-02T00:00:00+00:00"
    again = row(2, model="net1", latency_s=2e-3, session="two", started_at=later)
    for rows in ([row(1), again], [again, row(1)]):
        found = answer(rows)
        assert [each.row.key for each in found.fitting] == ["c2"]
    assert answer([row(1), replace(again, outcome="failed")]).best is None


def test_top1_of_different_pictures_is_counted() -> None:
    assert answer([row(1, data="digits"), row(2, data="imagenet"), row(3)]).pictures == {"digits": 1, "imagenet": 1}


# Few values, so that ties, bounds and overlaps are common.
SECONDS = st.sampled_from([1e-3, 2e-3, 3e-3, 4e-3])
SMALL = st.sampled_from([1.0, 2.0, 3.0, 4.0])
SHARES = st.sampled_from([0.4, 0.6, 0.8])


@st.composite
def random_rows(draw: st.DrawFn) -> list[Row]:
    made = []
    for number in range(draw(st.integers(1, 9))):
        seconds, joules, top1 = draw(SECONDS), draw(st.none() | SMALL), draw(st.none() | SHARES)
        within = draw(st.sampled_from([0.0, 0.1, 0.4]))
        fields: dict[str, Any] = {"latency_s": seconds, "latency_low_s": None, "latency_high_s": None}
        if draw(st.booleans()) or draw(st.booleans()):
            fields |= {"latency_low_s": seconds * (1 - within), "latency_high_s": seconds * (1 + within)}
        if joules is not None:
            fields |= {"joules": joules, "joules_low": joules * (1 - within), "joules_high": joules * (1 + within)}
        if top1 is not None:
            fields |= {"top1": top1, "top1_low": top1 - within / 4, "top1_high": top1 + within / 4}
        made.append(
            row(
                number,
                batch=draw(st.sampled_from([1, 2, 4])),
                process_bytes=draw(st.none() | SMALL),
                stored_bytes=draw(st.none() | SMALL),
                outcome=draw(st.sampled_from(["ok", "ok", "ok", "failed"])),
                emulated=draw(st.sampled_from([False, False, True])),
                **fields,
            )
        )
    return made


LIMITED = {
    "latency": SECONDS, "memory": SMALL, "size": SMALL, "energy": SMALL, "accuracy": SHARES,
    "throughput": st.sampled_from([300.0, 1000.0]),
}  # fmt: skip
random_limits = st.fixed_dictionaries({}, optional=LIMITED)
random_orders = st.lists(st.sampled_from(list(ORDERS)), min_size=1, max_size=3, unique=True)


def holds(one: Row, name: str, limit: float) -> bool:
    """Whether a limit holds, as the documentation has it."""
    if name == "latency":
        return one.latency_high_s is not None and one.latency_high_s <= limit
    if name == "throughput":
        return one.latency_high_s is not None and one.batch / one.latency_high_s >= limit
    if name == "energy":
        return one.joules_high is not None and one.joules_high / one.batch <= limit
    if name == "accuracy":
        return one.top1_low is not None and one.top1_low >= limit
    value = {"memory": one.process_bytes, "size": one.stored_bytes}[name]
    return value is not None and value <= limit


def cost(one: Row, name: str) -> float | None:
    """What an order makes least of, as the documentation has it."""
    assert one.latency_s is not None
    if name == "throughput":
        return -one.batch / one.latency_s
    if name == "latency":
        return one.latency_s
    if name == "energy":
        return None if one.joules is None else one.joules / one.batch
    if name == "accuracy":
        return None if one.top1 is None else -one.top1
    return {"memory": one.process_bytes, "size": one.stored_bytes}[name]


def is_better(one: Row, other: Row, by: list[str]) -> bool:
    for name in [*by, *(name for name in ORDERS if name not in by)]:
        a, b = cost(one, name), cost(other, name)
        if a != b:
            return b is None or (a is not None and a < b)
    return one.model < other.model


@given(random_rows(), random_limits, random_orders, st.sets(st.sampled_from(list(DOUBTS))))
@settings(deadline=None, max_examples=400)
def test_brute_force_agrees(rows: list[Row], limits: dict[str, float], by: list[str], allowed: set[str]) -> None:
    found = answer(rows, limits=limits, by=by, allowed=sorted(allowed))
    can = [
        each
        for each in rows
        if each.outcome == "ok" and (not each.emulated or EMULATED in allowed) and cost(each, by[0]) is not None
    ]
    fits = [each for each in can if all(holds(each, name, limit) for name, limit in limits.items())]
    best = [each for each in fits if not any(is_better(other, each, by) for other in fits)]
    assert [each.row for each in found.fitting[:1]] == best
    assert {each.row.key for each in found.fitting} == {each.key for each in fits}
    for earlier, later in zip(found.fitting, found.fitting[1:]):
        assert is_better(earlier.row, later.row, by)


@given(random_rows(), random_limits, random_orders)
@settings(deadline=None, max_examples=400)
def test_the_first_step_is_the_smallest_relaxation_that_gains(rows: list[Row], limits: dict[str, float], by: list[str]) -> None:
    """With a limit relaxed to what a step says, its setting fits; with any smaller relaxation nothing better fits."""
    question = Question(limits=limits, by=by)
    found = answer(rows, limits=limits, by=by)

    def gained(name: str, limit: float) -> list[Setting]:
        """Return what fits with another limit that did not before, if it is better than the best and told apart."""
        again = answer(rows, limits={**limits, name: limit}, by=by)
        known = {each.row.key for each in found.fitting}
        new = [each for each in again.fitting if each.row.key not in known]
        if found.best is None:
            return new
        return [each for each in new if is_better(each.row, found.best.row, by) and apart(each, found.best, question.order)]

    for name, limit in limits.items():
        values = {value for each in rows if (value := FIGURES[name].value(each)) is not None}
        relaxed = [value for value in values if (value > limit if FIGURES[name].most else value < limit)]
        smallest = sorted(relaxed, key=lambda value: abs(value - limit))
        useful = [value for value in smallest if gained(name, value)]
        steps = found.steps[name]
        assert [FIGURES[name].value(each.row) for each in steps[:1]] == useful[:1]
        if useful:
            most = gained(name, useful[-1])
            assert not any(is_better(each.row, steps[-1].row, by) and apart(each, steps[-1], question.order) for each in most)


@given(random_rows(), random_limits, random_orders)
@settings(deadline=None, max_examples=200)
def test_the_nearest_misses_least(rows: list[Row], limits: dict[str, float], by: list[str]) -> None:
    found = answer(rows, limits=limits, by=by)
    if found.fitting:
        assert (found.nearest, found.closest) == ([], {})
        return
    assert len(found.nearest) == found.settings
    for each in found.nearest[:1]:
        for other in found.nearest:
            assert each.distance <= other.distance
        assert each.missed == [name for name, limit in limits.items() if not holds(each.row, name, limit)]


def test_a_grid_says_that_it_is_synthetic() -> None:
    assert all("SYNTHETIC" in each.machine for each in rows_of(edge_study(EVEN)))
    assert grids.SYNTHETIC.cpu_model.startswith("SYNTHETIC")
    assert setting_of(row(), Question()).missed == []
