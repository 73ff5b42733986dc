"""The operator's side of an orchestrator on this machine: HTTP over its unix socket, which only its owner may open."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec

from vetting_agent.run_view import LogView, RunView, SampleView

PREFIX = "/operator/v1"
TIMEOUT_S = 10.0
PAGE = 2000

ReplyT = TypeVar("ReplyT")


class OperatorError(Exception):
    """The orchestrator did not do what was asked. `str()` says what it answered, or why there is no answer."""


class Listening(msgspec.Struct, frozen=True, kw_only=True):
    """The first line that `orchestrator serve --json` prints."""

    url: str
    fingerprint: str
    operator_socket: str


class NewRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run to be made. `intervals` are seconds: heartbeat_s, sensor_s, log_s."""

    host: str
    profile: str
    stages: list[str] | None
    parameters: dict[str, dict[str, Any]]
    mac: str | None = None
    non_destructive: bool = True
    on_failure: str = "hold"
    intervals: dict[str, float] | None = None


class CreatedRun(msgspec.Struct, frozen=True, kw_only=True):
    """What a new run needs on its host. The token is shown this once."""

    run_id: int
    token: str


class Samples(msgspec.Struct, frozen=True, kw_only=True):
    """A page of samples, and where the next one begins."""

    samples: list[SampleView]
    last: int | None = None


class OperatorClient:
    """One method a verb. Every method raises OperatorError."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def create_run(self, run: NewRun) -> CreatedRun:
        """Make a run."""
        return await self._call("POST", "/runs", CreatedRun, body=msgspec.json.encode(run))

    async def run(self, run_id: int) -> RunView:
        """The run as it stands."""
        return await self._call("GET", f"/runs/{run_id}", RunView)

    async def logs(self, run_id: int, after: int) -> list[LogView]:
        """Up to PAGE lines of the agent's log after that id."""
        return await self._call("GET", f"/runs/{run_id}/logs", list[LogView], query={"after": after, "limit": PAGE})

    async def samples(self, run_id: int, after: int) -> Samples:
        """Up to PAGE samples after that id."""
        return await self._call("GET", f"/runs/{run_id}/samples", Samples, query={"after": after, "limit": PAGE})

    async def direct(self, run_id: int, cmd: str, stage: str | None = None) -> None:
        """Give the agent a directive: retry_stage, cancel_stage, shutdown or abort."""
        body = msgspec.json.encode({"cmd": cmd, "stage": stage, "wipe": False, "serials": None})
        await self._call("POST", f"/runs/{run_id}/directives", Any, body=body)

    async def release(self, run_id: int) -> None:
        """Let the host go: the run is over."""
        await self._call("POST", f"/runs/{run_id}/release", Any)

    async def _call(
        self,
        method: str,
        path: str,
        reply: type[ReplyT] | Any,
        *,
        query: Mapping[str, int] | None = None,
        body: bytes | None = None,
    ) -> ReplyT:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            answer = await self._http.request(method, PREFIX + path, params=query, content=body, headers=headers)
        except httpx.HTTPError as problem:
            raise OperatorError(f"the orchestrator does not answer: {problem or type(problem).__name__}") from problem
        if not answer.is_success:
            raise OperatorError(_complaint(answer))
        try:
            decoded: ReplyT = msgspec.json.decode(answer.content, type=reply)
        except msgspec.MsgspecError as problem:
            raise OperatorError(f"the orchestrator's answer to {method} {path} is not understood: {problem}") from None
        return decoded


def _complaint(answer: httpx.Response) -> str:
    try:
        said = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        said = answer.text[:200]
    return f"the orchestrator refused ({answer.status_code}): {said}"


@asynccontextmanager
async def operator_client(socket: Path) -> AsyncIterator[OperatorClient]:
    """A client of the orchestrator behind that socket."""
    transport = httpx.AsyncHTTPTransport(uds=str(socket))
    async with httpx.AsyncClient(transport=transport, base_url="http://operator", timeout=TIMEOUT_S) as http:
        yield OperatorClient(http)
