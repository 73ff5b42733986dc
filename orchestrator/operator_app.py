"""The operator's API, on a unix socket: whoever may open the socket may do everything.

GET  /operator/v1/server
POST /operator/v1/runs                                  GET /operator/v1/runs[/{id}]
GET  /operator/v1/runs/{id}/logs|samples?after=&limit=  POST /operator/v1/runs/{id}/directives|release
POST /operator/v1/runs/{id}/token
GET  /operator/v1/runs/{id}/hold-key                    GET /operator/v1/runs/{id}/evidence[/{evidence_id}]
GET  /operator/v1/runs/{id}/report?form=                GET /operator/v1/report-key, /metrics
GET  /operator/v1/runs/{id}/preflight

Hosts, profiles and booting: host_app.py.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

from orchestrator.acts import Acts
from orchestrator.agent_app import run_id_of
from orchestrator.agent_service import AgentService
from orchestrator.host_app import HostApi
from orchestrator.host_messages import TokenRotated
from orchestrator.host_service import HostService
from orchestrator.http_calls import (
    Endpoint,
    answering_errors,
    body_of,
    correlation_of,
    decoded,
    http_exception,
    json_reply,
    number_of,
    who_asks,
)
from orchestrator.images import ImageFolder
from orchestrator.operator_messages import DirectiveRequest, RunCreated, SamplesPage, ServerInfo
from orchestrator.run_creation import RunRequest
from orchestrator.run_record import Run
from orchestrator.steps import Ordered, Refusal
from orchestrator.views import directive_view, view_of

PREFIX = "/operator/v1"
BODY_BYTES = 4 * 2**20
MAX_ROWS = 10_000
BIGGEST_ID = 2**62
DEFAULT_HOP_S, MOST_HOP_S = 5, 120


@dataclass(frozen=True, slots=True)
class OperatorApi:
    """The endpoints over the same service that the agents talk to."""

    service: AgentService
    hosts: HostService
    url: str
    fingerprint: str
    socket: str
    keys: Path
    """The folder with the key that signs reports."""
    console_url: str | None = None
    boot_url: str | None = None
    image: ImageFolder | None = None
    """What hosts boot, where this server has boot services."""

    @property
    def acts(self) -> Acts:
        return Acts(self.service, self.url, self.fingerprint)

    def info(self) -> ServerInfo:
        port = self.service.iperf.port if self.service.iperf else None
        return ServerInfo(
            url=self.url,
            fingerprint=self.fingerprint,
            operator_socket=self.socket,
            iperf_port=port,
            boot_url=self.boot_url,
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
            ("POST", f"{one}/token", self.rotate),
            ("GET", f"{one}/hold-key", self.hold_key),
            ("GET", f"{one}/evidence", self.list_evidence),
            ("GET", f"{one}/evidence/{{evidence_id}}", self.get_evidence),
            ("GET", f"{one}/report", self.report),
            ("GET", f"{one}/preflight", self.preflight),
            ("GET", f"{PREFIX}/report-key", self.report_key),
            ("GET", f"{PREFIX}/metrics", self.metrics),
            *HostApi(self.hosts).endpoints(PREFIX),
        ]

    async def server(self, _request: Request) -> Response:
        return json_reply(self.info())

    async def create(self, request: Request) -> Response:
        wanted = decoded(RunRequest, await body_of(request, BODY_BYTES))
        run, token = await self.acts.create(wanted, who_asks(request))
        created = RunCreated(
            run_id=run.run_id,
            token=token,
            orchestrator=self.url,
            tls_fpr=self.fingerprint,
            cmdline=self.acts.cmdline(run, token),
        )
        return json_reply(created, 201)

    async def rotate(self, request: Request) -> Response:
        run, token = await self.acts.rotate_token(self._run(request).run_id, who_asks(request))
        return json_reply(TokenRotated(run_id=run.run_id, token=token, cmdline=self.acts.cmdline(run, token)))

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
        return json_reply(SamplesPage(samples=samples, last=last))

    async def direct(self, request: Request) -> Response:
        run = self._run(request)
        wanted = decoded(DirectiveRequest, await body_of(request, BODY_BYTES))
        event = Ordered(wanted.cmd, wanted.stage, wanted.wipe, wanted.serials, wanted.identify)
        return json_reply(directive_view(await self.acts.order(run.run_id, event, who_asks(request))), 201)

    async def release(self, request: Request) -> Response:
        run = await self.acts.release(self._run(request).run_id, who_asks(request))
        return json_reply(await view_of(self.service.store, run))

    async def hold_key(self, request: Request) -> Response:
        return json_reply(await self.acts.hold_key(self._run(request).run_id, who_asks(request)))

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

    async def report(self, request: Request) -> Response:
        from orchestrator.reports.forms import FORMS
        from orchestrator.reports.gather import report_of
        from orchestrator.reports.signing import signer_in

        run = self._run(request)
        name = request.query_params.get("form", "json")
        form = FORMS.get(name)
        if form is None:
            raise Refusal(422, "malformed", f"form must be one of {', '.join(FORMS)}, not {name!r}")
        report = await report_of(self.service.store, self.service.evidence, run)
        content = await asyncio.to_thread(form.made, report, signer_in(self.keys))
        file_name = f"run-{run.run_id}.{form.suffix}"
        headers = {"Content-Disposition": f'attachment; filename="{file_name}"'}
        return Response(content, media_type=form.media_type, headers=headers)

    async def preflight(self, request: Request) -> Response:
        """It logs in at the held host with the hold key, which the audit log must know."""
        from orchestrator.preflight import OrchestratorPreflight

        run, who = self._run(request), who_asks(request)
        entry = who.entry("preflight", subject=f"run {run.run_id}")
        await self.service.store.write(lambda transaction: transaction.add_audit(entry))
        checked = OrchestratorPreflight(
            self.service,
            self.url,
            run.run_id,
            correlation_of(request) or str(uuid.uuid4()),
            self.boot_url,
            self.image,
            number_of(request, "hop_limit", DEFAULT_HOP_S, MOST_HOP_S) or DEFAULT_HOP_S,
        )
        return json_reply(await checked.run())

    async def report_key(self, _request: Request) -> Response:
        from orchestrator.reports.signing import signer_in

        return Response(signer_in(self.keys).public_pem, media_type="application/x-pem-file")

    async def metrics(self, _request: Request) -> Response:
        from orchestrator.metrics import MEDIA_TYPE, text_of

        return Response(await text_of(self.service.store), headers={"Content-Type": MEDIA_TYPE})

    def _run(self, request: Request) -> Run:
        run_id = run_id_of(request)
        run = self.service.store.find_run(run_id)
        if run is None:
            raise Refusal(404, "no_such_run", f"There is no run {run_id}")
        return run


def _page(request: Request) -> tuple[int, int]:
    return number_of(request, "after", 0, BIGGEST_ID), number_of(request, "limit", 1000, MAX_ROWS)
