"""The findings of a run as a person reads them: the gravest first, and one said by several stages said once. Pure."""

from __future__ import annotations

from vetting_agent.report import Report, ReportFinding, finding_rank
from vetting_agent.verdict import Untested

RANKS = ("error", "doubt", "warning", "info")


def listed(report: Report) -> list[tuple[str, ReportFinding]]:
    """Each finding with the names of the stages that made it, joined by commas."""
    found: dict[ReportFinding, list[str]] = {}
    for finding in report.run_findings:
        found.setdefault(finding, []).append("Run")
    for stage in report.stages:
        for finding in stage.findings:
            found.setdefault(finding, []).append(stage.stage)
    pairs = [(", ".join(dict.fromkeys(stages)), finding) for finding, stages in found.items()]
    return sorted(pairs, key=lambda pair: RANKS.index(finding_rank(pair[1])))


def untested(report: Report) -> list[tuple[str, Untested]]:
    """Each thing that was not tested with the names of the stages that say so, joined by commas."""
    found: dict[tuple[str, str], list[Untested]] = {}
    for one in report.not_tested:
        found.setdefault((one.component, one.text), []).append(one)
    return [(", ".join(dict.fromkeys(one.stage for one in same)), same[0]) for same in found.values()]
