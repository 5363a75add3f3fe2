"""Ten questions, written before the page: who has the page alone, without its scripts, can answer them.

The run is made up so that the answers are known by hand. The same questions were asked of the default and compression tiers.
"""

from __future__ import annotations

import html
import re
from typing import Any

import pytest

from plumbline.harness.facts import Delivery, Promise
from plumbline.harness.readings import read
from plumbline.harness.record import Record
from plumbline.harness.views.report import page
from plumbline.harness.views.report.pictures import pictures
from tests.harness.views.report.test_page import Read, evidence_of
from tests.records import accuracy_of, cell_of, counts_of, latency_of, prepared_of, record_of, replace

EMPTY_MIB, MACS, PARAMETERS = 480, 4_000_000, 1_000_000
LATENCY, TOP1, LOSS = "latency (median), ms", "top-1 accuracy, %", "top-1 lost to the fp32 parent, points"
PROMISED, REALISED = "theoretical speed-up, x", "realised speed-up, x"


def one(
    model: str,
    ms: float,
    top1: float | None,
    *,
    loss: float | None = None,
    times: float = 3.0,
    own_mib: int = 20,
    promise: Promise | None = None,
    delivery: Delivery | None = None,
    steady: bool = True,
    others: float = 0.01,
    **axes: str | int,
) -> Record:
    """Make a cell that passed; trained where it has an accuracy. Its first inference takes `times` its median."""
    latency = latency_of(ms * 1e-3)
    latency = replace(
        latency,
        model=replace(latency.model, steady=steady),
        first_s=times * ms * 1e-3,
        disturbance={"others": read("1", "machine", others)},
    )
    accuracy = accuracy_of(top1)
    if top1 is not None:
        accuracy = replace(accuracy, images=500, interval=(top1 - 0.01, top1 + 0.01), loss=loss, data="digits")
    held = {"process_base": EMPTY_MIB, "process_peak": EMPTY_MIB + own_mib}
    return record_of(
        cell_of(model, **axes),
        latency=latency,
        accuracy=accuracy,
        counts=counts_of(PARAMETERS, MACS),
        prepared=prepared_of(promise, None if top1 is None else {"epochs": 1}),
        delivery=delivery,
        memory={name: read("byte", "machine", mib * 2.0**20) for name, mib in held.items()},
        machine=replace(record_of().machine, cpu_model="AMD EPYC"),
        started_at="2026-11-28T04:07:00+00:00",
    )


def saves(share: float, speedup: float, stored: int) -> dict[str, Any]:
    """Say what a variant saves with that share of its MACs and parameters, in turns with its dense net, in `stored` bytes."""
    macs, parameters = round(MACS * share), round(PARAMETERS * share)
    promise = Promise(PARAMETERS, PARAMETERS, parameters, parameters, MACS, MACS, macs, 4 * PARAMETERS, stored, None)
    return {"promise": promise, "delivery": Delivery(speedup, (0.98 * speedup, 1.02 * speedup), 9)}


RUN = [
    one("small_cnn", 0.09, 0.982),
    one("small_cnn", 0.03, 0.982, runtime="onnxruntime"),
    one("small_cnn", 0.04, 0.978, loss=0.004, runtime="onnxruntime", precision="int8-static"),
    one("tiny_net", 0.01, 0.971),
    one("mlp", 1.76, 0.982),
    one("mlp", 1.7, 0.96, loss=0.022, variant="prune95+huffman", **saves(0.05, 1.01, 60_000)),
    one("mlp", 1.8, 0.985, loss=-0.003, variant="gradual97+huffman", **saves(0.03, 0.97, 114_000)),
    one("mlp", 1.8, 0.979, loss=0.003, variant="l1+huffman", **saves(0.02, 1.02, 71_000)),
    one("resnet50", 109.0, None, own_mib=208),
    one("resnet50", 60.0, None, steady=False, variant="filter50", **saves(0.5, 1.72, 2_000_000)),
    one("squeezenet1_1", 21.4, None, own_mib=58),
    one("mobilenet_v3_large", 20.0, None, times=2.5),
    one("vit_tiny", 36.0, None, others=0.3),
    record_of(cell_of("alexnet"), outcome="failed", reason="its outputs differ from float64 by 3 times the tolerance"),
]  # fmt: skip


class Reader:
    """Who sees the page: what its texts say, and the matrix as its heads name it."""

    def __init__(self, text: str) -> None:
        self.words = " ".join(" ".join(Read(text).texts).split())
        table = text.partition('<table id="matrix">')[2].partition("</table>")[0]
        heads = [_plain(head) for head in re.findall(r"<th [^>]*>(.*?)</th>", table)]
        found = table.partition("<tbody>")[2].split("<tr ")[1:]
        self.rows = [dict(zip(heads, map(_plain, row.split("<td>")[1:]))) for row in found]

    def row(self, **wanted: str) -> dict[str, str]:
        """Return the one row with these values."""
        (found,) = (row for row in self.rows if wanted.items() <= row.items())
        return found

    def fact(self, name: str) -> str:
        """Return what follows a name at the head of the page."""
        return self.words.partition(f" {name} ")[2]


