"""Pushes the hosts' log lines to VictoriaLogs, as they come in.

What was pushed is noted as the id of its last line, after the receiver has taken it: no line is left out, also over a
restart of either side, and a server killed in between pushes a batch twice. A line that retention deleted before it
could be pushed is gone. Format: JSON lines to /insert/jsonline (docs.victoriametrics.com/victorialogs/data-ingestion).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
import msgspec

from orchestrator.run_record import Record
from orchestrator.store import Store, StoreFailed, Transaction
from orchestrator.webhook_receivers import place_of
from vetting_agent.run_view import LogView

log = logging.getLogger(__name__)
PATH = "/insert/jsonline"
FIELDS = {"_stream_fields": "host,run,stage", "_time_field": "_time", "_msg_field": "_msg"}
LINES = 2000
CALL_S = 30.0
AGAIN_S = 1.0
"""How long the log is left alone when nothing was new."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 300.0


class LogsPushed(Record, frozen=True, kw_only=True):
    """How far the log was pushed to a receiver."""

    last_id: int


@dataclass(frozen=True, slots=True)
class LogPush:
    """`url`: of VictoriaLogs, http://host:9428; the path is added where it has none."""

    store: Store
    url: str
    first_pause_s: float = FIRST_PAUSE_S

    async def run(self) -> None:
        """Push until cancelled. Trouble is told once, and when it is over."""
        pause_s, told = self.first_pause_s, ""
        async with httpx.AsyncClient(timeout=CALL_S, follow_redirects=False) as client:
            while True:
                try:
                    problem, more = await self._push(client)
                except StoreFailed as failure:
                    problem, more = f"the store failed: {failure}", False
                if problem and problem != told:
                    log.warning("log lines cannot be pushed to %s: %s; trying again", place_of(self.url), problem)
                if told and not problem:
                    log.warning("log lines are pushed to %s again", place_of(self.url))
                told = problem
                if problem:
                    await asyncio.sleep(pause_s)
                    pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
                    continue
                pause_s = self.first_pause_s
                await asyncio.sleep(0 if more else AGAIN_S)

    async def _push(self, client: httpx.AsyncClient) -> tuple[str, bool]:
        """One batch: what kept it from going ("" when nothing did), and whether more may be waiting."""
        pushed = await self.store.document(LogsPushed, self.url) or LogsPushed(last_id=0)
        lines = await self.store.new_logs(pushed.last_id, LINES)
        if not lines:
            return "", False
        body = encoded((self._host_of(run_id), run_id, line) for run_id, line in lines)
        if problem := await self._post(client, body):
            return problem, False
        newest = LogsPushed(last_id=lines[-1][1].id)

        def work(transaction: Transaction) -> None:
            transaction.put_document(self.url, newest)

        await self.store.write(work)
        return "", len(lines) == LINES

    async def _post(self, client: httpx.AsyncClient, body: bytes) -> str:
        try:
            answer = await client.post(
                endpoint(self.url), params=FIELDS, content=body, headers={"Content-Type": "application/stream+json"}
            )
        except (httpx.HTTPError, ssl.SSLError, OSError) as trouble:
            return f"{type(trouble).__name__}"
        return "" if answer.is_success else f"it answered HTTP {answer.status_code}"

    def _host_of(self, run_id: int) -> str:
        run = self.store.find_run(run_id)
        return run.host if run is not None else ""


def endpoint(url: str) -> str:
    """Where lines are posted."""
    return url if urlsplit(url).path.strip("/") else f"{url.rstrip('/')}{PATH}"


def encoded(lines: Iterable[tuple[str, int, LogView]]) -> bytes:
    """One JSON object a line: of (host, run, line)."""
    return b"".join(msgspec.json.encode(_fields(*line)) + b"\n" for line in lines)


def _fields(host: str, run_id: int, line: LogView) -> dict[str, str]:
    return {
        "_time": line.ts,
        "_msg": line.text,
        "host": host,
        "run": str(run_id),
        "stage": line.stage,
        "level": line.level,
        "instance": line.instance_id,
        "line": str(line.id),
    }
