"""The page, read without a browser: nothing is lost, nothing is executed that is not ours, nothing is fetched."""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib.util
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from plumbline.harness.facts import Delivery, Percentile, Promise
from plumbline.harness.readings import read
from plumbline.harness.record import Record
from plumbline.harness.rows import row_of
from plumbline.harness.studies.report import Evidence
from plumbline.harness.verdicts import comparison
from plumbline.harness.verdicts.realised import verdict
from plumbline.harness.views.report import assets, matrix, page, payload, summary
from plumbline.harness.views.report.legend import legend
from plumbline.harness.views.report.pictures import pictures
from plumbline.models.compression import variants
from tests import synthetic_runs
from tests.records import accuracy_of, cell_of, counts_of, latency_of, prepared_of, record_of, replace, timing_of

MARKUP = "</script><img src=x onerror=alert(1)>\"'&"


class Read(HTMLParser):
    """What a browser would make of a page: elements with their attributes, and the text in them."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.texts.append(data)

    def found(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [own for name, own in self.elements if name == tag and attributes.items() <= own.items()]


def evidence_of(*records: Record, **fields: Any) -> Evidence:
    keyed = {f"c{number}": record for number, record in enumerate(records, 1)}
    return Evidence([row_of(record, key, verdict(record)) for key, record in keyed.items()], keyed, **fields)


def shown(evidence: Evidence, title: str = "a title") -> str:
    return page.page(evidence, pictures(evidence), title)


def data_of(text: str) -> Any:
    packed = re.search(r'<script type="application/octet-stream" id="data">([^<]*)</script>', text)
    assert packed is not None
    return json.loads(gzip.decompress(base64.b64decode(packed[1])))


@pytest.fixture(scope="module")
def many() -> Evidence:
    return evidence_of(*synthetic_runs.records(synthetic_runs.cells(60), samples=200))


def test_each_cell_is_a_row_and_has_its_record(many: Evidence) -> None:
    text = shown(many)
    read, data = Read(text), data_of(text)
    assert {own["id"] for own in read.found("tr") if "id" in own} == set(many.records)
    assert set(data["records"]) == set(many.records)
    assert [cell["link"] for cell in data["cells"]] == [f"#{row.key}" for row in many.shown]
    medians = {f"#{row.key}": row.latency_s for row in many.shown if row.latency_s is not None}
    assert {cell["link"]: cell["latency_s"] for cell in data["cells"] if "latency_s" in cell} == pytest.approx(medians, rel=1e-5)
    assert {own["href"] for own in read.found("a")} >= {f"#{row.key}" for row in many.shown}


def test_samples_become_quantiles_and_all_else_is_kept(many: Evidence) -> None:
    record = data_of(shown(many))["records"]["c1"]
    own = many.records["c1"].latency
    assert own is not None
    kept, samples = record["latency"]["model"]["quantiles_s"], sorted(own.model.samples_s)
    assert "samples_s" not in json.dumps(record)
    assert len(kept) == payload.QUANTILES
    assert kept == sorted(kept)
    assert samples[0] <= kept[0] <= samples[10]
    assert samples[-10] <= kept[-1] <= samples[-1]
    assert record["latency"]["model"]["median_s"] == pytest.approx(own.model.median_s, rel=1e-5)


def test_only_our_scripts_run_and_nothing_is_fetched(many: Evidence) -> None:
    text = shown(many)
    read = Read(text)
    (policy,) = (own["content"] for own in read.found("meta") if own.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe-eval" not in policy
    assert "script-src 'unsafe-inline'" not in policy
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    executed = [script for script, (_, own) in zip(read.scripts, (each for each in read.elements if each[0] == "script"))
                if own.get("type") in (None, "module") or own.get("id") == "vega"]  # fmt: skip
    assert {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in executed} == allowed
    assert len(executed) == 2
    assert not [own for _, own in read.elements if any(name in own for name in ("src", "srcset", "data", "action", "onclick"))]
    assert not read.found("link")
    assert all(str(own["href"]).startswith("#") for own in read.found("a"))


def test_what_a_run_says_is_text_wherever_it_stands() -> None:
    cell = cell_of(MARKUP, variant=MARKUP)
    bad = record_of(cell, outcome="failed", reason=MARKUP, revision=MARKUP)
    good = record_of(replace(cell, batch=2), latency=replace(latency_of(1e-3, 70), remarks=[MARKUP]), session=MARKUP)
    text = shown(evidence_of(bad, good, problems=[MARKUP]), title=MARKUP)
    read = Read(text)
    assert not read.found("img")
    assert len(read.found("script")) == 3
    assert sum(MARKUP in words for words in read.texts) >= 6
    assert data_of(text)["records"]["c1"]["reason"] == MARKUP


def test_scripts_of_others_cannot_end_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "vega", lambda: 'x = "</script><!--"')
    read = Read(shown(evidence_of(record_of())))
    assert 'x = "<\\/script><\\!--"' in read.scripts


def test_the_verdict_counts_and_names_what_failed_and_what_is_doubtful() -> None:
    vague = replace(latency_of(1e-3), model=replace(timing_of(1e-3), interval_s=(0.5e-3, 2e-3)))
    records = [
        record_of(cell_of("mlp"), latency=latency_of(1e-3)),
        record_of(cell_of("small_cnn"), latency=vague),
        record_of(cell_of("resnet20"), outcome="failed", reason="outputs differ"),
        record_of(cell_of("resnet56"), outcome="failed", reason="outputs differ"),
        record_of(cell_of("vgg16"), outcome="out_of_memory", reason="killed"),
        record_of(cell_of("vit"), outcome="unsupported", reason="no such operator"),
        record_of(cell_of("mixer"), counts=counts_of()),
    ]
    evidence = evidence_of(*records, problems=["run: line 3: not a record"])
    found = summary.verdict(evidence.rows)
    assert found == (
        "2 of 7 cells passed all checks and were timed; 1 counted only; 2 failed, 1 out of memory, 1 unsupported."
    ).replace("2 failed, 1 out of memory, 1 unsupported", "2 failed; 1 out of memory; 1 unsupported")
    failed = summary.reasons(row for row in evidence.rows if row.outcome == "failed")
    assert [(reason.text, len(reason.rows)) for reason in failed] == [("outputs differ", 2)]
    assert "the median is known to no better than 10 %" in {reason.text for reason in summary.doubts(evidence.rows)}
    words = " ".join(Read(shown(evidence)).texts)
    for expected in (found, "outputs differ", "no such operator", "line 3: not a record", "0.5–2"):
        assert expected in words
    assert summary.verdict([]).startswith("Nothing was measured")


def test_a_vague_median_is_shown_as_a_range_and_an_upper_bound_as_one() -> None:
    row = row_of(record_of(latency=latency_of(1.234e-3)), "c1")
    assert matrix.shown(row, "latency_s").text == "1.23"
    vague = replace(row, vague=True, latency_low_s=1e-3, latency_high_s=2e-3, disturbed="by others")
    assert matrix.shown(vague, "latency_s") == matrix.Shown("1–2!", 1.234e-3)
    assert matrix.shown(replace(row, emulated=True, steady=False), "latency_s").text == "1.23*"
    assert matrix.shown(replace(row, steady=False), "latency_s").text == "1.23~"
    known = replace(row, latency_low_s=1.2e-3, latency_high_s=1.3e-3)
    assert matrix.shown(known, "latency_s").doubt == "±4.1%"
    assert matrix.shown(replace(row, inference_bytes=2**20, inference_is_bound=True), "inference_bytes").text == "≤1"
    assert matrix.shown(row, "joules") == matrix.Shown()


def test_the_fastest_is_a_correct_one_in_the_smallest_batch() -> None:
    def one(runtime: str, seconds: float, batch: int = 1, outcome: str = "ok", **fields: Any) -> Record:
        latency = replace(latency_of(seconds), emulated=fields.pop("emulated", False))
        return record_of(cell_of("mlp", runtime=runtime, batch=batch), outcome=outcome, latency=latency, **fields)

    records = [
        one("eager", 4e-3, accuracy=accuracy_of(0.98)), one("wrong", 1e-3, outcome="failed"), one("fast", 2e-3),
        one("software", 1e-3, emulated=True), one("fast", 1e-3, batch=8),
    ]  # fmt: skip
    (choice,) = summary.choices(evidence_of(*records).rows)
    assert (choice.fastest.runtime, choice.batch) == ("fast", 1)
    assert choice.usual is not None
    assert choice.usual.runtime == "eager"


def test_a_net_with_other_weights_is_another_choice() -> None:
    """A trained one and one that is not would else share a line, with the accuracy of one and the speed of the other."""
    trained: dict[str, Any] = {"recipe": {}}
    cases = (("dense", 3e-3, None), ("dense", 2e-3, trained), ("filter50", 1e-3, trained))
    records = [
        record_of(cell_of("mlp", variant=variant), latency=latency_of(seconds), prepared=prepared_of(training=training))
        for variant, seconds, training in cases
    ]
    found = summary.choices(evidence_of(*records).rows)
    assert [(choice.weights, choice.fastest.variant) for choice in found] == [("trained", "filter50"), ("seeded", "dense")]
    assert [choice.weights for choice in summary.choices(evidence_of(*records[:1]).rows)] == [""], "where all have the same"


def test_what_two_sessions_measured_otherwise_is_doubted_and_not_compared() -> None:
    """A latency of one session beside the dense net's of another says nothing of the variant."""

    def one(session: str, seconds: float, **axes: Any) -> Record:
        return record_of(cell_of("mlp", **axes), latency=latency_of(seconds), session=session)

    rows = evidence_of(one("a", 2e-3), one("b", 3e-3), one("b", 1e-3, variant="filter50"), one("a", 5e-4, precision="bf16")).rows
    (doubt,) = [doubt for doubt in summary.doubts(rows) if "several sessions" in doubt.text]
    assert [row.session for row in doubt.rows] == ["a", "b"]
    assert summary.doubts(evidence_of(one("a", 2e-3), one("b", 2.1e-3)).rows) == []
    (choice,) = summary.choices(rows)
    assert choice.usual is not None and (choice.fastest.session, choice.usual.session) == ("a", "a")
    (alone,) = summary.choices(rows[1:])
    assert (alone.fastest.precision, alone.usual) == ("bf16", None)


