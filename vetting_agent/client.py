"""The agent's side of the wire: one method a verb, the status table, retries. Everything foreign ends here.

A method makes one attempt and raises a `CallError`. `insist` repeats an attempt through trouble: full-jitter
exponential back-off, and never before a `Retry-After` has passed.
"""

from __future__ import annotations

import asyncio
import math
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar, cast

import httpx
import msgspec
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_before_delay, stop_never
from tenacity.stop import stop_base
from tenacity.wait import wait_base, wait_random_exponential

from vetting_agent import wire
from vetting_agent.clock_watch import ClockWatch
from vetting_agent.errors import FINAL_STATUS, FinalRefusal, Rejected, Trouble
from vetting_agent.http_date import http_date
from vetting_agent.params import BootParams, Token
from vetting_agent.pinning import WHOLE_CALL_S, Way
from vetting_agent.printable import printable

CALL_LIMIT_S = 10.0
QUICK_LIMIT_S = 5.0
QUICK_VERBS = frozenset({"heartbeat", "sensor"})
EVIDENCE_LIMIT_S = 30.0
ANSWER_LIMIT_BYTES = 2**20
SHOWN_BODY_CHARACTERS = 2000
UNPROVEN_REFUSAL_S = 60.0
MAX_RETRY_AFTER_DIGITS = 9
HANDSHAKE_SHARE = 0.9
"""The part of a call's time after which httpx itself gives a connection up and closes it. One that is cancelled in its
handshake stays open until it is collected."""
SMALL_BYTES = 1024
"""A request that surely fits into one packet, its head left aside."""

