"""The fleet: the page, its stream, and acts on many hosts at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orchestrator.acts import Acts
from orchestrator.steps import Ordered, Refusal
from orchestrator.web.access import asker, needs
from orchestrator.web.fleet import FleetBoard
from orchestrator.web.pages import Pages, form_of, one_of
from orchestrator.web.streams import Streams, event
from orchestrator.who import Who

PERIOD_S = 1.0
FIRST_ROWS = 40
"""In the page itself, the most pressing ones; the others come by the stream right after, while it can be read."""
MOST_AT_ONCE = 2000
BULK = {
    "retry_stage": "Retry",
    "cancel_stage": "Cancel",
    "shutdown": "Shut down",
    "abort": "Abort",
    "release": "Release",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one run's part of an act on many."""

    run_id: int
    host: str
    text: str
    refused: bool


@dataclass
class FleetPages:
    acts: Acts
    streams: Streams

    def routes(self, pages: Pages) -> list[Route]:
        self._pages = pages
        template = pages.environment.get_template("fleet_row.html")
        self._board = FleetBoard(self.acts.service, lambda row: template.render(row=row).strip())
        return [
            Route("/", pages.guarding(needs("viewer", self.show)), methods=["GET"]),
            Route("/fleet/stream", pages.guarding(needs("viewer", self.stream)), methods=["GET"]),
            Route("/fleet/act", pages.guarding(needs("operator", self.act)), methods=["POST"]),
        ]

    async def show(self, request: Request) -> Response:
        rows, board = self._board.rows(), self._board
        first = rows if "all" in request.query_params else rows[:FIRST_ROWS]
        values: dict[str, Any] = {
            "rows": first,
            "hosts": len(rows),
            "counts": board.counts,
            # A page without all rows begins its stream at nothing, and is told them all.
            "version": board.version if len(first) == len(rows) else "",
            "beats": {one.row.run_id: one.beat for one in first},
            "bulk": BULK,
        }
        return self._pages.render(request, "fleet.html", **values)

    async def stream(self, request: Request) -> Response:
        version = request.headers.get("Last-Event-ID") or request.query_params.get("version", "")
        return self.streams.answer(request, self._events(version))

    async def _events(self, version: str) -> AsyncIterator[bytes]:
        ended = False
        while not ended:
            delta = self._board.since(version)
            if delta.html or delta.beats or delta.gone:
                data = {"html": delta.html, "beats": delta.beats, "gone": delta.gone, "counts": delta.counts}
                yield event("fleet", data, delta.version)
            else:
                yield b""
            version = delta.version
            ended = await self.streams.pause(PERIOD_S)

    async def act(self, request: Request) -> Response:
        form, who = await form_of(request), asker(request)
        what = one_of(form, "act")
        if what not in BULK:
            raise Refusal(422, "unknown_act", "Choose what is to be done")
        chosen = [int(text) for text in form.get("run", []) if text.isascii() and text.isdigit() and len(text) < 19]
        if not chosen or len(chosen) > MOST_AT_ONCE:
            raise Refusal(422, "no_hosts", f"Tick 1 to {MOST_AT_ONCE} hosts")
        outcomes = [await self._one(what, run_id, who) for run_id in chosen]
        return self._pages.render(request, "bulk_outcome.html", title=BULK[what], outcomes=outcomes)

    async def _one(self, what: str, run_id: int, who: Who) -> Outcome:
        run = self.acts.service.store.find_run(run_id)
        if run is None:
            return Outcome(run_id, "?", "there is no such run", refused=True)
        try:
            if what == "release":
                await self.acts.release(run_id, who)
                return Outcome(run_id, run.host, "released", refused=False)
            directive = await self.acts.order(run_id, Ordered(what), who)
        except Refusal as refusal:
            return Outcome(run_id, run.host, refusal.message, refused=True)
        text = "done: no agent is there" if directive.status == "done" else "asked, not yet acknowledged"
        return Outcome(run_id, run.host, text, refused=False)
