"""The siblings of a host: who they are, what they measured, and what of it becomes a finding `peer_outlier`.

Siblings are the newest completed runs, one a host, with the same hardware profile and the same parameters of the
stage: only what was measured the same way is compared.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Sequence

import msgspec

from orchestrator.baselines import RULES, Comparison, Figure, compared, grouped, kinds_of, rule_of
from orchestrator.run_record import Run
from orchestrator.store import Store
from stages.outcome import ReasonCode, Severity
from vetting_agent.wire import ResultRequest, WireFinding

MOST_SIBLINGS = 200
CODE = ReasonCode.PEER_OUTLIER.value


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One host's part in a chart. `outlier`: beside the others it is one."""

    host: str
    run_id: int
    component: str
    value: float
    outlier: bool


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """One chart: a measurement of one kind of part over all hosts. `limit` is None with too few siblings."""

    stage: str
    name: str
    kind: str
    unit: str
    worse: str
    median: float | None
    limit: float | None
    points: list[Point]


async def peer_findings(store: Store, run: Run, request: ResultRequest) -> tuple[WireFinding, ...]:
    """What a passed result of this run looks like beside its siblings."""
    if run.hardware is None or run.peers == "off":
        return ()
    own = _figures(run, request, kinds_of(await _inventory(store, run)))
    if not own:
        return ()
    siblings = newest_passed(store.runs(), run.hardware, stage=request.stage, like=run)
    figures = await _figures_of(store, siblings, [request.stage])
    severity = Severity.ERROR if run.peers == "error" else Severity.WARNING
    return tuple(findings_of(await asyncio.to_thread(compared, own, figures), severity))


def findings_of(comparisons: Iterable[Comparison], severity: Severity) -> list[WireFinding]:
    """One finding for each part that lies far off, whatever its figures are."""
    by_part: dict[tuple[str, str], list[Comparison]] = {}
    for one in comparisons:
        if one.is_outlier:
            by_part.setdefault((one.figure.stage, one.figure.component), []).append(one)
    return [
        WireFinding(
            reason_code=CODE,
            severity=severity.value,
            component=component,
            message=f"{stage}: {component} is far from its siblings: {'; '.join(one.text for one in far)}",
            evidence=evidence_of(stage, far),
        )
        for (stage, component), far in by_part.items()
    ]


def evidence_of(stage: str, comparisons: Iterable[Comparison]) -> str:
    """`STAGE: name value unit, median, limit, siblings` for each figure: enough to find its chart."""
    parts = (
        f"{one.figure.name} {one.figure.value:g} {one.figure.unit},"
        f" median {one.median:g}, limit {one.limit:g}, {one.siblings} siblings"
        for one in comparisons
    )
    return f"{stage}: {'; '.join(parts)}"


def newest_passed(
    runs: Sequence[Run], hardware: str, *, stage: str | None = None, like: Run | None = None
) -> list[Run]:
    """The newest completed run of each host with this profile; other hosts than that of `like`, same parameters."""
    found: dict[str, Run] = {}
    for run in reversed(runs):
        if run.hardware != hardware or not run.is_completed or run.host in found or len(found) >= MOST_SIBLINGS:
            continue
        if like is not None:
            same_host = run.host == like.host or (run.mac is not None and run.mac == like.mac)
            same_way = stage is None or run.parameters.get(stage) == like.parameters.get(stage)
            if same_host or not same_way:
                continue
        found[run.host] = run
    return list(found.values())


async def baselines_of(store: Store, hardware: str) -> list[Baseline]:
    """All charts of a hardware profile."""
    comparisons, figures = await _whole(store, hardware)
    return await asyncio.to_thread(_charts, comparisons, figures)


async def late_findings(store: Store, hardware: str) -> dict[int, list[WireFinding]]:
    """Of runs that were completed before there were siblings enough, by run: what the siblings say now. Warnings."""
    comparisons, _ = await _whole(store, hardware)
    by_run: dict[int, list[Comparison]] = {}
    for one in comparisons:
        by_run.setdefault(one.figure.run_id, []).append(one)
    runs = {run_id: store.find_run(run_id) for run_id in by_run}
    return {
        run_id: found
        for run_id, some in by_run.items()
        if (run := runs[run_id]) is not None and run.peers != "off"
        if (found := findings_of(some, Severity.WARNING))
    }


async def _whole(store: Store, hardware: str) -> tuple[list[Comparison], list[Figure]]:
    """Each host of the profile beside all others that were tested the same way."""
    runs = newest_passed(store.runs(), hardware)
    stages = sorted({stage for run in runs for stage in run.stages if _has_rule(stage)})
    comparisons: list[Comparison] = []
    everything: list[Figure] = []
    for stage in stages:
        for alike in _tested_alike(runs, stage):
            figures = await _figures_of(store, alike, [stage])
            comparisons += await asyncio.to_thread(compared, figures, figures)
            everything += figures
    return comparisons, everything


def _tested_alike(runs: Sequence[Run], stage: str) -> list[list[Run]]:
    groups: list[list[Run]] = []
    for run in runs:
        for group in groups:
            if group[0].parameters.get(stage) == run.parameters.get(stage):
                group.append(run)
                break
        else:
            groups.append([run])
    return groups


def _charts(comparisons: Sequence[Comparison], figures: Sequence[Figure]) -> list[Baseline]:
    outliers = {one.figure for one in comparisons if one.is_outlier}
    by_figure = {one.figure: one for one in comparisons}
    charts = []
    for (stage, name, kind, unit), group in sorted(grouped(figures).items()):
        rule = rule_of(stage, name)
        known = [by_figure[one] for one in group if one in by_figure and one not in outliers]
        points = [
            Point(host=one.host, run_id=one.run_id, component=one.component, value=one.value, outlier=one in outliers)
            for one in sorted(group, key=lambda one: (one.host, one.component))
        ]
        middle = sorted(known, key=lambda one: one.median)[len(known) // 2] if known else None
        charts.append(
            Baseline(
                stage=stage,
                name=name,
                kind=kind,
                unit=unit,
                worse=rule.worse if rule else "",
                median=middle.median if middle else None,
                limit=middle.limit if middle else None,
                points=points,
            )
        )
    return charts


async def _figures_of(store: Store, runs: Iterable[Run], stages: Sequence[str]) -> list[Figure]:
    """What these runs' passes of these stages measured."""
    figures: list[Figure] = []
    for run in runs:
        kinds: dict[str, str] | None = None
        for stage in stages:
            record = run.record_of(stage)
            if not record.valid or record.result_id is None:
                continue
            result = await store.result(run.run_id, record.result_id)
            if result is None:
                continue
            if kinds is None:
                kinds = kinds_of(await _inventory(store, run))
            figures += _figures(run, result, kinds)
    return figures


def _figures(run: Run, request: ResultRequest, kinds: dict[str, str]) -> list[Figure]:
    """The measurements that have a rule, of parts whose kind is known."""
    return [
        Figure(run.host, run.run_id, request.stage, one.name, one.component, kind, one.value, one.unit)
        for one in request.summary.measurements
        if rule_of(request.stage, one.name) is not None
        if (kind := kinds.get(one.component)) is not None and math.isfinite(one.value)
    ]


async def _inventory(store: Store, run: Run) -> dict[str, object] | None:
    if run.inventory_result_id is None:
        return None
    result = await store.result(run.run_id, run.inventory_result_id)
    return result.inventory if result else None


def _has_rule(stage: str) -> bool:
    return any(stage == of_stage for of_stage, _, _ in RULES)
