"""Looks after the runs all the time: hosts that fell silent, and siblings that say something new of each other."""

from __future__ import annotations

import asyncio
import logging
import time

from orchestrator.agent_service import AgentService
from orchestrator.peers import late_findings
from orchestrator.steps import PeersReviewed, WentSilent

log = logging.getLogger(__name__)
WATCH_S = 0.25
LONGEST_PAUSE_S = 5.0
MOST_OF_THE_TIME = 0.05
"""Looking at thousands of runs takes its time: it is done less often then."""


async def watch_runs(service: AgentService) -> None:
    """Until cancelled."""
    took_s = 0.0
    while True:
        await asyncio.sleep(max(WATCH_S, min(took_s / MOST_OF_THE_TIME, LONGEST_PAUSE_S)))
        began = time.thread_time()
        try:
            await find_silent_hosts(service)
            await _review_peers(service)
        except Exception:
            log.exception("looking after the runs failed")
        took_s = time.thread_time() - began


async def find_silent_hosts(service: AgentService) -> None:
    """Tell each run whose host has gone silent."""
    for run in service.store.runs():
        if not run.stalled and run.expects_calls and service.is_silent(run):
            await service.apply(run.run_id, WentSilent())


async def _review_peers(service: AgentService) -> None:
    """Hold the completed runs of each profile that has news against each other."""
    while service.to_review:
        for run_id, findings in (await late_findings(service.store, service.to_review.pop())).items():
            await service.apply(run_id, PeersReviewed(tuple(findings)))