ReplyT = TypeVar("ReplyT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Backoff:
    """Full jitter: a wait is drawn from 0 to a bound that starts at `first_s` and doubles up to `most_s`."""

    first_s: float = 2.0
    most_s: float = 30.0


class Client:
    """Calls the orchestrator for one run. `token` may be replaced at any time."""

    def __init__(
        self,
        params: BootParams,
        instance_id: str,
        way: Way,
        *,
        backoff: Backoff | None = None,
        note: Callable[[str, str], None] = lambda _verb, _text: None,
    ) -> None:
        self.base = f"{params.orchestrator}{wire.API_PREFIX}/{params.run_id}"
        self._instance_id = instance_id
        self.way = way
        self._backoff = backoff or Backoff()
        self.note = note
        self.token: Token = params.token
        self._not_before: dict[str, float] = {}
        self._unproven_since: float | None = None
        self._answered_at = -math.inf
        self._clock = ClockWatch(lambda text: self.note("clock", text))

    # --- the verbs ----------------------------------------------------------------------------------------------------

    async def hello(self, request: wire.HelloRequest) -> wire.HelloReply:
        return await self._call("hello", request, wire.HelloReply)

    async def claim(self, request: wire.ClaimRequest) -> wire.Claim:
        claim = await self._call("claim", request, wire.Claim)
        if claim.token is not None:
            try:
                Token(claim.token)
            except ValueError as problem:
                raise Trouble("claim", f"the token in the answer {problem}") from None
        return claim

    async def heartbeat(self, request: wire.HeartbeatRequest) -> wire.HeartbeatReply:
        return await self._call("heartbeat", request, wire.HeartbeatReply)

    async def sensor(self, request: wire.SensorRequest) -> None:
        await self._call("sensor", request, wire.Empty)

    async def log(self, request: wire.LogRequest) -> None:
        await self._call("log", request, wire.Empty)

    async def result(self, request: wire.ResultRequest) -> wire.ResultReply:
        return await self._call("result", request, wire.ResultReply)

    async def hold(self, request: wire.HoldRequest) -> wire.HoldReply:
        return await self._call("hold", request, wire.HoldReply)

    async def iperf_slot(self, request: wire.IperfSlotRequest) -> wire.IperfSlotReply:
        return await self._call("iperf_slot", request, wire.IperfSlotReply)

    async def evidence(self, stage: str, result_id: str, archive: bytes, digest: str) -> None:
        """Send a stage's evidence: a gzipped tar and its SHA-256."""
        headers = {"Content-Type": "application/gzip", wire.DIGEST_HEADER: digest}
        path = f"evidence/{stage}"
        content = await self._post("evidence", path, archive, headers, {"result_id": result_id}, EVIDENCE_LIMIT_S)
        _decode("evidence", content, wire.Empty)

    def credentials(self) -> dict[str, str]:
        """The headers that say who calls."""
        return {"Authorization": f"Bearer {self.token.reveal()}", wire.CORRELATION_HEADER: self._instance_id}

    async def close(self) -> None:
        """Close all connections."""
        await self.way.close()

    async def ask(self, verb: str, request: wire.Message) -> tuple[httpx.Response, bytes]:
        """The answer to one call, whatever it is: for who wants to know what came. Raises httpx.HTTPError, OSError.

        Neither bounded in time nor held back by an earlier `Retry-After`.
        """
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"} | self.credentials()
        try:
            body, whole = msgspec.json.encode(request), httpx.Timeout(WHOLE_CALL_S)
            return await self._exchange(f"{self.base}/{verb}", body, headers, {}, whole)
        except _AnswerTooLong as problem:
            raise httpx.DecodingError(str(problem)) from None

    # --- retries ------------------------------------------------------------------------------------------------------

    def wait_s(self, verb: str) -> float:
        """Seconds that the orchestrator has asked us to leave this verb alone for."""
        return max(0.0, self._not_before.get(verb, 0.0) - time.monotonic())

    async def insist(
        self, verb: str, attempt: Callable[[], Awaitable[ResultT]], *, limit_s: float | None = None
    ) -> ResultT:
        """The result of `attempt`, repeated through `Trouble` (for `limit_s` at most, then the trouble is raised)."""
        stop: stop_base = stop_never if limit_s is None else stop_before_delay(limit_s)
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Trouble),
            wait=_Wait(self._backoff, lambda: self.wait_s(verb)),
            stop=stop,
            before_sleep=lambda state: self._note_retry(verb, state),
            reraise=True,
        )

        async def once() -> ResultT:  # tenacity awaits coroutine functions only, not what merely returns an awaitable
            return await attempt()

        return await retrying(once)

    def _note_retry(self, verb: str, state: RetryCallState) -> None:
        """Tell of attempts 1, 2, 4, 8 and so on: an outage of a day must not fill the log."""
        if state.attempt_number & (state.attempt_number - 1):
            return
        problem = state.outcome.exception() if state.outcome else None
        wait_s = state.next_action.sleep if state.next_action else 0.0
        self.note(verb, f"{problem}; attempt {state.attempt_number}, next in {wait_s:.1f} s")

    # --- one attempt --------------------------------------------------------------------------------------------------

    async def _call(self, verb: str, request: wire.Message, reply: type[ReplyT]) -> ReplyT:
        limit_s = QUICK_LIMIT_S if verb in QUICK_VERBS else CALL_LIMIT_S
        body = msgspec.json.encode(request)
        content = await self._post(verb, verb, body, {"Content-Type": "application/json"}, {}, limit_s)
        return _decode(verb, content, reply)

    async def _post(
        self, verb: str, path: str, body: bytes, headers: dict[str, str], query: dict[str, str], limit_s: float
    ) -> bytes:
        """The body of a 200. Every other ending is raised as a CallError."""
        if (wait_s := self.wait_s(verb)) > 0:
            await asyncio.sleep(wait_s)
        headers = headers | self.credentials() | {"Accept-Encoding": "identity"}
        try:
            async with asyncio.timeout(limit_s):
                timeout = httpx.Timeout(WHOLE_CALL_S, connect=HANDSHAKE_SHARE * limit_s)
                response, content = await self._exchange(f"{self.base}/{path}", body, headers, query, timeout)
        except (TimeoutError, httpx.ConnectTimeout):
            self._unproven_since = None
            raise Trouble(verb, self._unanswered(len(body), limit_s), maybe_done=True) from None
        except _AnswerTooLong as problem:
            raise Trouble(verb, str(problem), maybe_done=True) from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as problem:
            self._unproven_since = None
            raise Trouble(verb, _words(problem), maybe_done=not _never_sent(problem)) from None
        self._judge(verb, response, content)
        return content

    def _unanswered(self, size: int, limit_s: float) -> str:
        """In words. Where only what is long gets lost, the way is to be looked at, and not the orchestrator."""
        text = f"no answer within {limit_s:g} s"
        if size <= SMALL_BYTES or time.monotonic() - self._answered_at > limit_s:
            return text
        return (
            f"{text} to {size} bytes, while short calls are answered: are full packets lost on the way"
            " (an MTU smaller than this host believes)?"
        )

    async def _exchange(
        self, url: str, body: bytes, headers: dict[str, str], query: dict[str, str], timeout: httpx.Timeout
    ) -> tuple[httpx.Response, bytes]:
        client = await self.way.client()
        try:
            return await _send(client, url, body, headers, query, timeout)
        except httpx.ConnectError:
            if not await self.way.renew():
                raise
            return await _send(await self.way.client(), url, body, headers, query, timeout)

    def _judge(self, verb: str, response: httpx.Response, content: bytes) -> None:
        """The status table of the protocol."""
        self._answered_at = time.monotonic()
        status = response.status_code
        if status in FINAL_STATUS:
            self._refused(verb, status, content)
        self._unproven_since = None
        self._clock.look(response.headers.get("Date", ""))
        if status == 200:
            return
        shown = printable(content.decode(errors="replace"))[:SHOWN_BODY_CHARACTERS]
        if status in {429, 503} and (wait_s := _retry_after_s(response)) is not None:
            self._not_before[verb] = time.monotonic() + wait_s
            raise Trouble(verb, f"HTTP {status}, asked to wait {wait_s:.0f} s")
        if status >= 500 or status == 429 or status < 300:
            raise Trouble(verb, f"HTTP {status}: {shown[:200]}", maybe_done=status not in {429, 503})
        raise Rejected(verb, status, shown)

    def _refused(self, verb: str, status: int, content: bytes) -> None:
        """Final with the error envelope; without it (a proxy's page) only once it has lasted."""
        now = time.monotonic()
        try:
            error = msgspec.json.decode(content, type=wire.ErrorEnvelope).error
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            since = self._unproven_since = now if self._unproven_since is None else self._unproven_since
            if now - since < UNPROVEN_REFUSAL_S:
                raise Trouble(verb, f"HTTP {status} that is not the orchestrator's own") from None
            text = f"for {now - since:.0f} s, though not in the orchestrator's own words"
            raise FinalRefusal(verb, status, text, own=False) from None
        raise FinalRefusal(verb, status, printable(f"{error.code}: {error.message}")[:SHOWN_BODY_CHARACTERS])


