"""What `plumbline recommend` prints."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline.harness.rows import Row
from plumbline.harness.verdicts.figures import FIGURES
from plumbline.harness.verdicts.recommendation import Question, recommend, setting_of
from plumbline.harness.views.recommendation import relaxed, text
from tests.grids import EVEN, edge_study, row, rows_of
from tests.records import replace

LIMITS = {"memory": 2.6e9, "accuracy": 0.7}


def shown(rows: list[Row], style: str = "simple", most: int = 5, problems: list[str] | None = None, **fields: Any) -> str:
    question = Question(**fields)
    return text(recommend(rows, question), question, most, style, problems or [])


@pytest.fixture(scope="module")
def vgg16() -> list[Row]:
    return [each for each in rows_of(edge_study(EVEN, optimum=32)) if each.model == "vgg16"]


def test_the_best_with_its_intervals_what_binds_and_what_to_relax(vgg16: list[Row]) -> None:
    found = shown(vgg16, limits=LIMITS, by=["energy"])
    lines = found.splitlines()
    assert lines[:3] == [
        "- memory ≤ 2600 MB: peak of the whole process, in 10^6 bytes",
        "- top-1 ≥ 0.7: a share, lower end of Wilson's 95 % interval",
        "- best: least energy of an image",
    ]
    assert "board@cuda on SYNTHETIC grid, nothing was measured" in found
    assert "24 of 24 cells passed their checks and were timed" in lines
    assert "recommended: vgg16-dense-agent-fp32-b16-224px" in lines
    # 1.078125 x 1.547 J, within 0.4 %; 16 images at 6 W
    best = next(line for line in lines if line.startswith("vgg16-dense-agent-fp32-b16-224px"))
    assert re.split("  +", best)[1:] == ["1668 (1661-1675)", "4448 (4430-4465)", "71.6 (71.2-72)", "2294", "-"]
    assert "- 3 settings of 24 fit" in lines
    # 5 batches at 192 pixels, of which 3 take too much memory, all 6 at 160 (2) and at 112 (1), and batch 32 at 224
    assert "- 18 settings are better than the best, and kept out by limits: memory 7, top-1 17" in lines
    following = (
        "- the next better one is vgg16-dense-agent-fp32-b32-224px (-1.45% energy of an image); it misses memory by 28% (3334 MB)"
    )
    assert following in lines
    step = next(line for line in lines if line.startswith("memory ≤ 2600 MB "))
    assert re.split("  +", step)[1:4] == ["3334 MB", "28%", "vgg16-dense-agent-fp32-b32-224px"]


def test_nothing_fits(vgg16: list[Row]) -> None:
    found = shown(vgg16, limits={**LIMITS, "accuracy": 0.8, "p99": 1e-3}, by=["energy"])
    assert "nothing fits: none of 24 settings is within all limits" in found
    own = next(line for line in found.splitlines() if line.startswith("top-1 ≥ 0.8"))
    assert re.split("  +", own)[1:] == ["0 of 24", "0.712", "vgg16-dense-agent-fp32-b32-224px"]
    assert "no limit, relaxed alone, lets a setting in" in found


def test_what_is_not_known_is_said() -> None:
    found = shown([row(1), row(2, top1=0.8, top1_low=0.7, data="digits")], limits={"accuracy": 0.6, "energy": 1e-3})
    assert "- energy is unknown for 2 of 2 settings; these cannot pass" in found
    assert "- top-1 is unknown for 1 of 2 settings; these cannot pass" in found
    assert re.search(r"energy ≤ 1 mJ +0 of 2 +not known", found)
    assert re.search(r"net2-\S+ +0%, 1 not known +0.7 +not known", found)
    assert "- left out: 2 of unknown energy of an image" in shown([row(1), row(2)], by=["energy"])


def test_runners_up_that_cannot_be_told_apart() -> None:
    rows = [row(1), row(2, latency_s=1.001e-3), row(3, latency_s=2e-3, latency_low_s=1.9e-3, latency_high_s=2.1e-3)]
    found = shown([*rows, row(4, latency_s=3e-3, latency_low_s=None, latency_high_s=None)], most=3)
    words = [line.split()[-1] for line in found.splitlines() if line.startswith("net")]
    assert words == ["-", "no", "yes"]
    assert "- 4 settings of 4 fit; 1 more not shown" in found
    assert "- 2 of them cannot be told apart from the best: their 95 % intervals of throughput overlap, or are not known" in found
    assert "- no limit binds" in found


def test_who_is_left_out_is_named() -> None:
    found = shown([row(1), row(2, latency_s=1e-4, precision="bf16", emulated=True), row(3, disturbed="others had 40 %")])
    assert "- left out: 1 emulated: arithmetic that the processor does not have; --allow emulated takes them" in found
    assert "--allow disturbed takes them" in found
    assert re.search(r"^- net2-\S+ was left out, and would be the best \(10000 .*images/s\): bf16 is emulated$", found, re.M)
    assert "no setting is left to choose from" in shown([row(emulated=True)])


def test_what_was_allowed_is_marked() -> None:
    rows = [
        row(1, emulated=True),
        row(2, disturbed="x"),
        row(3, joules=1.0, energy_is_estimate=True),
        row(4, steady=False),
        row(5),
    ]
    found = shown(rows, allowed=["emulated", "disturbed", "estimated"])
    marked = {line.split()[0][-1] for line in found.splitlines() if line.startswith("net")}
    assert marked == {"*", "!", "≈", "~", "x"}
    assert [line[2] for line in found.splitlines() if line.startswith(("- *", "- !", "- ≈", "- ~"))] == ["*", "!", "≈", "~"]


def test_each_machine_has_its_answer_and_one_without_times_a_line() -> None:
    cuda = row(3, target="cuda", outcome="unavailable", reason="no CUDA device", latency_s=None)
    found = shown([row(1), row(2, machine_id="other"), cuda])
    assert len(re.findall("^recommended: ", found, re.M)) == 2
    assert found.endswith("cuda on SYNTHETIC [m]: nothing was timed (1 unavailable)")


def test_pictures_of_several_sets_and_unread_lines_are_said() -> None:
    found = shown([row(1, data="digits"), row(2, data="imagenet")], problems=["run: line 3: not a record"])
    assert "- top-1 is of different pictures (1 digits, 1 imagenet), and not comparable between these; see --model" in found
    assert found.endswith("- not read: run: line 3: not a record")


def test_markdown(vgg16: list[Row]) -> None:
    found = shown(vgg16, "github", limits=LIMITS, by=["energy"])
    assert "\n### board@cuda on SYNTHETIC grid" in found
    head = next(line for line in found.splitlines() if line.startswith("| setting"))
    assert "energy of an image mJ" in head
    assert "| vgg16-dense-agent-fp32-b16-224px" in found


@pytest.mark.parametrize("name", FIGURES)
@given(value=st.floats(1e-9, 1e12), limit=st.floats(1e-9, 1e12))
def test_what_a_limit_is_relaxed_to_lets_the_setting_in(name: str, value: float, limit: float) -> None:
    """As the command line reads it; and it is no more than 1 % beyond what is needed."""
    figure = FIGURES[name]
    field = {
        "latency": "latency_high_s", "p99": "p99_s", "first": "first_s", "memory": "process_bytes", "size": "stored_bytes",
        "inference_memory": "inference_bytes", "energy": "joules_high", "accuracy": "top1_low", "throughput": "latency_high_s",
        "macs": "macs",
    }[name]  # fmt: skip
    one = replace(row(), **{field: value})
    held = figure.value(one)
    assert held is not None
    again = float(relaxed(setting_of(one, Question({name: limit})), figure)) * figure.scale
    assert setting_of(one, Question({name: again})).missed == []
    assert again == pytest.approx(held, rel=0.011)
