"""The fleet as rows: one a host, its newest run, and an older one while it lives. Kept rendered, so that a page or a
stream costs what has changed.

A row's HTML carries what changes seldom. What every heartbeat changes (last call, progress, hottest sensor) travels as
a `Beat`, a handful of numbers, and the page puts it in place.
"""

from __future__ import annotations

import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from orchestrator.agent_service import AgentService
from orchestrator.liveness import API_UNREACHABLE, AUTH_FAILED, RESULT_FAILED, STALE, Heard, Liveness, liveness_of
from orchestrator.run_record import Run
from vetting_agent.printable import printable

FRESH_S = 0.5
"""Rows younger than this are not made again: what one viewer paid for serves all."""
GROUPS = ("alert", "holding", "running", "waiting", "completed", "ended")
"""Of a row, the most pressing first."""
ALERTS = frozenset({STALE, AUTH_FAILED, API_UNREACHABLE, RESULT_FAILED})
Beat = tuple[str | None, float | None, float | None, float | None, str, float | None]
"""Last call, progress 0–1, seconds left (ETA), hottest value, its sensor, seconds in the stage."""


@dataclass(frozen=True, slots=True)
class FleetRow:
    run_id: int
    host: str
    mac: str
    ip: str
    state: str
    group: str
    stage: str
    profile: str
    passed: int
    stages: int
    errors: int
    warnings: int
    waived: int
    problem: str
    orders: tuple[str, ...]
    """What was asked of the agent and is not acknowledged yet."""
    alive: Liveness


@dataclass(slots=True)
class _Kept:
    row: FleetRow
    html: str
    version: int
    beat: Beat
    beat_version: int


@dataclass(frozen=True, slots=True)
class Delta:
    """What changed after a version. `gone`: hosts whose newest run is another now."""

    version: str
    html: dict[int, str]
    beats: dict[int, Beat]
    gone: list[int]
    counts: dict[str, int]


@dataclass
class FleetBoard:
    """All rows. `render` makes a row's HTML."""

    service: AgentService
    render: Callable[[FleetRow], str]
    _kept: dict[int, _Kept] = field(default_factory=dict)
    _gone: dict[int, int] = field(default_factory=dict)
    _version: int = 0
    _made_at: float = 0.0
    _boot: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    def rows(self) -> list[_Kept]:
        """All rows, the most pressing first."""
        self._refresh()
        return sorted(self._kept.values(), key=lambda one: (GROUPS.index(one.row.group), natural(one.row.host)))

    @property
    def version(self) -> str:
        return f"{self._boot}.{self._version}"

    @property
    def counts(self) -> dict[str, int]:
        """Hosts in each group."""
        counted = Counter(one.row.group for one in self._kept.values())
        return {group: counted[group] for group in GROUPS}

    def since(self, version: str) -> Delta:
        """What changed after `version`; everything when it is of an earlier server or unreadable."""
        self._refresh()
        boot, _, number = version.partition(".")
        after = int(number) if boot == self._boot and number.isascii() and number.isdigit() else -1
        kept = self._kept.items()
        return Delta(
            version=self.version,
            html={run_id: one.html for run_id, one in kept if one.version > after},
            beats={run_id: one.beat for run_id, one in kept if one.beat_version > after},
            gone=[run_id for run_id, at in self._gone.items() if at > after],
            counts=self.counts,
        )

    def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._made_at < FRESH_S:
            return
        self._made_at = now
        self._version += 1
        runs = {run.run_id: run for run in shown_runs(self.service.store.runs())}
        for run_id in self._kept.keys() - runs.keys():
            del self._kept[run_id]
            self._gone[run_id] = self._version
        for run in runs.values():
            self._keep(run, now)

    def _keep(self, run: Run, now: float) -> None:
        row, beat = self._row(run, now), self._beat(run)
        kept = self._kept.get(run.run_id)
        if kept is None:
            self._kept[run.run_id] = _Kept(row, self.render(row), self._version, beat, self._version)
            return
        if kept.row != row:
            kept.row, kept.html, kept.version, kept.beat_version = row, self.render(row), self._version, self._version
        if kept.beat != beat:
            kept.beat, kept.beat_version = beat, self._version

    def _row(self, run: Run, now: float) -> FleetRow:
        alive = alive_of(self.service, run, now)
        records = run.records.values()
        failed = [one.message for one in records if one.passed is False and one.message]
        return FleetRow(
            run_id=run.run_id,
            host=run.host,
            mac=run.mac or "",
            ip=run.ip or "",
            state=run.state,
            group=group_of(run, alive),
            stage=run.awaited_stage or "",
            profile=run.profile,
            passed=sum(one.valid for one in records),
            stages=len(run.stages),
            errors=sum(one.errors for one in records if not one.valid)
            + sum(one.severity == "error" for one in run.findings),
            warnings=sum(one.warnings for one in records) + sum(one.severity == "warning" for one in run.findings),
            waived=sum(len(one.waived) for one in records),
            problem=failed[0] if failed else next((one.message for one in run.findings), ""),
            orders=tuple(one.cmd for one in run.open_directives),
            alive=alive,
        )

    def _beat(self, run: Run) -> Beat:
        status, hot = self.service.store.status(run.run_id), self.service.pulse.hottest.get(run.run_id)
        over = run.is_over or run.is_completed
        value, key = (round(hot.value, 1), printable(hot.key)) if hot is not None and not over else (None, "")
        if status is None:
            return None, None, None, value, key, None
        if run.awaited_stage is None:
            return status.last_seen_at, None, None, value, key, None
        return status.last_seen_at, status.progress, status.eta_s, value, key, status.elapsed_s


def shown_runs(runs: Iterable[Run]) -> list[Run]:
    """Of each host name the newest run, and older ones that a newer one must not hide. `runs`: the oldest first.

    Two machines may go by one name, and a run may be made for a host that an older one still holds: what is alive is
    shown until a run with the same MAC address has come after it.
    """
    by_name: dict[str, list[Run]] = {}
    for run in runs:
        others = by_name.setdefault(run.host, [])
        others[:] = [one for one in others if _is_live(one) and one.mac != run.mac]
        others.append(run)
    return [run for others in by_name.values() for run in others]


def _is_live(run: Run) -> bool:
    """Whether a machine belongs to it: one that nobody has claimed has none, and gives way."""
    return run.instance_id is not None and not run.is_over and not run.is_completed


def alive_of(service: AgentService, run: Run, now: float) -> Liveness:
    """How it stands with a run's host, by what the server remembers."""
    pulse, run_id = service.pulse, run.run_id
    heard = Heard(
        now=now,
        at=service.heard_at.get(run_id),
        auth=pulse.auth_failures.get(run_id),
        trouble=pulse.troubles.get(run_id),
        result=pulse.result_failures.get(run_id),
    )
    return liveness_of(run, heard)


def group_of(run: Run, alive: Liveness) -> str:
    """The group that a run is listed in."""
    if alive.state in ALERTS:
        return "alert"
    if run.is_holding:
        return "holding"
    if run.is_over:
        return "ended"
    if run.is_completed:
        return "completed"
    return "running" if run.instance_id is not None else "waiting"


def natural(text: str) -> list[tuple[int, str]]:
    """A key that sorts node9 before node10."""
    parts: Iterable[str] = re.split(r"(\d+)", text.lower())
    return [(int(part), "") if part.isdigit() and part.isascii() else (-1, part) for part in parts]
