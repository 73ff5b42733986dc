"""The report: whole, honest, and harmless whatever a disk calls itself."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages import STAGES
from stages.outcome import ReasonCode, error, warning
from tests.support import run_views
from tests.support.run_views import done, found, run_view, stamp
from vetting_agent.report import POINTS_PER_SERIES, Gathered, Report, Series, build, thin, write_json
from vetting_agent.report_charts import SUBJECTS, Band, chart, segments, time_axis, value_axis
from vetting_agent.report_html import page
from vetting_agent.run_view import RunView, SampleView
from vetting_agent.verdict import Ending

VOID = {"meta", "line", "polyline", "br"}
TEMPERATURE, POWER, *_, THROUGHPUT = SUBJECTS


class Page(HTMLParser):
    """Takes a page apart: its tags, its attributes, its text; fails on a tag that is not closed."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(markup)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def report_of(run: RunView | None, *, samples: list[SampleView] | None = None, ending: Ending | None = None) -> Report:
    return build(
        Gathered(
            run=run,
            ending=ending or Ending(),
            host="node-17",
            profile="quick",
            started_at=stamp(0),
            finished_at=stamp(136),
            samples=samples or [],
            logs=[run_views.log_line(1, "info", "SMART", "quiet"), run_views.log_line(2, "warn", "SMART", "loud")],
        )
    )


@pytest.fixture(scope="module")
def sick() -> Report:
    return report_of(run_views.sick_run(), samples=run_views.samples())


def test_json_holds_the_run_and_what_follows_from_it(sick: Report, tmp_path: Path) -> None:
    write_json(sick, tmp_path / "report.json")
    data = json.loads((tmp_path / "report.json").read_text())
    assert (data["format"], data["verdict"], data["exit_code"]) == ("vetting-report/1", "fail", 1)
    assert [stage["stage"] for stage in data["stages"]] == [stage.name for stage in STAGES]
    assert data["run"]["state"] == "FailedHolding"
    assert [line["text"] for line in data["notable_log"]] == ["loud"]
    assert msgspec.json.decode((tmp_path / "report.json").read_bytes(), type=Report) == sick


def test_each_finding_says_what_to_do_next(sick: Report) -> None:
    findings = [finding for stage in sick.stages for finding in stage.findings]
    assert {finding.reason_code for finding in findings} >= {"disk_media_errors", "disk_not_tested"}
    for finding in findings:
        assert finding.advice is not None
        assert all((finding.advice.meaning, finding.advice.cause, finding.advice.action, finding.advice.owner))


def test_a_code_that_this_version_does_not_know_is_still_shown() -> None:
    view = done("SMART", found(error(ReasonCode.DISK_IO_ERROR, "disk:A", "Odd")))
    assert view.summary is not None
    odd = msgspec.structs.replace(view.summary.findings[0], reason_code="from_the_future", severity="dire")
    run = run_view([msgspec.structs.replace(view, summary=msgspec.structs.replace(view.summary, findings=[odd]))])
    assert "from_the_future" in Page(page(report_of(run))).text


def test_page_shows_everything_a_person_needs(sick: Report) -> None:
    text = Page(page(sick)).text
    for words in (
        *("Fail", "SMART failed; Storage could not be judged", "Supermicro SYS-1029P S1234", "Replace the disk"),
        *("Likely cause", "Do next", "hardware technician", "Not tested, or only in part", "Operation not permitted"),
        *("Could not be judged (1)", "Temperature", "Throughput", "MB/s", "3 more", "0.15.06", "4.3 %"),
        *("Within", "no", "No BMC was found", "not read", "31 204"),
    ):
        assert words in text, words
    assert text.count("CPUStress") >= 3, "the stage must stand in the walk, the bands and the measurements"


def test_page_takes_nothing_from_outside_and_runs_nothing(sick: Report) -> None:
    markup = page(sick)
    assert not re.search(r"https?:|//|url\(|@import|<script|<link|<img|<iframe|javascript:", markup)
    parsed = Page(markup)
    assert not {name for name, _ in parsed.attributes if name.startswith("on") or name in {"href", "src"}}
    said = [value for name, value in parsed.attributes if name == "content"]
    assert any(value.startswith("default-src 'none'") for value in said)
    assert any("width=device-width" in value for value in said)


def test_page_has_a_dark_and_a_printed_form(sick: Report) -> None:
    markup = page(sick)
    assert "prefers-color-scheme: dark" in markup
    assert "@media print" in markup


def test_hostile_names_are_shown_and_not_obeyed(sick: Report) -> None:
    markup = page(sick)
    assert "<script" not in markup
    assert "<b>WD</b>" not in markup
    assert "\x1b" not in markup
    assert "\u202e" not in markup
    assert r"disk:<script>alert(1)</script>\x1b[2J\u202e" in Page(markup).text


@settings(deadline=None, max_examples=40)  # a loaded machine is no fault
@given(st.text(max_size=40))
def test_no_name_breaks_the_page(name: str) -> None:
    finding = error(ReasonCode.DISK_IO_ERROR, name, name, name)
    sample = SampleView(ts=stamp(3), kind=name, key=name, value=1.0, unit="MB/s")
    run = run_view(
        [done("Storage", found(finding, coverage={name: 0.5}, tool_versions={name: name}))],
        host=name,
        inventory={name: [{name: name}], "system": {"vendor": name}},
    )
    tags = set(Page(page(report_of(run, samples=[sample]))).tags)
    assert tags <= set(Page(page(report_of(run_views.sick_run(), samples=run_views.samples()))).tags) | {"br"}