def test_the_page_says_how_quiet_it_was() -> None:
    latency = replace(latency_of(), disturbance={"others": read("1", "machine", 0.4), "cpu_steal": read("1", "machine", 0.001)})
    words = summary.quiet(evidence_of(record_of(latency=latency), record_of(latency=latency_of())))
    assert words == (
        "other processes had 40.0% of the processors at most; the hypervisor took 0.1% at most; 1 of 2 latencies disturbed"
    )
    assert summary.quiet(evidence_of(record_of(latency=latency_of()))) == "", "where nothing can be read"


def test_what_was_not_timed_or_trained_says_so() -> None:
    counted, timed = evidence_of(record_of(counts=counts_of()), record_of(latency=latency_of(), prepared=prepared_of())).rows
    assert (matrix.outcome(counted), matrix.outcome(timed)) == ("counted only", "ok")
    assert (matrix.shown(counted, "top1").text, matrix.shown(timed, "top1").text) == ("", "untrained")


def test_what_is_only_counted_says_why_and_is_listed() -> None:
    counted, timed = evidence_of(record_of(counts=counts_of()), record_of(latency=latency_of())).rows
    assert (matrix.why(counted), matrix.why(timed)) == (matrix.NOT_TIMED, "")
    (reason,) = summary.reasons([counted])
    assert (reason.outcome, reason.text) == ("counted only", matrix.NOT_TIMED)
    words = " ".join(Read(shown(evidence_of(record_of(counts=counts_of())))).texts)
    assert words.count(matrix.NOT_TIMED) == 2, "in its row, and above"


