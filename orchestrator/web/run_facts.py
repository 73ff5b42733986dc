"""What a run's page shows, put together from the store: frozen, so that a page and a stream say the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.agent_service import AgentService
from orchestrator.clock import now_text
from orchestrator.lamps import HOST, Lamp, lamp_of
from orchestrator.liveness import Liveness
from orchestrator.run_record import Run
from orchestrator.site_keys import SiteKey
from orchestrator.store import EvidenceRecord
from orchestrator.views import view_of
from orchestrator.waivers import Waiver, is_waivable
from orchestrator.web.disk_maps import DiskMap, maps_in
from orchestrator.web.fleet import alive_of, group_of
from orchestrator.web.hold_files import KeyTaken
from vetting_agent.report import ReportFinding, advised, finding_rank
from vetting_agent.report_charts import SUBJECTS
from vetting_agent.run_view import RunView, StageView
from vetting_agent.wire import WireFinding, WireMeasurement

RANKS = ("error", "doubt", "warning", "info")
STORAGE = "Storage"
MOST_CACHED = 64


@dataclass(frozen=True, slots=True)
class ShownFinding:
    """A finding with its advice; `waiver` is the newest one about it, in force or not."""

    stages: tuple[str, ...]
    rank: str
    finding: ReportFinding
    waiver: Waiver | None
    waiver_active: bool
    waivable: bool


@dataclass(frozen=True, slots=True)
class DiskCard:
    facts: Mapping[str, Any]
    component: str
    rank: str
    findings: tuple[str, ...]
    measurements: tuple[WireMeasurement, ...]
    map: DiskMap | None
    lamp: Lamp


@dataclass(frozen=True, slots=True)
class RunFacts:
    """All that the page says of a run but its log and charts."""

    run: Run
    view: RunView
    group: str
    alive: Liveness
    findings: tuple[ShownFinding, ...]
    disks: tuple[DiskCard, ...]
    evidence: tuple[EvidenceRecord, ...]
    siblings: tuple[Run, ...]
    """Other runs of the same host, the newest first."""
    waivers: tuple[Waiver, ...]
    key_taken: KeyTaken | None
    has_lamps: bool
    """Whether anybody is there to switch one."""
    host_lamp: Lamp
    site_keys: tuple[SiteKey, ...]
    """What opens the held host beside the run's key."""

    @property
    def first_open(self) -> str | None:
        """The first stage without a valid pass: what a retry means when it names none."""
        return next((name for name in self.run.stages if not self.run.has_valid_pass(name)), None)


@dataclass(slots=True)
class MapCache:
    """The disk maps of evidence that was read, by its digest: evidence never changes."""

    _maps: dict[str, dict[str, DiskMap]] = field(default_factory=dict)

    async def of(self, service: AgentService, run: Run, evidence: Sequence[EvidenceRecord]) -> dict[str, DiskMap]:
        """Those of the newest Storage evidence."""
        newest = next((one for one in reversed(evidence) if one.stage == STORAGE), None)
        if newest is None:
            return {}
        if newest.sha256 not in self._maps:
            while len(self._maps) >= MOST_CACHED:
                del self._maps[next(iter(self._maps))]
            path = service.evidence.path_of(run.run_id, newest.sha256)
            self._maps[newest.sha256] = await asyncio.to_thread(maps_in, path)
        return self._maps[newest.sha256]