def test_what_several_stages_say_is_said_once() -> None:
    same = found(warning(ReasonCode.OUTPUT_UNREADABLE, "kernel", "The kernel log cannot be opened"))
    report = report_of(run_view([done("SMART", same), done("Network", same), done("PSU", same)]))
    text = Page(page(report)).text
    assert text.count("The kernel log cannot be opened") == 2, "once as a finding and once as not tested"
    assert text.count("SMART, Network, PSU") == 2


def test_a_run_that_never_began_has_a_page_too() -> None:
    report = report_of(None, ending=Ending("the orchestrator ended unexpectedly (exit code 1)"))
    assert (report.verdict, report.exit_code) == ("incomplete", 4)
    assert "the orchestrator ended unexpectedly (exit code 1)" in Page(page(report)).text


def test_a_machine_without_sensors_is_told_so_in_words() -> None:
    report = report_of(run_views.all_sound())
    assert "No temperature sensor of this machine reported during this run." in Page(page(report)).text
    assert [one.component for one in report.not_tested] == ["temperature"]
    assert report_of(run_views.all_sound(), samples=run_views.samples()).not_tested == []


def test_many_rows_are_folded() -> None:
    run = run_view([done("Storage", found(coverage={f"disk:{number}": 1.0 for number in range(60)}))])
    assert "details" in Page(page(report_of(run))).tags


# Charts


def series(*points: tuple[float, float], unit: str = "C", key: str = "cpu:0") -> Series:
    return Series(kind="temperature", key=key, unit=unit, points=list(points))


@settings(deadline=None)
@given(st.floats(-1e6, 1e9), st.floats(0, 1e9), st.booleans())
def test_value_axis_holds_its_values_with_few_round_labels(low: float, size: float, from_zero: bool) -> None:
    axis = value_axis(low, low + size, from_zero=from_zero)
    assert axis.low <= low + 1e-6 * abs(low) + 1e-9
    assert axis.high >= low + size - 1e-6 * abs(low + size) - 1e-9
    assert 2 <= len(axis.ticks) <= 8
    assert not from_zero or axis.low <= 0.0


@settings(deadline=None)
@given(st.floats(0, 200_000))
def test_time_axis_begins_at_nought_and_has_few_labels(end: float) -> None:
    axis = time_axis(end)
    assert axis.ticks[0] == 0.0
    assert len(axis.ticks) <= 8
    assert all(0.0 <= axis.part(tick) <= 1.0 for tick in axis.ticks)


def test_a_line_does_not_bridge_a_time_without_measurements() -> None:
    points = [(0.0, 1.0), (2.0, 1.0), (4.0, 1.0), (60.0, 2.0), (62.0, 2.0)]
    assert segments(points) == [points[:3], points[3:]]
    assert segments([]) == []


def test_one_chart_for_each_unit() -> None:
    figures = chart(POWER, [series((0, 1), unit="W"), series((0, 60), unit="C")], [], 10.0)
    assert len(figures) == 1
    assert len(chart(THROUGHPUT, [series((0, 1), unit="MB/s"), series((0, 9), unit="Gb/s")], [], 10.0)) == 2


def test_bands_and_lines_stay_inside_the_chart() -> None:
    (markup,) = chart(TEMPERATURE, [series((0, 40), (100, 90))], [Band("SMART", -5.0, 500.0)], 100.0)
    for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", re.findall(r'points="([^"]*)"', markup)[0]):
        assert 0 <= float(x) <= 1000
        assert 0 <= float(y) <= 200
    assert 'style="left:0.00%;width:100.00%"' in markup


def test_the_hottest_are_coloured_and_the_rest_is_summed_up() -> None:
    (markup,) = chart(TEMPERATURE, [series((0, n), (5, n), key=f"cpu:{n}") for n in range(40, 60)], [], 10.0)
    legend = Page(markup).text
    assert "cpu:59" in legend
    assert "cpu:40" not in legend
    assert "13 more" in legend


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1e5), st.floats(-100, 100)), max_size=400), st.integers(2, 50))
def test_thinning_keeps_the_extremes_and_the_order(points: list[tuple[float, float]], limit: int) -> None:
    points = sorted(points)
    kept = thin(points, limit)
    assert len(kept) <= limit + 1
    assert kept == sorted(kept)
    assert set(kept) <= set(points)
    if points:
        assert max(value for _, value in kept) == max(value for _, value in points)
        assert min(value for _, value in kept) == min(value for _, value in points)


def test_a_long_run_makes_no_endless_report() -> None:
    samples = [SampleView(ts=stamp(n), kind="t", key="cpu:0", value=n % 97, unit="C") for n in range(20_000)]
    (only,) = report_of(run_views.all_sound(), samples=samples).series
    assert len(only.points) <= POINTS_PER_SERIES + 1
    assert max(value for _, value in only.points) == 96
