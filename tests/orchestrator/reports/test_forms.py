"""A report as JUnit, OCP lines and CSV: what failed fails there, what was not tested passes nowhere."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from orchestrator.reports import junit, ocp, table
from stages.outcome import Measurement, Outcome, ReasonCode, error
from tests.support.run_views import all_sound, done, found, run_view, sick_run, waiting
from vetting_agent.report import Gathered, Report, build
from vetting_agent.run_view import RunView
from vetting_agent.verdict import Ending

START, END = "2026-01-05T09:30:00Z", "2026-01-05T09:33:00Z"


def report_of(run: RunView) -> Report:
    return build(Gathered(run, Ending(), run.host, run.profile, START, END))


def cases(report: Report) -> dict[tuple[str, str], ET.Element]:
    root = ET.fromstring(junit.document(report))
    return {(suite.get("name", ""), case.get("name", "")): case for suite in root for case in suite}


# --- JUnit ------------------------------------------------------------------------------------------------------------


def test_a_fault_is_a_failure_and_a_doubt_an_error() -> None:
    found_cases = cases(report_of(sick_run()))
    disk = next(case for (suite, name), case in found_cases.items() if suite == "SMART" and "script" in name)
    failure = disk.find("failure")
    assert failure is not None
    assert failure.get("type") == "disk_media_errors"
    doubt = found_cases["Storage", "disk:vda"].find("error")
    assert doubt is not None
    assert doubt.get("type") == "disk_not_tested"
    assert list(found_cases["SMART", "disk:WD-WX12"]) == [found_cases["SMART", "disk:WD-WX12"].find("system-out")]


def test_a_stage_that_was_not_run_is_skipped_and_an_unknown_one_is_an_error() -> None:
    unknown = Outcome("Half of it", findings=(error(ReasonCode.COVERAGE_LOW, "memory", "Only half"),))
    found_cases = cases(report_of(run_view([done("CPUStress", unknown), waiting("Storage")])))
    assert found_cases["CPUStress", "verdict"].find("error") is not None
    assert found_cases["Storage", "verdict"].find("skipped") is not None
    assert found_cases["GPU", "verdict"].find("skipped") is not None


@pytest.mark.parametrize("run", [sick_run(), all_sound(), run_view([])])
def test_the_counts_are_those_of_the_cases(run: RunView) -> None:
    root = ET.fromstring(junit.document(report_of(run)))
    for count, tag in (("tests", None), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        true = [case for case in root.iter("testcase") if tag is None or case.find(tag) is not None]
        assert root.get(count) == str(len(true))
        assert root.get(count) == str(sum(int(suite.get(count, "")) for suite in root))


def test_no_name_of_a_disk_can_break_the_document() -> None:
    text = junit.document(report_of(sick_run())).decode()
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\u202e]", text)
    assert "<script>" not in text


def test_a_finding_of_the_orchestrator_is_a_case_of_its_own() -> None:
    told = {"reason_code": "host_rebooted", "severity": "error", "component": "host", "message": "m", "evidence": ""}
    found_cases = cases(report_of(all_sound(run_findings=[told], state="FailedHolding")))
    assert found_cases["run", "orchestrator"].find("failure") is not None


# --- OCP --------------------------------------------------------------------------------------------------------------


def lines(run: RunView) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ocp.document(report_of(run)).splitlines()]


def steps(run: RunView) -> Iterator[tuple[str, dict[str, Any]]]:
    """(stage, artifact) of each artifact of a step."""
    names: dict[str, str] = {}
    for line in lines(run):
        step = line.get("testStepArtifact")
        if step is not None:
            number = step.pop("testStepId")
            if "testStepStart" in step:
                names[number] = step["testStepStart"]["name"]
            yield names[number], step


def test_the_lines_have_the_shape_of_the_standard() -> None:
    found_lines = lines(sick_run())
    assert [line["sequenceNumber"] for line in found_lines] == list(range(len(found_lines)))
    assert found_lines[0]["schemaVersion"] == {"major": 2, "minor": 0}
    assert "testRunStart" in found_lines[1]["testRunArtifact"]
    assert found_lines[-1]["testRunArtifact"]["testRunEnd"] == {"status": "COMPLETE", "result": "FAIL"}
    for line in found_lines:
        artifact = {key: value for key, value in line.items() if key not in {"sequenceNumber", "timestamp"}}
        assert len(artifact) == 1
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", line["timestamp"])


def test_every_part_that_is_named_is_declared() -> None:
    found_lines = lines(sick_run())
    declared = found_lines[1]["testRunArtifact"]["testRunStart"]["dutInfo"]["hardwareInfos"]
    known = {one["hardwareInfoId"] for one in declared}
    named = set(re.findall(r'"hardwareInfoId": "(\w+)"', json.dumps(found_lines[2:])))
    assert named
    assert named <= known


def test_a_fault_is_fail_a_doubt_unknown_and_a_sound_stage_pass() -> None:
    diagnoses = [(stage, step["diagnosis"]) for stage, step in steps(sick_run()) if "diagnosis" in step]
    assert ("SMART", "FAIL") in {(stage, one["type"]) for stage, one in diagnoses}
    assert ("Storage", "UNKNOWN") in {(stage, one["type"]) for stage, one in diagnoses}
    assert ("CPUStress", "PASS") in {(stage, one["type"]) for stage, one in diagnoses}
    assert ("Storage", "PASS") not in {(stage, one["type"]) for stage, one in diagnoses}


def test_what_was_not_tested_passes_nowhere() -> None:
    run = run_view([done("SMART", Outcome("?", findings=(error(ReasonCode.TOOL_MISSING, "", "gone"),)))])
    assert "PASS" not in {step["diagnosis"]["type"] for _, step in steps(run) if "diagnosis" in step}
    assert lines(run)[-1]["testRunArtifact"]["testRunEnd"] == {"status": "ERROR", "result": "NOT_APPLICABLE"}
    ends = {stage: step["testStepEnd"]["status"] for stage, step in steps(run) if "testStepEnd" in step}
    assert ends["SMART"] == "ERROR"
    assert ends["GPU"] == "SKIP"


@pytest.mark.parametrize(
    ("value", "limit", "ok", "kind"),
    [
        (41.0, 60.0, True, "LESS_THAN_OR_EQUAL"),
        (70.0, 60.0, False, "LESS_THAN_OR_EQUAL"),
        (900.0, 800.0, True, "GREATER_THAN_OR_EQUAL"),
        (700.0, 800.0, False, "GREATER_THAN_OR_EQUAL"),
    ],
)
def test_a_limit_becomes_the_validator_that_its_judgement_implies(
    value: float, limit: float, ok: bool, kind: str
) -> None:
    measured = found(measurements=(Measurement("m", "disk:A", value, "x", limit, ok),))
    (told,) = [step["measurement"] for _, step in steps(run_view([done("SMART", measured)])) if "measurement" in step]
    assert told["validators"] == [{"type": kind, "value": limit}]


# --- CSV --------------------------------------------------------------------------------------------------------------


def rows(run: RunView) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table.document(report_of(run)).decode(), newline="")))


def test_each_measurement_and_each_coverage_is_a_line() -> None:
    found_rows = rows(sick_run())
    temperature = next(row for row in found_rows if row["name"] == "temperature")
    assert (temperature["stage"], temperature["component"]) == ("SMART", "disk:WD-WX12")
    assert (temperature["value"], temperature["limit"], temperature["ok"]) == ("41.0", "60.0", "true")
    assert {"Storage", "CPUStress"} <= {row["stage"] for row in found_rows if row["name"] == "coverage"}


def test_a_part_that_calls_itself_a_formula_is_a_text_in_a_spreadsheet() -> None:
    measured = found(measurements=(Measurement("m", '=HYPERLINK("http://x")', 1.0, "x"),))
    assert rows(run_view([done("SMART", measured)]))[0]["component"].startswith("'=")
