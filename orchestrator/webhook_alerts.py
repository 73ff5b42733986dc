"""Alerts that no change of a run's record tells of: calls that are refused or break off.

The server tells of them, whether a page looks on or not. A silent host is the record's own business (runs.py). What is
told is kept as told, so that its end is told too, also by a server that was started anew meanwhile.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from orchestrator.agent_service import AgentService
from orchestrator.clock import now_text
from orchestrator.liveness import API_UNREACHABLE, AUTH_FAILED, HEALTHY, RESULT_FAILED, Liveness
from orchestrator.run_record import Record, Run
from orchestrator.store import Transaction
from orchestrator.web.fleet import alive_of
from orchestrator.webhook_events import RECOVERED, host_event

TOLD = frozenset({AUTH_FAILED, API_UNREACHABLE, RESULT_FAILED})
LASTING_HEARTBEATS = 2
"""An alert that is gone sooner is not told: one broken call is none."""


class ToldAlert(Record, frozen=True, kw_only=True):
    """The alert about a run that was told last, and whose end was not."""

    run_id: int
    alert: str


@dataclass(slots=True)
class AlertWatch:
    service: AgentService
    _told: dict[int, str] = field(default_factory=dict)
    _since: dict[int, tuple[str, float]] = field(default_factory=dict)

    async def recall(self) -> None:
        """What earlier servers told."""
        self._told = {one.run_id: one.alert for one in await self.service.store.documents(ToldAlert)}

    async def check(self) -> None:
        """Look at the runs that had trouble, and tell what is new of them."""
        pulse, now = self.service.pulse, time.monotonic()
        for run_id in {*pulse.auth_failures, *pulse.troubles, *pulse.result_failures, *self._told}:
            run = self.service.store.find_run(run_id)
            if run is not None:
                await self._look_at(run, alive_of(self.service, run, now), now)

    async def _look_at(self, run: Run, alive: Liveness, now: float) -> None:
        if alive.state in TOLD:
            state, since = self._since.get(run.run_id, ("", now))
            if state != alive.state:
                since = now
            self._since[run.run_id] = (alive.state, since)
            lasted = now - since >= LASTING_HEARTBEATS * run.pace.heartbeat_s
            if lasted and self._told.get(run.run_id) != alive.state:
                await self._tell(run, alive)
            return
        self._since.pop(run.run_id, None)
        ended = alive.state == HEALTHY or (not run.expects_calls and run.instance_id is not None)
        if run.run_id in self._told and (ended or run.is_over):
            await self._tell_end(run, alive)

    async def _tell(self, run: Run, alive: Liveness) -> None:
        def work(transaction: Transaction) -> None:
            event = host_event(f"host.{alive.state}", run, alive.state, alive.reason, now_text())
            transaction.outbox.add(event)
            transaction.put_document(str(run.run_id), ToldAlert(run_id=run.run_id, alert=alive.state))

        await self.service.store.write(work)
        self._told[run.run_id] = alive.state

    async def _tell_end(self, run: Run, alive: Liveness) -> None:
        def work(transaction: Transaction) -> None:
            transaction.outbox.add(host_event(RECOVERED, run, self._told[run.run_id], alive.reason, now_text()))
            transaction.drop_document(ToldAlert, str(run.run_id))

        await self.service.store.write(work)
        del self._told[run.run_id]