def test_a_percentile_without_a_bound_says_few() -> None:
    bounded = timing_of(1e-3)
    bounded = replace(bounded, percentiles={**bounded.percentiles, "p90": Percentile(1e-3, 2e-3)})
    latency = replace(latency_of(), model=bounded)
    timed, failed = evidence_of(record_of(latency=latency), record_of(outcome="failed")).rows
    assert [matrix.shown(timed, name).text for name in ("p90_s", "p99_s")] == ["2", "few"]
    assert matrix.shown(failed, "p99_s") == matrix.Shown()
    assert "too few samples" in " ".join(Read(shown(evidence_of(record_of(latency=latency)))).texts)


def test_a_latency_that_is_doubted_twice_is_counted_once() -> None:
    vague = replace(timing_of(1e-3), interval_s=(0.5e-3, 2e-3), steady=False)
    twice, once = replace(latency_of(), model=vague), replace(latency_of(), remarks=["others took 12.5% of its processors"])
    rows = evidence_of(record_of(latency=twice), record_of(latency=once), record_of(latency=latency_of())).rows
    found = summary.doubts(rows)
    assert [len(reason.rows) for reason in found] == [1, 1, 1]
    assert summary.doubted(rows, found) == "Latencies to doubt: 2 of 3 (some for several reasons)"
    assert "others took 12.5% of its processors" in {reason.text for reason in found}, "where one cell alone has it"
    assert summary.doubted(rows[1:], summary.doubts(rows[1:])) == "Latencies to doubt: 1 of 2"