def _plain(markup: str) -> str:
    return html.unescape(re.sub("<[^>]+>", "", markup)).strip()


def _number(text: str) -> float:
    """Return the number that a cell begins with; nothing there comes last."""
    found = re.match(r"[≤≈]?(-?[\d.]+)", text)
    return float(found[1]) if found else float("inf")


@pytest.fixture(scope="module")
def reader() -> Reader:
    evidence = evidence_of(*RUN)
    return Reader(page.page(evidence, pictures(evidence), "A report"))


def test_which_net_that_is_right_on_98_percent_answers_soonest(reader: Reader) -> None:
    able = [row for row in reader.rows if row[TOP1] and _number(row[TOP1]) >= 98]
    best = min(able, key=lambda row: _number(row[LATENCY]))
    assert (best["model"], best["runtime"], best["precision"], best[LATENCY]) == ("small_cnn", "onnxruntime", "fp32", "0.03")


def test_which_cells_ended_otherwise_and_why(reader: Reader) -> None:
    assert "13 of 14 cells passed all checks and were timed; 1 failed." in reader.words
    (failed,) = (row for row in reader.rows if row["outcome"] != "ok")
    assert (failed["model"], failed["outcome"]) == ("alexnet", "failed")
    assert failed["why"] == "its outputs differ from float64 by 3 times the tolerance"


def test_which_promise_was_not_kept_and_which_case_is_the_worst(reader: Reader) -> None:
    said = "The furthest off is mlp-l1+huffman-eager-fp32-b1-8px-cpu: promised 50x, realised 1.02x."
    assert "3 of 4 compressed cells did not deliver" in reader.words and said in reader.words
    short = {row["variant"]: (row[PROMISED], _number(row[REALISED])) for row in reader.rows if row["verdict"] == "no faster"}
    assert short == {"prune95+huffman": ("20", 1.01), "gradual97+huffman": ("33.3", 0.97), "l1+huffman": ("50", 1.02)}


def test_what_int8_cost_and_what_it_gained(reader: Reader) -> None:
    int8 = reader.row(model="small_cnn", precision="int8-static")
    full = reader.row(model="small_cnn", runtime="onnxruntime", precision="fp32")
    assert [_number(row[TOP1]) for row in (full, int8)] == [98.2, 97.8]
    assert (int8[LOSS], int8["speed-up over fp32, not in turns, x"]) == ("0.4", "0.75"), "it is slower"


def test_how_quiet_the_machine_was_and_what_to_doubt(reader: Reader) -> None:
    assert reader.fact("quiet").startswith("other processes had 30.0% of the processors at most; 1 of 13 latencies disturbed")
    assert "Latencies to doubt: 2 of 13" in reader.words
    assert "1 cell: the warm-up did not become steady" in reader.words
    assert reader.row(model="vit_tiny")[LATENCY] == "36!"


def test_which_variant_is_smallest_and_at_most_a_point_less_accurate(reader: Reader) -> None:
    able = [row for row in reader.rows if row["model"] == "mlp" and row["variant"] != "dense" and _number(row[LOSS]) <= 1]
    best = min(able, key=lambda row: _number(row["size of the weights, MB"]))
    assert (best["variant"], best["size of the weights, MB"]) == ("l1+huffman", "0.071")


def test_how_much_memory_a_process_needs(reader: Reader) -> None:
    large, small = reader.row(model="resnet50", variant="dense"), reader.row(model="squeezenet1_1")
    assert [row["peak of the process, MiB"] for row in (large, small)] == ["688", "538"]
    assert [row["peak above an empty process, MiB"] for row in (large, small)] == ["208", "58"]
    assert "An empty process, with Python and its libraries alone, held 480 MiB." in reader.words


def test_where_when_and_by_what_it_was_measured(reader: Reader) -> None:
    assert reader.fact("machine").startswith("AMD EPYC")
    assert reader.fact("measured").startswith("2026-01-01 to 2026-11-28")
    assert reader.fact("revision of plumbline").startswith("5ca1ab1e")


def test_how_much_longer_the_first_inference_takes(reader: Reader) -> None:
    found = reader.row(model="mobilenet_v3_large")
    assert (found["first inference, ms"], found[LATENCY], found["first inference / median, x"]) == ("50", "20", "2.5")


def test_what_half_of_the_filters_save_and_what_is_not_known_of_it(reader: Reader) -> None:
    found, dense = reader.row(variant="filter50"), reader.row(model="resnet50", variant="dense")
    assert [found["MACs of an image, dense net, M"], found["effective MACs of an image, M"]] == ["4", "2"]
    assert (found[PROMISED], found[REALISED], found["verdict"]) == ("2", "1.72 1.69–1.75", "passed")
    assert found[TOP1] == dense[TOP1] == "untrained"
    assert found[LATENCY] == "60~", "its warm-up did not become steady"
