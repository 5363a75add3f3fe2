"""The page in headless Chromium, as a person uses it: from the disk, without a network. Debian: chromium; `tox -e browser`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plumbline.harness.machine import described
from plumbline.harness.rows import row_of
from plumbline.harness.studies.report import Evidence
from plumbline.harness.verdicts.realised import verdict
from plumbline.harness.views.report import matrix, page, summary
from plumbline.harness.views.report.pictures import pictures
from plumbline.harness.views.report.pictures.drawing import WIDTH
from tests import browser, synthetic_runs
from tests.harness.views.report.test_page import MARKUP, data_of
from tests.records import cell_of, record_of, replace

VIEWS = [(1280, "light"), (390, "dark")]
PAPER = 1062  # pixels of CSS across A4 on its side, between margins of 8 mm
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if (reason := browser.missing()) is not None:
        pytest.fail(reason) if "browser" in os.environ.get("PLUMBLINE_EXPECTED", "") else pytest.skip(reason)
    with browser.chromium() as started:
        yield started


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    records = [*synthetic_runs.records(synthetic_runs.cells(150), samples=200)]
    records[1] = replace(records[1], latency=records[1].latency and replace(records[1].latency, emulated=True))
    records.append(record_of(cell_of(MARKUP), outcome="failed", reason=MARKUP, session="two"))
    keyed = {f"c{number}": record for number, record in enumerate(records, 1)}
    return Evidence([row_of(record, key, verdict(record)) for key, record in keyed.items()], keyed)


@pytest.fixture(scope="module")
def file(evidence: Evidence, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page.page(evidence, pictures(evidence), "A report"), encoding="utf-8")
    return path


@pytest.fixture(params=VIEWS, ids=lambda view: f"{view[0]}-{view[1]}")
def view(request: pytest.FixtureRequest, chromium: Any, file: Path) -> Iterator[Any]:
    """Open the page, at each width and in each scheme; whatever the browser complains of fails the test."""
    width, scheme = request.param
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    found, said = context.new_page(), []
    found.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    found.on("pageerror", lambda error: said.append(str(error)))
    found.on("requestfailed", lambda request: said.append(f"asked for {request.url}"))
    found.goto(file.as_uri())
    found.wait_for_selector(browser.READY)
    yield found
    context.close()
    assert not said


def test_it_opens_draws_everything_and_does_not_scroll_sideways(view: Any, evidence: Evidence) -> None:
    view.evaluate("window.plumbline.draw()")
    assert set(view.evaluate("[...window.plumbline.drawn.keys()]")) == {picture.name for picture in pictures(evidence)}
    assert view.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert view.text_content("#count") == f"{len(evidence.rows)} of {len(evidence.rows)} rows"


def test_nothing_that_a_run_says_is_executed(view: Any) -> None:
    assert view.evaluate("document.querySelectorAll('img').length") == 0
    assert view.evaluate("document.querySelectorAll('script').length") == 3


def test_a_checker_of_accessibility_finds_nothing_serious(view: Any) -> None:
    from axe_playwright_python.sync_playwright import Axe

    view.evaluate("window.plumbline.draw()")
    found = [each for each in Axe().run(view).response["violations"] if each["impact"] in SERIOUS]
    assert not found, json.dumps([(each["id"], each["nodes"][0]["html"][:200]) for each in found], indent=1)


def test_rows_are_sorted_by_number_and_filtered_by_axis(view: Any, evidence: Evidence) -> None:
    from playwright.sync_api import expect

    view.click("th[data-quantity=latency_s]")
    view.wait_for_selector("th[data-quantity=latency_s][aria-sort=ascending]", state="attached")
    first = view.get_attribute("#matrix tbody tr:first-child", "id")
    known = [row.latency_s for row in evidence.rows if row.latency_s is not None]
    assert evidence.rows[int(first[1:]) - 1].latency_s in (min(known), None)
    view.select_option("select[data-axis=runtime]", "onnxruntime")
    expected = [row for row in evidence.rows if row.runtime == "onnxruntime"]
    assert view.text_content("#count") == f"{len(expected)} of {len(evidence.rows)} rows"
    view.select_option("select[data-axis=precision]", "fp32")
    expected = [row for row in expected if row.precision == "fp32"]
    assert view.text_content("#count") == f"{len(expected)} of {len(evidence.rows)} rows"
    view.fill("#search", "no such model")
    assert view.text_content("#count") == f"0 of {len(evidence.rows)} rows"
    view.click("#filters button[type=reset]")
    expect(view.locator("#count")).to_have_text(f"{len(evidence.rows)} of {len(evidence.rows)} rows")


def test_a_number_leads_to_its_record_and_back(view: Any, file: Path, evidence: Evidence) -> None:
    row = view.locator("#matrix tbody tr").nth(3)
    key = row.get_attribute("id")
    row.locator("td").nth(7).click()
    dialog = view.locator("#record")
    dialog.wait_for(state="visible")  # a change of the address is told of a moment later
    record = evidence.records[key]
    assert view.text_content("#record-title") == record.id
    said = dict(
        zip(view.locator("#record-summary dt").all_text_contents(), view.locator("#record-summary dd").all_text_contents())
    )
    assert (said["machine"], said["session"]) == (described(record.machine), record.session)
    for name in ("latency_s", "parameters", "process_own_bytes"):
        found = matrix.shown(row_of(record, key), name)
        assert said[matrix.head(name)] == f"{found.text} {found.doubt}".strip(), "as in its row, with the unit"
    view.click("#record summary")
    assert json.loads(view.text_content("#record-body")) == {**data_of(file.read_text())["records"][key]}
    with view.expect_download() as saved:
        view.click("#download")
    assert json.loads(saved.value.path().read_text())["id"] == record.id
    view.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert "#" not in view.url
    view.locator("#matrix tbody a").first.press("Enter")
    dialog.wait_for(state="visible")


def test_an_address_with_a_key_opens_its_record(view: Any, file: Path, evidence: Evidence) -> None:
    key, record = list(evidence.records.items())[-1]
    view.goto(f"{file.as_uri()}#{key}")
    view.wait_for_selector("#record[open]")
    assert view.text_content("#record-title") == record.id
    assert MARKUP in view.locator("#record-summary dd").all_text_contents()


def test_what_a_picture_shows_are_the_records(view: Any, evidence: Evidence) -> None:
    view.evaluate("window.plumbline.draw()")
    shown = view.evaluate("window.plumbline.drawn.get('first-inference').data('cells')")
    measured = {row.key: row for row in evidence.rows}
    assert {cell["key"] for cell in shown} == set(measured)
    # what stands behind the marks that were drawn, in whichever group of marks that is
    points = view.evaluate(
        """() => {
          const found = [], visit = (item) => {
            if (item.datum && item.mark && item.mark.marktype === "symbol") found.push(item.datum);
            (item.items || []).forEach(visit);
          };
          visit(window.plumbline.drawn.get("first-inference").scenegraph().root);
          return found.map(({key, x, y}) => ({key, x, y}));
        }"""
    )
    seen = {point["key"]: (point["x"], point["y"]) for point in points if point.get("key")}
    assert len(seen) > 100
    for key, (x, y) in seen.items():
        row = measured[key]
        assert row.latency_s is not None
        assert row.first_s is not None
        assert (x, y) == pytest.approx((row.latency_s * 1e3, row.first_s * 1e3), rel=1e-5)


def test_each_number_of_the_matrix_is_that_of_its_record(view: Any, evidence: Evidence) -> None:
    """Read back from the page, as it is seen."""
    read = view.evaluate(
        """() => {
          const heads = [...document.querySelectorAll("#matrix thead th")], table = window.plumbline.table;
          const name = (at) => heads[at].dataset.quantity || heads[at].dataset.axis || "why";
          const read = (row) => Object.fromEntries([...row.cells].map((cell, at) => [name(at), cell.textContent.trim()]));
          return table.rows().nodes().toArray().map((row) => [row.id, read(row)]);
        }"""
    )
    assert {key for key, _ in read} == set(evidence.records)
    whole = matrix.Matrix(evidence)
    rows = {row.key: row for row in evidence.rows}
    for key, said in read:
        for name in whole.columns:
            found = whole.shown(rows[key], name)
            assert said[name] == f"{found.text} {found.doubt}".strip(), (key, name)
        assert said["verdict"] == (verdict(evidence.records[key]) or "")
        assert (said["outcome"], said["why"]) == (matrix.outcome(rows[key]), matrix.why(rows[key]))
    variants = [(rows[key], said) for key, said in read if rows[key].effective_macs not in (None, rows[key].macs)]
    assert variants and all(said["effective_macs"] != said["macs"] for _, said in variants)


def test_net_and_heads_stay_in_sight(view: Any) -> None:
    places = """() => {
      const box = document.querySelector("#matrix").parentElement, found = (name) => {
        const {left, top} = document.querySelector(name).getBoundingClientRect(), {left: x, top: y} = box.getBoundingClientRect();
        return [left - x, top - y].map(Math.round);
      };
      const row = "#matrix tbody tr:nth-child(40) td";
      const heads = [1, 2].map((at) => `#matrix th:nth-child(${at})`);
      return [...heads, ...[1, 2, 9].map((at) => `${row}:nth-child(${at})`)].map(found);
    }"""
    before = view.evaluate(places)
    view.evaluate("document.querySelector('#matrix').parentElement.scrollTo(700, 500)")
    model, variant, own_model, own_variant, number = view.evaluate(places)
    assert [model, variant] == before[:2], "the heads, both ways"
    assert (own_model[0], own_variant[0]) == (before[2][0], before[3][0]), "model and variant, to the side"
    assert own_model[1] == before[2][1] - 500 and number[0] == before[4][0] - 700, "and all else scrolls"
    assert variant[0] < view.viewport_size["width"] / 2, "there is room for numbers beside them"


def test_a_chart_is_as_wide_as_there_is_room(view: Any) -> None:
    view.evaluate("window.plumbline.draw()")
    wide = view.evaluate(
        """() => [...document.querySelectorAll(".chart")].filter((box) => box.scrollWidth > box.clientWidth)
          .map((box) => [box.dataset.picture, box.scrollWidth, box.clientWidth])"""
    )
    assert not wide
    view.set_viewport_size({"width": 1280, "height": 900})  # as a phone that is turned
    view.evaluate("window.plumbline.draw()")
    assert view.evaluate("document.querySelector('[data-picture=first-inference] svg').clientWidth") > WIDTH, "it grows again"


def test_on_paper_are_all_rows_and_charts_in_dark_ink(view: Any, evidence: Evidence) -> None:
    state = """async () => {
      await window.plumbline.draw();
      const light = (colour) => colour.match(/\\d+/g).slice(0, 3).map(Number).reduce((sum, one) => sum + one) / 3;
      const matrix = document.querySelector("#matrix"), of = (name) => [...document.querySelectorAll(name)];
      return {
        rows: of("#matrix tbody tr").length,
        lightest: Math.max(...of("h1, #matrix td, #matrix th, .chart svg text").map((one) => {
          const {color, fill} = getComputedStyle(one);
          return light(one.tagName === "text" ? fill : color);
        })),
        over: matrix.scrollWidth - document.documentElement.clientWidth,
        cut: of(".chart").filter((box) => box.scrollWidth > box.clientWidth + 1).length,
        sticky: of("#matrix th, #matrix td").filter((one) => getComputedStyle(one).position === "sticky").length,
      };
    }"""
    before = view.evaluate(state)
    view.set_viewport_size({"width": PAPER, "height": 900})
    view.emulate_media(media="print")
    view.evaluate("dispatchEvent(new Event('beforeprint'))")
    printed = view.evaluate(state)
    assert printed["rows"] == len(evidence.rows) > before["rows"]
    assert printed["lightest"] < 128
    assert printed["over"] <= 0
    assert (printed["cut"], printed["sticky"]) == (0, 0)
    view.emulate_media(media="screen")
    view.evaluate("dispatchEvent(new Event('afterprint'))")
    after = view.evaluate(state)
    assert {name: after[name] for name in ("rows", "lightest", "sticky")} == {
        name: before[name] for name in ("rows", "lightest", "sticky")
    }, "as it was"


def test_sessions_and_verdicts_are_filters(view: Any, evidence: Evidence) -> None:
    for axis, value, count in (
        ("session", "2026-01-01 00:00 two", 1),
        ("verdict", "passed", sum(verdict(record) == "passed" for record in evidence.records.values())),
    ):
        view.select_option(f"select[data-axis={axis}]", value)
        assert view.text_content("#count") == f"{count} of {len(evidence.rows)} rows"
        view.select_option(f"select[data-axis={axis}]", "")


def test_latencies_in_doubt_are_a_filter(view: Any, evidence: Evidence) -> None:
    found = {"any": set[str](), **{str(number): set() for number in range(len(summary.doubts(evidence.rows)))}}
    for number, reason in enumerate(summary.doubts(evidence.rows)):
        found[str(number)] = {row.key for row in reason.rows}
        found["any"] |= found[str(number)]
    assert len(found) > 2
    for value, keys in found.items():
        view.select_option("#doubt", value)
        shown = view.evaluate("window.plumbline.table.rows({search: 'applied'}).nodes().toArray().map((row) => row.id)")
        assert set(shown) == keys
    view.select_option("#doubt", "")
    assert view.text_content("#count") == f"{len(evidence.rows)} of {len(evidence.rows)} rows"


def test_without_scripts_the_matrix_is_there(chromium: Any, file: Path, evidence: Evidence) -> None:
    context = chromium.new_context(java_script_enabled=False, offline=True)
    found = context.new_page()
    found.goto(file.as_uri())
    assert found.locator("#matrix tbody tr").count() == len(evidence.rows)
    assert not found.locator("#filters").is_visible()
    context.close()