def test_a_list_that_is_cut_says_of_how_many() -> None:
    failed = [record_of(cell_of(batch=batch), outcome="failed", reason="so") for batch in range(1, 16)]
    words = " ".join(" ".join(Read(shown(evidence_of(*failed))).texts).split())
    assert "Which (12 of 15)" in words
    assert "and 3 more, which the matrix shows" in words
    assert "Which (" not in " ".join(Read(shown(evidence_of(*failed[:12]))).texts)


def variant_of(name: str, effective: int, speedup: float | None, **fields: Any) -> Record:
    """Make a variant of a net of 100 parameters and 1000 MACs, timed beside its parent if there is a speed-up."""
    promise = Promise(100, 80, 25, 80, 1000, 800, effective, 400, 100, None)
    delivery = None if speedup is None else Delivery(speedup, (0.9 * speedup, 1.1 * speedup), 9)
    usual = {"prepared": prepared_of(promise), "delivery": delivery, "latency": latency_of(), "counts": counts_of()}
    return record_of(cell_of("mlp", variant=name), **{**usual, **fields})


def test_what_did_not_deliver_is_said_with_the_worst_case_and_stands_in_its_row() -> None:
    records = [variant_of("prune90", 100, 1.0), variant_of("prune50", 500, 1.0), variant_of("filter50", 500, 1.9),
               variant_of("svd50", 500, None), record_of(latency=latency_of())]  # fmt: skip
    evidence = evidence_of(*records)
    said = summary.delivered(evidence)
    assert said.startswith("2 of 3 compressed cells did not deliver: ")
    assert said.endswith("The furthest off is mlp-prune90-eager-fp32-b1-8px-cpu: promised 10x, realised 1.00x.")
    assert [(each.outcome, len(each.rows)) for each in summary.undelivered(evidence)] == [("no faster", 2)]
    assert [row.verdict for row in evidence.rows] == ["no faster", "no faster", "passed", None, None]
    assert summary.delivered(evidence_of(*records[2:])).startswith("1 compressed cell timed in turns with the dense net: none is")
    assert summary.delivered(evidence_of(*records[3:])) == ""
    emulator = replace(records[0].machine, emulator="qemu-aarch64-static")
    assert summary.delivered(evidence_of(replace(records[0], machine=emulator))) == ""
    words = Read(shown(evidence)).texts
    assert said in words
    assert [word.strip() for word in words].count("no faster") >= 3, "two rows, and the filter"


def test_a_variant_has_figures_of_its_own_beside_those_of_its_dense_net() -> None:
    evidence = evidence_of(variant_of("filter50", 500, 1.9), record_of(counts=counts_of(), latency=latency_of()))
    found = [(row.parameters, row.effective_parameters, row.macs, row.effective_macs) for row in evidence.rows]
    assert found == [(100, 25, 1000, 500), (100, 100, 1000, 1000)]
    assert {"parameters", "effective_parameters", "macs", "effective_macs"} <= set(matrix.Matrix(evidence).columns)
    dense = evidence_of(record_of(counts=counts_of(), latency=latency_of()))
    assert "effective_parameters" not in matrix.Matrix(dense).columns, "which would say the same twice"


def test_techniques_are_explained_in_the_words_of_their_registry() -> None:
    found = legend(["dense", "prune90+by=random", "prune50+sparse", "theirs"])
    assert list(found) == ["pruneN", "sparse", "theirs"]
    assert found["pruneN"].startswith(variants.TECHNIQUES["prune"].summary)
    assert "N: its sparsity, in percent. +by=magnitude or random: magnitude unless it is said." in found["pruneN"]
    assert "scope" not in found["pruneN"], "which none of them sets"
    assert "not known" in found["theirs"]
    text = " ".join(Read(shown(evidence_of(variant_of("filter50", 500, 1.9)))).texts)
    assert variants.TECHNIQUES["filter"].summary in text and variants.TECHNIQUES["svd"].summary not in text
    assert "A variant is a chain" not in " ".join(Read(shown(evidence_of(record_of(latency=latency_of())))).texts)