async def facts_of(service: AgentService, run: Run, maps: MapCache) -> RunFacts:
    """Everything about a run, as last committed."""
    store = service.store
    view = await view_of(store, run)
    alive = alive_of(service, run, time.monotonic())
    waivers = [one for one in await store.documents(Waiver) if one.mac == run.mac or one.run_id == run.run_id]
    evidence = await store.evidence(run.run_id)
    now = now_text()
    findings = _findings(view, waivers, now)
    siblings = [one for one in store.runs() if one.host == run.host and one.run_id != run.run_id]
    return RunFacts(
        run=run,
        view=view,
        group=group_of(run, alive),
        alive=alive,
        findings=tuple(findings),
        disks=tuple(_disks(run, view, findings, await maps.of(service, run, evidence), now)),
        evidence=tuple(evidence),
        siblings=tuple(reversed(siblings))[:20],
        waivers=tuple(waivers),
        key_taken=await store.document(KeyTaken, str(run.run_id)),
        has_lamps=run.expects_calls,
        host_lamp=lamp_of(run, HOST, now),
        site_keys=service.site_keys,
    )


def _findings(view: RunView, waivers: Sequence[Waiver], now: str) -> list[ShownFinding]:
    """The gravest first; one that several stages made is said once."""
    made: dict[ReportFinding, list[str]] = {}
    for stage, finding in _all_findings(view):
        made.setdefault(advised(finding), []).append(stage)
    shown = [_shown(finding, stages, waivers, now) for finding, stages in made.items()]
    return sorted(shown, key=lambda one: RANKS.index(one.rank))


def _all_findings(view: RunView) -> Iterable[tuple[str, WireFinding]]:
    for one in view.run_findings:
        yield "Run", WireFinding(**one)
    for stage in view.stages:
        for finding in stage.summary.findings if stage.summary else ():
            yield stage.stage, finding


def _shown(finding: ReportFinding, stages: Sequence[str], waivers: Sequence[Waiver], now: str) -> ShownFinding:
    subject = (finding.reason_code, finding.component)
    about = [one for one in waivers if one.subject == subject]
    newest = max(about, key=lambda one: one.created_at, default=None)
    rank = finding_rank(finding)
    return ShownFinding(
        stages=tuple(dict.fromkeys(stages)),
        rank=rank,
        finding=finding,
        waiver=newest,
        waiver_active=newest is not None and newest.is_active(now),
        waivable=rank == "error" and "Run" not in stages and is_waivable(finding.reason_code),
    )


NO_FACTS: Mapping[str, Any] = dict.fromkeys(("name", "model", "serial", "size_gb", "transport", "rotational"))
"""What the page shows of a disk: a host may leave out any of it, and must not cost the operator the page."""


def _disks(
    run: Run, view: RunView, findings: Sequence[ShownFinding], maps: Mapping[str, DiskMap], now: str
) -> Iterable[DiskCard]:
    listed = (view.inventory or {}).get("disks")
    measured = [one for stage in view.stages if stage.summary for one in stage.summary.measurements]
    for facts in listed if isinstance(listed, list) else ():
        if not isinstance(facts, dict):
            continue
        component = f"disk:{facts.get('serial')}"
        about = [one for one in findings if one.finding.component == component]
        yield DiskCard(
            facts={**NO_FACTS, **facts},
            component=component,
            rank=about[0].rank if about else "",
            findings=tuple(one.finding.message for one in about),
            measurements=tuple(one for one in measured if one.component == component),
            map=maps.get(component),
            lamp=lamp_of(run, component, now),
        )


def bands_of(stages: Sequence[StageView]) -> list[dict[str, Any]]:
    """When each stage ran, for the charts."""
    return [
        {"stage": one.stage, "from": one.started_at, "to": one.finished_at, "passed": one.passed}
        for one in stages
        if one.started_at
    ]


def limits_of(stages: Sequence[StageView]) -> list[dict[str, Any]]:
    """The limits that measurements were held against, by the subject of a chart."""
    found: dict[tuple[str, float], dict[str, Any]] = {}
    for stage in stages:
        for one in stage.summary.measurements if stage.summary else ():
            subject = next((subject.name for subject in SUBJECTS if one.unit in subject.units), None)
            if subject in {"Temperature", "Power"} and one.limit is not None:
                found[subject, one.limit] = {"subject": subject, "value": one.limit, "name": f"limit: {one.name}"}
    return list(found.values())
