"""One attempt to bring an event to a receiver: a signed POST, and what came of it in words fit for a log."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from orchestrator.clock import now_text
from orchestrator.webhook_events import PING, EventData, WebhookEvent, body_of, new_event_id
from orchestrator.webhook_signing import signed_headers
from vetting_agent import __version__

ATTEMPT_S = 15.0
"""For the whole of an attempt: a receiver that sends its answer byte by byte gets no longer."""
GONE = 410
LONGEST_RETRY_AFTER_S = 3600.0


@dataclass(frozen=True, slots=True)
class Answer:
    """`problem`: why it is not delivered; "" when it is. `retry_after_s`: what the receiver asked for."""

    problem: str = ""
    status: int | None = None
    gone: bool = False
    retry_after_s: float = 0.0
    took_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Sender:
    """Sends with the secret of this server. Proxies and private authorities come from the environment, as usual:
    HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE. Redirects are not followed."""

    client: httpx.AsyncClient
    keys: Sequence[bytes]

    @classmethod
    def of(cls, keys: Sequence[bytes]) -> Sender:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)  # one receiver takes no other's place
        return cls(httpx.AsyncClient(timeout=ATTEMPT_S, limits=limits, follow_redirects=False), keys)

    async def send(self, url: str, event_id: str, body: bytes) -> Answer:
        """One attempt; never raises for what a receiver does."""
        headers = {
            **signed_headers(self.keys, event_id, int(time.time()), body),
            "Content-Type": "application/json",
            "User-Agent": f"vetting-orchestrator/{__version__}",
        }
        began = time.monotonic()
        call = self.client.stream("POST", url, content=body, headers=headers)
        try:
            async with asyncio.timeout(ATTEMPT_S), call as got:
                return _answer(got, time.monotonic() - began)
        except (TimeoutError, httpx.TimeoutException):
            problem = f"no answer within {ATTEMPT_S:.0f} s"
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError, ValueError) as trouble:
            problem = _words_for(trouble)
        return Answer(problem, took_s=time.monotonic() - began)


def _answer(got: httpx.Response, took_s: float) -> Answer:
    """By the status alone: nothing of the body is read."""
    if 200 <= got.status_code < 300:
        return Answer(status=got.status_code, took_s=took_s)
    asked = got.headers.get("Retry-After", "")
    wait = float(asked) if asked.isascii() and asked.isdigit() and len(asked) < 10 else 0.0
    return Answer(
        f"answered HTTP {got.status_code}",
        status=got.status_code,
        gone=got.status_code == GONE,
        retry_after_s=min(wait, LONGEST_RETRY_AFTER_S),
        took_s=took_s,
    )


def _words_for(trouble: Exception) -> str:
    """The kind of trouble alone: an exception's own text may quote the URL."""
    cause: BaseException | None = trouble
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {cause.verify_message}"
        cause = cause.__cause__ or cause.__context__
    names = {httpx.ConnectError: "cannot be connected", httpx.RemoteProtocolError: "hung up without an answer"}
    return next((words for kind, words in names.items() if isinstance(trouble, kind)), type(trouble).__name__)


async def ping(keys: Sequence[bytes], url: str) -> Answer:
    """One attempt with an event that means nothing. Not kept, not repeated."""
    data = EventData(reason="A test of this webhook, ordered by an operator")
    event = WebhookEvent(type=PING, timestamp=now_text(), data=data)
    sender = Sender.of(keys)
    async with sender.client:
        return await sender.send(url, new_event_id(), body_of(event, 0))
