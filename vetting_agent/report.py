"""The report of a run: report.json, and what report.html is made of. docs/report.md is its reference.

`build` is pure: the last view of the run, its samples and its log go in, a `Report` comes out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from stages import STAGES
from stages.outcome import Severity
from stages.reasons import REASONS
from vetting_agent import __version__
from vetting_agent.run_view import LogView, RunView, SampleView, StageView
from vetting_agent.verdict import (
    EXIT_CODES,
    INCONCLUSIVE_CODES,
    NOT_SELECTED,
    Ending,
    Untested,
    headline,
    is_whole,
    not_tested,
    overall,
    run_findings,
    stage_verdict,
    title_of,
)
from vetting_agent.wire import WireFinding, WireMeasurement
from vetting_agent.zones import DiskZones

FORMAT = "vetting-report/1"
POINTS_PER_SERIES = 2000
NOTABLE_LINES = 200
CELSIUS = frozenset({"C", "°C", "degC", "celsius"})
SEVERITIES = (Severity.ERROR.value, Severity.WARNING.value, Severity.INFO.value)


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """What a reason code means and what to do about it."""

    meaning: str
    cause: str
    action: str
    owner: str


class ReportFinding(msgspec.Struct, frozen=True, kw_only=True):
    """A finding with its advice; `advice` is null for a code that this version does not know."""

    reason_code: str
    severity: str
    component: str
    message: str
    evidence: str
    advice: Advice | None


class ReportStage(msgspec.Struct, frozen=True, kw_only=True):
    """One stage. `verdict` is that of the wire, or `running`, `not_run`, `not_selected`."""

    stage: str
    title: str
    verdict: str
    headline: str
    attempts: int
    started_at: str | None
    finished_at: str | None
    duration_s: float | None
    findings: list[ReportFinding]
    measurements: list[WireMeasurement]
    coverage: dict[str, float]
    tool_versions: dict[str, str]


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """One live measurement over time; `points` are [seconds since the run began, value]."""

    kind: str
    key: str
    unit: str
    points: list[tuple[float, float]]


class EvidenceFile(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of evidence that the orchestrator keeps: a tar.gz, by its digest."""

    id: int
    stage: str
    result_id: str
    sha256: str
    size: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that report.json holds, in its order."""

    format: str
    generated_at: str
    generator: str
    verdict: str
    exit_code: int
    headline: str
    whole: bool
    """False when only some of the stages were selected."""
    trouble: str | None
    host: str
    profile: str
    run_id: int | None
    started_at: str
    finished_at: str
    duration_s: float
    stages: list[ReportStage]
    run_findings: list[ReportFinding]
    not_tested: list[Untested]
    inventory: dict[str, Any] | None
    series: list[Series]
    notable_log: list[LogView]
    evidence: str
    run: RunView | None
    zones: list[DiskZones] = []
    """What each part of each disk gave, by the newest Storage of this run; empty where that is not at hand."""
    evidence_files: list[EvidenceFile] = []
    """What an orchestrator keeps of this run; empty in a report that `vet` wrote beside its evidence."""

    @property
    def machine(self) -> str:
        """Vendor, product and serial of the machine, as far as its inventory tells; whatever else stands there: ""."""
        system = (self.inventory or {}).get("system")
        facts = system if isinstance(system, dict) else {}
        return " ".join(str(facts[key]) for key in ("vendor", "product", "serial") if facts.get(key))


@dataclass(frozen=True, slots=True)
class Gathered:
    """What was seen of a run from outside. `started_at` and `finished_at` are RFC 3339 UTC."""

    run: RunView | None
    ending: Ending
    host: str
    profile: str
    started_at: str
    finished_at: str
    samples: Sequence[SampleView] = ()
    logs: Sequence[LogView] = ()
    evidence: str = "evidence"
    zones: Sequence[DiskZones] = ()
    evidence_files: Sequence[EvidenceFile] = ()


@dataclass(slots=True)
class Thinned:
    """Points of one series, kept to a bounded number: of each bucket its lowest and its highest stay."""

    points: list[tuple[float, float]] = field(default_factory=list)

    def add(self, at: float, value: float) -> None:
        self.points.append((at, value))
        if len(self.points) > 2 * POINTS_PER_SERIES:
            self.points = thin(self.points, POINTS_PER_SERIES)


def thin(points: Sequence[tuple[float, float]], limit: int) -> list[tuple[float, float]]:
    """At most `limit` points, the extremes among them, in order of time."""
    if len(points) <= limit:
        return list(points)
    size = -(-2 * len(points) // limit)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        bucket = points[start : start + size]
        ends = {min(bucket, key=lambda point: point[1]), max(bucket, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept


def build(gathered: Gathered) -> Report:
    """The report of what was gathered."""
    run, ending = gathered.run, gathered.ending
    verdict = overall(run, ending)
    series = series_of(gathered.samples, gathered.started_at)
    return Report(
        format=FORMAT,
        generated_at=now(),
        generator=f"vetting-agent {__version__}",
        verdict=verdict.value,
        exit_code=EXIT_CODES[verdict],
        headline=headline(run, ending),
        whole=run is not None and is_whole([stage.stage for stage in run.stages]),
        trouble=ending.trouble,
        host=gathered.host,
        profile=gathered.profile,
        run_id=None if run is None else run.run_id,
        started_at=gathered.started_at,
        finished_at=gathered.finished_at,
        duration_s=round(seconds_between(gathered.started_at, gathered.finished_at) or 0.0, 3),
        stages=_stages(run),
        run_findings=[] if run is None else [advised(one) for one in run_findings(run)],
        not_tested=not_tested(run) + _unwatched(run, series),
        inventory=None if run is None else run.inventory,
        series=series,
        notable_log=[line for line in gathered.logs if line.level != "info"][-NOTABLE_LINES:],
        evidence=gathered.evidence,
        run=run,
        zones=list(gathered.zones),
        evidence_files=list(gathered.evidence_files),
    )


def _unwatched(run: RunView | None, series: Sequence[Series]) -> list[Untested]:
    """A load ran and no sensor told how hot it got: that was not tested either."""
    loaded = run is not None and any(stage.stage == "CPUStress" and stage.summary for stage in run.stages)
    if not loaded or any(one.unit in CELSIUS for one in series):
        return []
    text = "No temperature sensor of this machine reported: how hot it gets under load is not known"
    return [Untested(stage="CPUStress", component="temperature", reason_code=None, text=text)]


def _stages(run: RunView | None) -> list[ReportStage]:
    views = {} if run is None else {view.stage: view for view in run.stages}
    names = [stage.name for stage in STAGES]
    names += [name for name in views if name not in names]
    return [_stage(name, views.get(name)) for name in names]


def _stage(name: str, view: StageView | None) -> ReportStage:
    summary = None if view is None else view.summary
    verdict = NOT_SELECTED if view is None else stage_verdict(view)
    return ReportStage(
        stage=name,
        title=title_of(name),
        verdict=verdict,
        headline=_stage_headline(view),
        attempts=0 if view is None else view.attempts,
        started_at=None if view is None else view.started_at,
        finished_at=None if view is None else view.finished_at,
        duration_s=_duration(view),
        findings=[] if summary is None else by_severity([advised(one) for one in summary.findings]),
        measurements=[] if summary is None else summary.measurements,
        coverage={} if summary is None else summary.coverage,
        tool_versions={} if summary is None else summary.tool_versions,
    )


def _stage_headline(view: StageView | None) -> str:
    if view is None:
        return "Not selected for this run"
    if view.summary is not None:
        return view.summary.headline
    return view.message or {"running": "Did not finish", "waiting": "Did not run"}.get(view.state, "No result")


def _duration(view: StageView | None) -> float | None:
    if view is None:
        return None
    if view.started_at and view.finished_at:
        return seconds_between(view.started_at, view.finished_at)
    return None if view.summary is None else view.summary.duration_s


def finding_rank(finding: ReportFinding) -> str:
    """`error`, `doubt` (an error that says "could not be judged"), `warning` or `info`; an unknown word is an error."""
    if finding.severity in {Severity.WARNING, Severity.INFO}:
        return finding.severity
    return "doubt" if finding.reason_code in INCONCLUSIVE_CODES else "error"


def by_severity(findings: Iterable[ReportFinding]) -> list[ReportFinding]:
    """Errors first, then warnings, then the rest; the order in which they were found within each."""
    rank = {severity: number for number, severity in enumerate(SEVERITIES)}
    return sorted(findings, key=lambda finding: rank.get(finding.severity, len(rank)))


def advised(finding: WireFinding) -> ReportFinding:
    """The finding with its advice."""
    return ReportFinding(
        reason_code=finding.reason_code,
        severity=finding.severity,
        component=finding.component,
        message=finding.message,
        evidence=finding.evidence,
        advice=_reasons().get(finding.reason_code),
    )


def _reasons() -> Mapping[str, Advice]:
    return {
        code.value: Advice(meaning=one.meaning, cause=one.cause, action=one.action, owner=one.owner)
        for code, one in REASONS.items()
    }


def series_of(samples: Iterable[SampleView], started_at: str) -> list[Series]:
    """The samples as series, by unit, kind and key; each thinned."""
    found: dict[tuple[str, str, str], Thinned] = {}
    for sample in samples:
        at = seconds_between(started_at, sample.ts)
        if at is not None:
            found.setdefault((sample.unit, sample.kind, sample.key), Thinned()).add(round(at, 1), sample.value)
    return [
        Series(kind=kind, key=key, unit=unit, points=thin(sorted(kept.points), POINTS_PER_SERIES))
        for (unit, kind, key), kept in sorted(found.items())
    ]


def now() -> str:
    """This moment in RFC 3339 UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_between(start: str, end: str) -> float | None:
    """Seconds from one RFC 3339 time to another; None when one of them is malformed."""
    try:
        return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
    except (ValueError, TypeError):
        return None


def write_json(report: Report, path: Path) -> None:
    """Write report.json: UTF-8, indented."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
