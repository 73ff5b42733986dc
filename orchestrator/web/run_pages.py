"""One run: its page, the log as text, the samples for its charts, its evidence, and what changed since another run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route

from orchestrator.acts import Acts
from orchestrator.agent_app import run_id_of
from orchestrator.cli_text import log_text
from orchestrator.http_calls import json_reply
from orchestrator.run_record import Run
from orchestrator.steps import Refusal
from orchestrator.store import Store
from orchestrator.views import view_of
from orchestrator.web.access import asker, needs
from orchestrator.web.pages import Pages
from orchestrator.web.run_facts import MapCache, RunFacts, bands_of, facts_of, limits_of
from orchestrator.web.run_stream import RunStream
from orchestrator.web.streams import Streams
from vetting_agent.report import Series, Thinned, seconds_between, thin
from vetting_agent.report_charts import SUBJECTS
from vetting_agent.run_view import SampleView

LOG_PAGE = 5000
SAMPLE_PAGE = 5000
POINTS = 600
MOST_DIGITS = 18


@dataclass
class RunPages:
    acts: Acts
    streams: Streams
    maps: MapCache = field(default_factory=MapCache)

    def routes(self, pages: Pages) -> list[Route]:
        self._pages = pages
        one = "/runs/{run_id}"
        endpoints = {
            one: self.show,
            f"{one}/stream": self.stream,
            f"{one}/samples": self.samples,
            f"{one}/log.txt": self.log_file,
            f"{one}/evidence/{{evidence_id}}": self.evidence,
            f"{one}/since/{{other}}": self.since,
        }
        return [
            Route(path, pages.guarding(needs("viewer", endpoint)), methods=["GET"])
            for path, endpoint in endpoints.items()
        ]

    @property
    def _store(self) -> Store:
        return self.acts.service.store

    async def show(self, request: Request) -> Response:
        facts = await facts_of(self.acts.service, self._run(request), self.maps)
        subjects = [{"name": one.name, "units": sorted(one.units), "zero": one.from_zero} for one in SUBJECTS]
        charts = {"subjects": subjects, "bands": bands_of(facts.view.stages), "limits": limits_of(facts.view.stages)}
        return self._pages.render(request, "run.html", facts=facts, charts=charts)

    async def stream(self, request: Request) -> Response:
        run, who = self._run(request), asker(request)

        def render(name: str, facts: RunFacts) -> str:
            template = self._pages.environment.get_template(f"run_{name}.html")
            return template.render(facts=facts, who=who)

        stream = RunStream(self.acts.service, self.streams, self.maps, render)
        return self.streams.answer(request, stream.events(run.run_id, request))

    async def samples(self, request: Request) -> Response:
        """All samples until now, thinned; the stream goes on after `last`."""
        run = self._run(request)
        kept: dict[tuple[str, str, str], Thinned] = {}
        last = 0
        while True:
            samples, newer = await self._store.samples(run.run_id, last, SAMPLE_PAGE)
            _add(kept, samples, run.created_at)
            if newer == last:
                break
            last = newer
        series = [
            Series(kind=kind, key=key, unit=unit, points=thin(sorted(one.points), POINTS))
            for (unit, kind, key), one in sorted(kept.items())
        ]
        return json_reply({"start": run.created_at, "series": series, "last": last})

    async def log_file(self, request: Request) -> Response:
        run = self._run(request)
        headers = {"Content-Disposition": f'attachment; filename="run-{run.run_id}.log"'}
        return StreamingResponse(self._log_lines(run.run_id), media_type="text/plain", headers=headers)

    async def _log_lines(self, run_id: int) -> AsyncIterator[bytes]:
        last = 0
        while lines := await self._store.logs(run_id, last, LOG_PAGE):
            last = lines[-1].id
            yield "".join(log_text(line) + "\n" for line in lines).encode()

    async def evidence(self, request: Request) -> Response:
        run, wanted = self._run(request), request.path_params["evidence_id"]
        pieces = await self._store.evidence(run.run_id)
        piece = next((one for one in pieces if str(one.id) == wanted), None)
        if piece is None:
            raise Refusal(404, "no_such_evidence", f"Run {run.run_id} has no evidence {wanted}")
        path = self.acts.service.evidence.path_of(run.run_id, piece.sha256)
        name = f"run-{run.run_id}-{piece.id:03d}-{piece.stage}.tar.gz"
        return FileResponse(path, media_type="application/gzip", filename=name)

    async def since(self, request: Request) -> Response:
        """What changed on a host between two of its runs, whichever of them the address names first."""
        from orchestrator.reports.drift import drift

        run, other = self._run(request), request.path_params["other"]
        earlier = self._store.find_run(int(other)) if other.isdecimal() and len(other) < MOST_DIGITS else None
        if earlier is None:
            raise Refusal(404, "no_such_run", f"There is no run {other[:MOST_DIGITS]}")
        runs = sorted((run, earlier), key=lambda one: one.run_id)
        before, after = [await view_of(self._store, one) for one in runs]
        return self._pages.render(request, "since.html", before=before, after=after, changes=drift(before, after))

    def _run(self, request: Request) -> Run:
        return run_of(self._store, request)


def run_of(store: Store, request: Request) -> Run:
    """The run that the path names. Refuses with 404."""
    run_id = run_id_of(request)
    run = store.find_run(run_id)
    if run is None:
        raise Refusal(404, "no_such_run", f"There is no run {run_id}")
    return run


def _add(kept: dict[tuple[str, str, str], Thinned], samples: list[SampleView], start: str) -> None:
    for sample in samples:
        at = seconds_between(start, sample.ts)
        if at is not None:
            kept.setdefault((sample.unit, sample.kind, sample.key), Thinned()).add(round(at, 1), sample.value)
