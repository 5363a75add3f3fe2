"""What the studies reported beside what was measured: nothing is assumed."""

from __future__ import annotations

from typing import Any

from plumbline.harness.record import Record
from plumbline.harness.session.matrix import FILE, emulated, expand, load
from plumbline.harness.studies.reproduction import TIER, missed, reported, tables
from plumbline.models.counting.published import REPORTED
from tests.records import accuracy_of, cell_of, counts_of, latency_of, prepared_of, record_of, replace


def record(model: str, top1: float | None, top5: float = 0.99, **more: Any) -> Record:
    training = {
        "seconds": 420.0,
        "curves": [{"seconds": 42.0, "top1": 0.1 * n} for n in range(10)],
        "machine": {"cpu_model": "a processor", "cores_allowed": 2},
    }
    return record_of(
        cell_of(model, **{"image_size": 32, **more}),
        accuracy=accuracy_of(top1, top5=top5, loss=0.001, budget=0.005),
        prepared=prepared_of(training=training if top1 else None),
        counts=counts_of(2_913_290, 2_910_208),
        latency=latency_of(0.000123),
    )


def row(table: str, *words: str) -> str:
    (found,) = [line for line in table.splitlines() if all(word in line for word in words)]
    return found


def test_each_figure_passes_fails_or_is_missing() -> None:
    records = [
        record("alexnet_cifar", 0.5386),
        record("vit_cifar", 0.6, 0.96),
        record("alexnet_cifar_residual", 0.6, 0.9),
        record("mixer_s16+data=cifar10", None, image_size=224),
    ]
    table = reported(records)
    assert "passed" in row(table, "alexnet_cifar ", "eager", "fp32")
    assert "7 min, 10 epochs" in row(table, "alexnet_cifar ", "eager", "fp32")
    assert "  4 min 50 s  " in row(table, "alexnet_cifar ", "eager", "fp32"), "above 53.86 % after seven epochs of 42 s"
    assert "a processor, 2 cores" in row(table, "alexnet_cifar ", "eager", "fp32")
    assert "failed: 4.97 points of top-1 less, 0.86 points of top-5 less" in row(table, "vit_cifar")
    assert "failed: 0.27 points of top-5 less" in row(table, "alexnet_cifar_residual")
    assert "missing: no weights" in row(table, "mixer_s16+data=cifar10")
    assert "missing: not run yet" in row(table, "resnet56")
    assert "missing: not run yet" in row(table, "alexnet_cifar ", "w16")  # another precision of a net that was run


def test_what_is_less_than_was_reported_is_named_for_the_exit_code() -> None:
    less = [record("vit_cifar", 0.6, 0.96), record("alexnet_cifar", 0.5386)]
    assert missed(less) == ["vit_cifar (failed: 4.97 points of top-1 less, 0.86 points of top-5 less)"]
    assert missed([]) == []


def test_a_cell_that_ended_badly_says_why() -> None:
    failed = replace(record("vit_cifar", None), outcome="timed_out", reason="it took too long", accuracy=None)
    assert "missing: it took too long" in row(reported([failed]), "vit_cifar")


def test_a_sweep_is_in_order_and_needs_accuracy_and_latency() -> None:
    def net(options: str, size: int = 28, **more: Any) -> list[Record]:
        name = f"mlp+{options}"
        return [record(name, 0.97, image_size=size, batch=64), record(name, 0.97, image_size=size, batch=1)]

    records = [
        *net("recipe=study+width=4096"),
        *net("data=mnist+recipe=study+treatment=crop", 14),
        *net("depth=4+recipe=study"),
        *net("recipe=study+width=128"),
        *net("recipe=study"),
        *net("depth=8+recipe=study")[:1],  # has no latency of one picture
        record("mlp", 0.98, image_size=28),  # by another recipe
    ]
    lines = tables(records).partition("sweeps by the study's recipe")[2].partition("\nEvery")[0].splitlines()
    rows = [line.split()[:4] for line in lines if "%" in line]
    assert rows == [
        ["2", "128", "28", "none"],
        ["2", "1024", "28", "none"],
        ["2", "4096", "28", "none"],
        ["4", "1024", "28", "none"],
        ["2", "1024", "14", "crop"],
    ]


def test_ways_stand_side_by_side_and_say_why_not() -> None:
    refused = record("resnet20", None, runtime="openvino", precision="fp16", batch=64)
    records = [
        record("resnet20", 0.9173, batch=64),
        record("resnet56", 0.9339, batch=64, runtime="onnxruntime", precision="int8-static"),
        replace(refused, outcome="unsupported", reason="this processor lacks f16"),
        record("resnet20", 0.5, batch=1),
    ]
    table = tables(records).partition("Every runtime")[2]
    assert row(table, "eager", "fp32").split()[2:] == ["91.73", "%", "(+0.10)", "-"]
    assert row(table, "onnxruntime").split()[2:] == ["-", "93.39", "%", "(+0.10)"]
    assert "unsupported" in row(table, "openvino  ")
    assert "- openvino fp16: this processor lacks f16" in table


def test_every_reported_accuracy_has_a_cell() -> None:
    tier = load(FILE)[TIER]
    measured = [*expand(tier, {}), *emulated(tier, {})]  # on one processor or the other
    cells = {(cell.model, cell.image_size, cell.runtime, cell.precision) for cell in measured}
    missing = [one for one in REPORTED if (one.model, one.image_size, one.runtime, one.precision) not in cells]
    assert missing == []
