"""A report as JUnit XML, as Jenkins and GitLab read it: a suite for each stage, a case for each part of the machine.

A fault is a <failure>; what could not be judged is an <error>, never a pass; what was not run is <skipped>.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from orchestrator.reports.parts import Part, parts_of
from stages.outcome import Verdict
from vetting_agent.printable import printable
from vetting_agent.report import Report, ReportFinding, ReportStage, finding_rank

SKIPPED = frozenset({"not_run", "not_selected", Verdict.NOT_APPLICABLE})
PASSED = frozenset({Verdict.PASS})


def document(report: Report) -> bytes:
    """The whole document, UTF-8."""
    suites = ET.Element("testsuites", name=_clean(f"vetting of {report.host}"), time=f"{report.duration_s:.3f}")
    for stage in report.stages:
        suites.append(_suite(report, stage))
    if report.run_findings:
        suites.append(_run_suite(report))
    for count in ("tests", "failures", "errors", "skipped"):
        suites.set(count, str(sum(int(suite.get(count, "0")) for suite in suites)))
    ET.indent(suites)
    return bytes(ET.tostring(suites, encoding="utf-8", xml_declaration=True)) + b"\n"


def _suite(report: Report, stage: ReportStage) -> ET.Element:
    cases = [_verdict_case(stage), *(_part_case(stage.stage, part) for part in parts_of(stage) if part.component)]
    suite = _counted(stage.stage, cases)
    suite.set("time", f"{stage.duration_s or 0.0:.3f}")
    suite.set("hostname", _clean(report.host))
    if stage.started_at:
        suite.set("timestamp", stage.started_at)
    return suite


def _run_suite(report: Report) -> ET.Element:
    case = _case("run", "orchestrator")
    _tell(case, report.run_findings)
    return _counted("run", [case])


def _counted(name: str, cases: Sequence[ET.Element]) -> ET.Element:
    counts = {"failures": "failure", "errors": "error", "skipped": "skipped"}
    told = {count: str(sum(case.find(tag) is not None for case in cases)) for count, tag in counts.items()}
    suite = ET.Element("testsuite", {"name": name, "tests": str(len(cases)), **told})
    suite.extend(cases)
    return suite


def _verdict_case(stage: ReportStage) -> ET.Element:
    """The stage's own verdict: the case that fails when no part is to blame."""
    case = _case(stage.stage, "verdict")
    if stage.verdict in SKIPPED:
        ET.SubElement(case, "skipped", message=_clean(stage.headline))
    elif stage.verdict == Verdict.FAIL:
        ET.SubElement(case, "failure", type=Verdict.FAIL.value, message=_clean(stage.headline))
    elif stage.verdict not in PASSED:
        ET.SubElement(case, "error", type=_clean(stage.verdict), message=_clean(stage.headline))
    return case


def _part_case(stage: str, part: Part) -> ET.Element:
    case = _case(stage, part.component)
    _tell(case, part.findings)
    lines = [f"{one.name} = {one.value:g} {one.unit}".rstrip() for one in part.measurements]
    lines += [] if part.coverage is None else [f"coverage = {part.coverage:.1%}"]
    if lines:
        ET.SubElement(case, "system-out").text = _clean_lines(lines)
    return case


def _tell(case: ET.Element, findings: Sequence[ReportFinding]) -> None:
    """One child at most, as JUnit has it: the faults together, else the doubts together."""
    for rank, tag in (("error", "failure"), ("doubt", "error")):
        told = [one for one in findings if finding_rank(one) == rank]
        if told:
            child = ET.SubElement(case, tag, type=_clean(told[0].reason_code), message=_clean(told[0].message))
            child.text = _clean_lines([f"{one.reason_code}: {one.message}" for one in told])
            return


def _case(suite: str, name: str) -> ET.Element:
    return ET.Element("testcase", classname=f"vetting.{_clean(suite)}", name=_clean(name))


def _clean(text: str) -> str:
    """XML 1.0 knows no control characters, and a disk may put them into its name."""
    return printable(text)


def _clean_lines(lines: Sequence[str]) -> str:
    return "\n".join(map(_clean, lines))
