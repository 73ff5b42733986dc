"""A report taken apart by the parts of the machine: what each stage said of each component."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vetting_agent.report import Report, ReportFinding, ReportStage
from vetting_agent.wire import WireMeasurement


@dataclass(frozen=True, slots=True)
class Part:
    """One component in one stage. `coverage` is 0 to 1, or None where it was not told."""

    component: str
    findings: Sequence[ReportFinding]
    measurements: Sequence[WireMeasurement]
    coverage: float | None


def parts_of(stage: ReportStage) -> list[Part]:
    """Every component that the stage names, in the order of their names."""
    names = {one.component for one in stage.findings} | {one.component for one in stage.measurements}
    return [_part(stage, name) for name in sorted(names | set(stage.coverage))]


def _part(stage: ReportStage, name: str) -> Part:
    return Part(
        component=name,
        findings=[one for one in stage.findings if one.component == name],
        measurements=[one for one in stage.measurements if one.component == name],
        coverage=stage.coverage.get(name),
    )


def components(report: Report) -> list[str]:
    """Every component that the stages name, once."""
    return sorted({part.component for stage in report.stages for part in parts_of(stage)})