class _Wait(wait_base):
    """Back-off, but never less than what `Retry-After` asked for."""

    def __init__(self, backoff: Backoff, asked_s: Callable[[], float]) -> None:
        self._jitter = wait_random_exponential(multiplier=backoff.first_s, max=backoff.most_s)
        self._asked_s = asked_s

    def __call__(self, retry_state: RetryCallState) -> float:
        return max(float(self._jitter(retry_state)), self._asked_s())


class _AnswerTooLong(Exception):
    """An answer that would not fit."""


async def _send(
    client: httpx.AsyncClient,
    url: str,
    body: bytes,
    headers: dict[str, str],
    query: dict[str, str],
    timeout: httpx.Timeout,
) -> tuple[httpx.Response, bytes]:
    params = query or None
    async with client.stream("POST", url, content=body, headers=headers, params=params, timeout=timeout) as response:
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise _AnswerTooLong("the answer is compressed, which was not asked for")
        too_long = f"the answer is longer than {ANSWER_LIMIT_BYTES} bytes"
        if (announced := response.headers.get("Content-Length", "0")).isdigit() and int(announced) > ANSWER_LIMIT_BYTES:
            raise _AnswerTooLong(too_long)
        chunks, size = [], 0
        async with aclosing(cast(AsyncGenerator[bytes, None], response.aiter_raw())) as stream:
            async for chunk in stream:
                size += len(chunk)
                if size > ANSWER_LIMIT_BYTES:
                    raise _AnswerTooLong(too_long)
                chunks.append(chunk)
        return response, b"".join(chunks)


def _decode(verb: str, content: bytes, reply: type[ReplyT]) -> ReplyT:
    try:
        return msgspec.json.decode(content, type=reply)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
        raise Trouble(verb, f"an answer that makes no sense: {problem}", maybe_done=True) from None


def _never_sent(problem: Exception) -> bool:
    """Whether the request cannot have reached the orchestrator."""
    return isinstance(problem, httpx.ConnectError | httpx.InvalidURL | ssl.SSLError | ConnectionRefusedError)


def _words(problem: Exception) -> str:
    text = printable(str(problem))[:SHOWN_BODY_CHARACTERS]
    return f"{type(problem).__name__}: {text}" if text else type(problem).__name__


def _retry_after_s(response: httpx.Response) -> float | None:
    """Seconds that `Retry-After` asks for, given as seconds or as a date; None when absent or not understood."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit() and len(value) <= MAX_RETRY_AFTER_DIGITS:
        return float(value)
    until = http_date(value)
    if until is None:
        return None
    # The server's own clock is the better reference: this host may have booted without one.
    now = http_date(response.headers.get("Date", "")) or datetime.now(UTC)
    wait_s = (until - now).total_seconds()
    return wait_s if math.isfinite(wait_s) and wait_s > 0 else 0.0
