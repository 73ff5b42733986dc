"""The stream of a run's page: log lines and samples exactly once each, parts of the page when they change.

An event's id is `LOG.SAMPLES`: the last line's and the last batch's number in the store. A stream begun with it, by
Last-Event-ID or the query, goes on right after both, also on a server that was started anew meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from orchestrator.agent_service import AgentService
from orchestrator.liveness import Liveness
from orchestrator.run_record import Run
from orchestrator.store import Store
from orchestrator.web.fleet import alive_of
from orchestrator.web.run_facts import MapCache, RunFacts, bands_of, facts_of, limits_of
from orchestrator.web.streams import Streams, event

PARTS = ("now", "acts", "found", "files")
LINES = 500
"""Of one event, and of the log's tail that a page begins with."""
BATCHES = 2000
WAIT_S = 1.0
LEVELS = ("info", "warn", "error")


@dataclass(slots=True)
class Place:
    """How far a stream has come."""

    log: int
    samples: int

    @property
    def text(self) -> str:
        return f"{self.log}.{self.samples}"


def place_of(request: Request) -> Place:
    """Where to go on: Last-Event-ID, else the query's `from`."""
    text = request.headers.get("Last-Event-ID") or request.query_params.get("from", "")
    numbers = [int(part) if part.isascii() and part.isdigit() and len(part) < 19 else 0 for part in text.split(".")]
    log, samples, *_ = [*numbers, 0, 0]
    return Place(log, samples)


async def tail_start(store: Store, run_id: int, stage: str | None = None, levels: tuple[str, ...] = ()) -> int:
    """The place after which the newest lines lie that a page begins with."""
    tail = await store.log_tail(run_id, LINES, stage=stage, levels=levels)
    return tail[0].id - 1 if tail else 0


@dataclass
class RunStream:
    """`render` makes a part's HTML."""

    service: AgentService
    streams: Streams
    maps: MapCache
    render: Callable[[str, RunFacts], str]

    async def events(self, run_id: int, request: Request) -> AsyncIterator[bytes]:
        """Forever: what is new of the run, for the filters of this request."""
        query, place = request.query_params, place_of(request)
        stage = query.get("stage")
        levels = tuple(query["levels"].split(",")[: len(LEVELS)]) if "levels" in query else ()
        if query.get("tail"):
            place.log = await tail_start(self.service.store, run_id, stage, levels)
        parts: dict[str, str] = {}
        seen: tuple[object, ...] = ()
        ended = False
        while not ended:
            number = self.service.pulse.number(run_id)
            run = self.service.store.find_run(run_id)
            assert run is not None
            async for one in self._grown(run_id, place, stage, levels):
                yield one
            now = self._seen(run)
            if now != seen:
                seen = now
                async for one in self._parts(run, parts, place):
                    yield one
            yield event("beat", self._beat(run))
            # A beat a second at most: what comes sooner waits for it, and nothing is lost.
            ended = await self.streams.pause(WAIT_S / 4)
            await self.service.pulse.newer_than(run_id, number, WAIT_S)
            ended = ended or self.streams.closing.is_set()

    async def _grown(
        self, run_id: int, place: Place, stage: str | None, levels: tuple[str, ...]
    ) -> AsyncIterator[bytes]:
        store = self.service.store
        while lines := await store.logs(run_id, place.log, LINES, stage=stage, levels=levels):
            place.log = lines[-1].id
            yield event("log", [(one.id, one.ts, one.level, one.stage, one.text) for one in lines], place.text)
        while True:
            samples, last = await store.samples(run_id, place.samples, BATCHES)
            if last == place.samples:
                return
            place.samples = last
            yield event("samples", [(one.ts, one.kind, one.key, one.value, one.unit) for one in samples], place.text)

    def _seen(self, run: Run) -> tuple[object, ...]:
        """What the parts depend on."""
        alive: Liveness = alive_of(self.service, run, time.monotonic())
        return run, alive, self.service.pulse.changes.get(run.run_id, 0)

    async def _parts(self, run: Run, sent: dict[str, str], place: Place) -> AsyncIterator[bytes]:
        facts = await facts_of(self.service, run, self.maps)
        for name in PARTS:
            html = self.render(name, facts)
            if sent.get(name) != html:
                sent[name] = html
                yield event("part", {"name": name, "html": html}, place.text)
        yield event("bands", {"bands": bands_of(facts.view.stages), "limits": limits_of(facts.view.stages)})

    def _beat(self, run: Run) -> dict[str, Any]:
        status, hot = self.service.store.status(run.run_id), self.service.pulse.hottest.get(run.run_id)
        stage = run.awaited_stage
        return {
            "seen": status.last_seen_at if status else None,
            "activity": status.activity if status else None,
            "stage": stage,
            "progress": status.progress if status and stage else None,
            "eta": status.eta_s if status and stage else None,
            "elapsed": status.elapsed_s if status and stage else None,
            "hot": round(hot.value, 1) if hot else None,
            "sensor": hot.key if hot else "",
            "dropped": status.dropped_log_lines if status else 0,
        }
