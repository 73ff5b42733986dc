"""A report in the Open Compute Project's test and validation output, version 2.0: one JSON artifact a line.

Source: opencomputeproject/ocp-diag-core, json_spec. A stage is a test step; a fault is a diagnosis FAIL of its part,
what could not be judged a diagnosis UNKNOWN and an error of the step, so that no reader takes it for a pass.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.reports.parts import Part, components, parts_of
from stages.outcome import Verdict
from vetting_agent.printable import printable_json
from vetting_agent.report import Report, ReportFinding, ReportStage, finding_rank
from vetting_agent.verdict import Overall
from vetting_agent.wire import WireMeasurement

SCHEMA = {"major": 2, "minor": 0}
AGENT = "agent"
SKIPPED = frozenset({"not_run", "not_selected", Verdict.NOT_APPLICABLE})
LOG_SEVERITY = {"debug": "DEBUG", "info": "INFO", "warning": "WARNING", "error": "ERROR"}
RESULT = {Overall.PASS: "PASS", Overall.FAIL: "FAIL"}
"""All else is NOT_APPLICABLE: the standard has no word for "could not be judged"."""


def document(report: Report) -> bytes:
    """The lines, UTF-8. Times are the report's own, so that the same report gives the same bytes."""
    lines = []
    for number, (stamp, artifact) in enumerate(_artifacts(report)):
        line = json.dumps({**artifact, "sequenceNumber": number, "timestamp": stamp}, ensure_ascii=False)
        lines.append(printable_json(line))
    return "".join(f"{line}\n" for line in lines).encode("utf-8", errors="backslashreplace")


def _artifacts(report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    hardware = {name: f"part{number}" for number, name in enumerate(components(report))}
    start, end = report.started_at, report.finished_at
    yield start, {"schemaVersion": SCHEMA}
    yield start, {"testRunArtifact": {"testRunStart": _start(report, hardware)}}
    for number, stage in enumerate(report.stages):
        begun, ended = stage.started_at or start, stage.finished_at or end
        for step in _step(stage, hardware):
            stamp = begun if "testStepStart" in step else ended
            yield stamp, {"testStepArtifact": {"testStepId": str(number), **step}}
    for finding in report.run_findings:
        yield end, {"testRunArtifact": {"error": {"symptom": finding.reason_code, "message": finding.message}}}
    yield end, {"testRunArtifact": {"testRunEnd": _end(report)}}


def _start(report: Report, hardware: Mapping[str, str]) -> dict[str, Any]:
    tools = {name: version for stage in report.stages for name, version in stage.tool_versions.items()}
    software = [{"softwareInfoId": AGENT, "name": report.generator, "softwareType": "APPLICATION"}]
    software += [
        {"softwareInfoId": f"tool-{name}", "name": name, "version": version, "softwareType": "APPLICATION"}
        for name, version in sorted(tools.items())
    ]
    platform = report.machine
    return {
        "name": "vetting",
        "version": report.generator,
        "commandLine": "",
        "parameters": {} if report.run is None else report.run.parameters,
        "dutInfo": {
            "dutInfoId": report.host,
            "name": report.host,
            "platformInfos": [{"info": platform}] if platform else [],
            "softwareInfos": software,
            "hardwareInfos": [_hardware(name, known) for name, known in hardware.items()],
        },
    }


def _hardware(component: str, known: str) -> dict[str, str]:
    kind, _, name = component.partition(":")
    told = {"hardwareInfoId": known, "name": component or "machine", "partType": kind or "machine"}
    return {**told, "serialNumber": name} if kind in {"disk", "gpu"} and name else told


def _step(stage: ReportStage, hardware: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    yield {"testStepStart": {"name": stage.stage}}
    parts = parts_of(stage)
    for part in parts:
        yield from _of_part(part, hardware)
    if stage.verdict in {Verdict.PASS, Verdict.FAIL} and not any(_decides(part) for part in parts):
        kind = "PASS" if stage.verdict == Verdict.PASS else "FAIL"
        yield {"diagnosis": {"verdict": f"{stage.stage}-{stage.verdict}", "type": kind, "message": stage.headline}}
    if stage.verdict not in {Verdict.PASS, Verdict.FAIL, *SKIPPED}:
        yield {"error": {"symptom": stage.verdict, "message": stage.headline}}
    yield {"testStepEnd": {"status": _status(stage)}}


def _decides(part: Part) -> bool:
    return any(finding_rank(one) in {"error", "doubt"} for one in part.findings)


def _of_part(part: Part, hardware: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    known = hardware[part.component]
    for one in part.measurements:
        yield {"measurement": {**_measurement(one), "hardwareInfoId": known}}
    if part.coverage is not None:
        yield {"measurement": {"name": "coverage", "value": part.coverage, "unit": "1", "hardwareInfoId": known}}
    for finding in part.findings:
        yield _finding(finding, known)


def _measurement(one: WireMeasurement) -> dict[str, Any]:
    told: dict[str, Any] = {"name": one.name, "value": one.value, "unit": one.unit}
    if one.limit is None or one.ok is None:
        return told
    # The wire does not say whether a limit is a floor or a ceiling; the value and its judgement do.
    is_ceiling = (one.value <= one.limit) == one.ok
    kind = "LESS_THAN_OR_EQUAL" if is_ceiling else "GREATER_THAN_OR_EQUAL"
    return {**told, "validators": [{"type": kind, "value": one.limit}]}


def _finding(finding: ReportFinding, known: str) -> dict[str, Any]:
    rank = finding_rank(finding)
    if rank in {"error", "doubt"}:
        kind = "FAIL" if rank == "error" else "UNKNOWN"
        told = {"verdict": finding.reason_code, "type": kind, "message": finding.message, "hardwareInfoId": known}
        return {"diagnosis": told}
    severity = LOG_SEVERITY.get(finding.severity, "WARNING")
    return {"log": {"severity": severity, "message": f"{finding.reason_code}: {finding.component}: {finding.message}"}}


def _status(stage: ReportStage) -> str:
    if stage.verdict in SKIPPED:
        return "SKIP"
    return "COMPLETE" if stage.verdict in {Verdict.PASS, Verdict.FAIL} else "ERROR"


def _end(report: Report) -> dict[str, str]:
    complete = report.verdict in {Overall.PASS, Overall.FAIL}
    result = RESULT.get(Overall(report.verdict), "NOT_APPLICABLE")
    return {"status": "COMPLETE" if complete else "ERROR", "result": result}