def test_a_gain_over_fp32_is_that_of_the_same_cell_in_the_same_session() -> None:
    def one(precision: str, seconds: float, ends: tuple[float, float] | None = None, **fields: Any) -> Record:
        latency = replace(
            latency_of(), model=replace(timing_of(seconds), interval_s=ends), emulated=fields.pop("emulated", False)
        )
        return record_of(cell_of(precision=precision, runtime=fields.pop("runtime", "eager")), latency=latency, **fields)

    records = [one("fp32", 4e-3, (3.9e-3, 4.1e-3)), one("int8-static", 1e-3, (0.9e-3, 1.1e-3)), one("bf16", 2e-3),
               one("fp16", 9e-3, emulated=True), one("int8-static", 1e-3, session="two"),
               one("int8-static", 1e-3, runtime="openvino")]  # fmt: skip
    found = matrix.gains(evidence_of(*records).rows)
    assert {key: gain.ratio for key, gain in found.items()} == pytest.approx({"c2": 4.0, "c3": 2.0})
    assert found["c2"].interval == pytest.approx(comparison.ratio_of_medians(1e-3, (0.9e-3, 1.1e-3), 4e-3, (3.9e-3, 4.1e-3))[1])
    assert found["c3"].interval is None
    whole = evidence_of(*records)
    of_page = matrix.Matrix(whole)
    assert [of_page.shown(row, matrix.GAIN).text for row in whole.rows] == ["", "4", "2", "", "", ""]
    assert [cell.get(matrix.GAIN) for cell in data_of(shown(whole))["cells"]] == [None, 4.0, 2.0, None, None, None]
    assert matrix.GAIN not in matrix.Matrix(evidence_of(records[0])).columns


def test_a_first_inference_is_compared_with_the_usual_one_and_a_process_with_an_empty_one() -> None:
    memory = {"process_peak": read("byte", "process", 600 * 2.0**20), "process_base": read("byte", "process", 480 * 2.0**20)}
    latency = replace(latency_of(2e-3), first_s=5e-3)
    known, unknown = evidence_of(record_of(latency=latency, memory=memory), record_of(outcome="failed", memory=memory | {
        "process_base": read("byte", "process", None, "not there")})).rows  # fmt: skip
    assert (matrix.shown(known, "first_ratio").text, matrix.shown(known, "process_own_bytes").text) == ("2.5", "120")
    assert (unknown.process_bytes, unknown.process_own_bytes) == (600 * 2**20, None)
    said = "An empty process, with Python and its libraries alone, held 480 MiB."
    assert (summary.empty_process([known]), summary.empty_process([unknown])) == (said, "")


def test_several_sessions_have_a_column_and_a_filter() -> None:
    one, two = (record_of(latency=latency_of(), session=name, started_at=f"2026-01-0{day}T03:04:05+00:00")
                for name, day in (("aa", 1), ("bb", 2)))  # fmt: skip
    read_ = Read(shown(evidence_of(one, two)))
    assert read_.found("select", **{"data-axis": "session"}) and read_.found("th", **{"data-axis": "session"})
    assert [own["value"] for own in read_.found("option") if "bb" in str(own.get("value"))] == ["2026-01-02 03:04 bb"]
    assert not Read(shown(evidence_of(one))).found("th", **{"data-axis": "session"})


def test_fewer_rows_than_cells_are_said(many: Evidence) -> None:
    some = Evidence(many.rows, dict(list(many.records.items())[:7]))
    words = " ".join(Read(shown(some)).texts)
    assert "7 of 60 cells are here" in words


def test_the_bundle_of_charts_is_made_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import vl_convert

    made: list[int] = []

    def bundle(snippet: str | None = None) -> str:
        made.append(1)
        return "vega"

    monkeypatch.setattr(vl_convert, "javascript_bundle", bundle)
    monkeypatch.setattr(assets, "cache_folder", lambda: tmp_path)
    assert [assets.vega(), assets.vega()] == ["vega", "vega"]
    assert made == [1]


def test_a_bundle_of_tables_that_exports_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "html").mkdir()
    (tmp_path / "html" / "dt_bundle.js").write_text("export{a as b}")
    found = importlib.util.spec_from_loader("itables", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(assets, "find_spec", lambda package: found)
    with pytest.raises(RuntimeError, match="expected one default export"):
        assets.datatables()
