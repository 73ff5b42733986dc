"""The operator's API, on a unix socket: whoever may open the socket may do everything.

GET  /operator/v1/server
POST /operator/v1/runs                                  GET /operator/v1/runs[/{id}]
GET  /operator/v1/runs/{id}/logs|samples?after=&limit=  POST /operator/v1/runs/{id}/directives|release
GET  /operator/v1/runs/{id}/hold-key                    GET /operator/v1/runs/{id}/evidence[/{evidence_id}]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

from orchestrator.agent_app import run_id_of
from orchestrator.agent_service import AgentService
from orchestrator.clock import now_text
from orchestrator.http_calls import (
    Endpoint,
    answering_errors,
    body_of,
    decoded,
    http_exception,
    json_reply,
    number_of,
)
from orchestrator.operator_messages import DirectiveRequest, RunCreated, ServerInfo
from orchestrator.run_creation import RunRequest, new_run
from orchestrator.run_record import Run
from orchestrator.steps import Ordered, Refusal, Released
from orchestrator.store import Transaction
from orchestrator.tokens import hash_of, new_token
from orchestrator.views import directive_view, view_of
from vetting_agent.run_view import EventView

PREFIX = "/operator/v1"
BODY_BYTES = 4 * 2**20
MAX_ROWS = 10_000
BIGGEST_ID = 2**62


@dataclass(frozen=True, slots=True)
class OperatorApi:
    """The endpoints over the same service that the agents talk to."""

    service: AgentService
    url: str
    fingerprint: str
    socket: str
    console_url: str | None = None

    def info(self) -> ServerInfo:
        port = self.service.iperf.port if self.service.iperf else None
        return ServerInfo(
            url=self.url,
            fingerprint=self.fingerprint,
            operator_socket=self.socket,
            iperf_port=port,
            console_url=self.console_url,
        )

    def app(self, more: Sequence[BaseRoute] = ()) -> Starlette:
        """`more`: routes of others."""
        endpoints = [
            Route(path, answering_errors(endpoint), methods=[method]) for method, path, endpoint in self.endpoints()
        ]
        return Starlette(routes=[*endpoints, *more], exception_handlers={HTTPException: http_exception})

    def endpoints(self) -> list[tuple[str, str, Endpoint]]:
        """(method, path, endpoint) of each."""
        one = f"{PREFIX}/runs/{{run_id}}"
        return [
            ("GET", f"{PREFIX}/server", self.server),
            ("POST", f"{PREFIX}/runs", self.create),
            ("GET", f"{PREFIX}/runs", self.list_runs),
            ("GET", one, self.show),
            ("GET", f"{one}/logs", self.logs),
            ("GET", f"{one}/samples", self.samples),
            ("POST", f"{one}/directives", self.direct),
            ("POST", f"{one}/release", self.release),
            ("GET", f"{one}/hold-key", self.hold_key),
            ("GET", f"{one}/evidence", self.list_evidence),
            ("GET", f"{one}/evidence/{{evidence_id}}", self.get_evidence),
        ]

    async def server(self, _request: Request) -> Response:
        return json_reply(self.info())

    async def create(self, request: Request) -> Response:
        wanted = decoded(RunRequest, await body_of(request, BODY_BYTES))
        token, now = new_token(), now_text()

        def work(transaction: Transaction) -> Run:
            run = transaction.create_run(lambda run_id: new_run(wanted, run_id, hash_of(token), now))
            text = f"for {run.host}: {', '.join(run.stages)}; profile {run.profile}"
            transaction.add_event(run.run_id, EventView(ts=now, kind="created", text=text))
            return run

        run = await self.service.store.write(work)
        return json_reply(self._created(run, token), 201)

    def _created(self, run: Run, token: str) -> RunCreated:
        words = {
            "orchestrator": self.url,
            "run_id": str(run.run_id),
            "token": token,
            "tls_fpr": self.fingerprint,
            "mac": run.mac,
        }
        cmdline = " ".join(f"vetting.{name}={value}" for name, value in words.items() if value is not None)
        return RunCreated(
            run_id=run.run_id, token=token, orchestrator=self.url, tls_fpr=self.fingerprint, cmdline=cmdline
        )

    async def list_runs(self, _request: Request) -> Response:
        store = self.service.store
        return json_reply([await view_of(store, run, whole=False) for run in store.runs()])

    async def show(self, request: Request) -> Response:
        return json_reply(await view_of(self.service.store, self._run(request)))

    async def logs(self, request: Request) -> Response:
        after, limit = _page(request)
        return json_reply(await self.service.store.logs(self._run(request).run_id, after, limit))

    async def samples(self, request: Request) -> Response:
        after, limit = _page(request)
        samples, last = await self.service.store.samples(self._run(request).run_id, after, limit)
        return json_reply({"samples": samples, "last": last})

    async def direct(self, request: Request) -> Response:
        run = self._run(request)
        wanted = decoded(DirectiveRequest, await body_of(request, BODY_BYTES))
        event = Ordered(wanted.cmd, wanted.stage, wanted.wipe, wanted.serials)
        step = await self.service.apply(run.run_id, event)
        assert step.directive is not None
        return json_reply(directive_view(step.directive), 201)

    async def release(self, request: Request) -> Response:
        step = await self.service.apply(self._run(request).run_id, Released())
        self.service.slots.release_run(step.run.run_id)
        return json_reply(await view_of(self.service.store, step.run))

    async def hold_key(self, request: Request) -> Response:
        run = self._run(request)
        key = await self.service.store.hold_key(run.run_id)
        if key is None:
            raise Refusal(404, "no_hold_key", f"Run {run.run_id} has no hold key: its host has not asked for one")
        return json_reply(key)

    async def list_evidence(self, request: Request) -> Response:
        return json_reply(await self.service.store.evidence(self._run(request).run_id))

    async def get_evidence(self, request: Request) -> Response:
        run = self._run(request)
        wanted = request.path_params["evidence_id"]
        pieces = await self.service.store.evidence(run.run_id)
        piece = next((one for one in pieces if str(one.id) == wanted), None)
        if piece is None:
            raise Refusal(404, "no_such_evidence", f"Run {run.run_id} has no evidence {wanted}")
        path = self.service.evidence.path_of(run.run_id, piece.sha256)
        return FileResponse(path, media_type="application/gzip")

    def _run(self, request: Request) -> Run:
        run_id = run_id_of(request)
        run = self.service.store.find_run(run_id)
        if run is None:
            raise Refusal(404, "no_such_run", f"There is no run {run_id}")
        return run


def _page(request: Request) -> tuple[int, int]:
    return number_of(request, "after", 0, BIGGEST_ID), number_of(request, "limit", 1000, MAX_ROWS)
