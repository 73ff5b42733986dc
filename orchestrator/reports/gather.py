"""A run's report from what the store holds: as `vetting-agent vet` writes it, with the digests of its evidence."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec

from orchestrator.evidence import EvidenceFolder
from orchestrator.run_record import Run
from orchestrator.store import EvidenceRecord, Store
from orchestrator.views import view_of
from vetting_agent import judge_sources, zones
from vetting_agent.report import EvidenceFile, Gathered, Report, build, now
from vetting_agent.run_view import LogView, RunView, SampleView
from vetting_agent.verdict import Ending
from vetting_agent.zones import DiskZones

PAGE = 10_000
LOG_LINES = 200_000
SAMPLES = 2_000_000
"""More than a burn-in of a week sends; the report thins them."""


async def report_of(store: Store, evidence: EvidenceFolder, run: Run) -> Report:
    """The report as the run stands now."""
    view = await view_of(store, run)
    pieces = await store.evidence(run.run_id)
    gathered = Gathered(
        run=view,
        ending=Ending(),
        host=run.host,
        profile=run.profile,
        started_at=_started(view),
        finished_at=view.finished_at or now(),
        samples=await _samples(store, run.run_id),
        logs=await _logs(store, run.run_id),
        evidence="",
        zones=await asyncio.to_thread(_zones, evidence, run.run_id, pieces),
        evidence_files=[_file(one) for one in pieces],
    )
    return await asyncio.to_thread(build, gathered)


def encoded(report: Report) -> bytes:
    """report.json: UTF-8, indented."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"


def _started(view: RunView) -> str:
    return min((stage.started_at for stage in view.stages if stage.started_at), default=view.created_at)


def _file(piece: EvidenceRecord) -> EvidenceFile:
    return EvidenceFile(id=piece.id, stage=piece.stage, result_id=piece.result_id, sha256=piece.sha256, size=piece.size)


async def _samples(store: Store, run_id: int) -> Sequence[SampleView]:
    found: list[SampleView] = []
    last = 0
    while len(found) < SAMPLES:
        page, last = await store.samples(run_id, last, PAGE)
        if not page:
            break
        found += page
    return found


async def _logs(store: Store, run_id: int) -> Sequence[LogView]:
    found: list[LogView] = []
    while len(found) < LOG_LINES:
        page = await store.logs(run_id, found[-1].id if found else 0, PAGE)
        if not page:
            break
        found += page
    return found


def _zones(evidence: EvidenceFolder, run_id: int, pieces: Sequence[EvidenceRecord]) -> Sequence[DiskZones]:
    """The zones of the disks, from the newest evidence of Storage; its absence costs a chart and nothing else."""
    newest = max((one for one in pieces if one.stage == "Storage"), key=lambda one: one.id, default=None)
    return [] if newest is None else _zones_in(evidence.path_of(run_id, newest.sha256))


def _zones_in(archive: Path) -> Sequence[DiskZones]:
    try:
        executions = judge_sources.newest(archive, wanted=(zones.FILE,))
    except judge_sources.Refused:
        return []
    texts = [one.files[zones.FILE] for one in executions if zones.FILE in one.files]
    return zones.parse(texts[-1]) if texts else []
