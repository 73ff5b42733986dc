"""The hops from TLS to the state of the run: what answers there, and whether it will have this host.

One `hello` is all that is asked, which changes nothing. The token leaves only after the fingerprint has been proven.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlsplit

import httpx
import msgspec

from vetting_agent import __version__, wire
from vetting_agent.client import Client
from vetting_agent.errors import FINAL_STATUS
from vetting_agent.http_date import http_date
from vetting_agent.params import BootParams
from vetting_agent.pinning import FingerprintMismatch, Way, fetch_leaf, fingerprint_of
from vetting_agent.preflight_network import connect_problem
from vetting_agent.preflight_report import HOP_LIMIT_S, WARNING, Check, Failed, Seen, none_here
from vetting_agent.printable import clock
from vetting_agent.route import NO_MAC, route_to
from vetting_agent.signals import SIGNALS, Hop, Signal

MOST_SKEW_S = 300.0
"""Keys and tokens live for hours, and evidence is compared by the minute."""
SHOWN_BODY = 160
EXPIRED, NOT_YET_VALID = 10, 9
"""X509_V_ERR_CERT_HAS_EXPIRED, X509_V_ERR_CERT_NOT_YET_VALID: openssl/x509_vfy.h."""
REFUSED = {
    401: Signal.AUTH_FAILED,
    403: Signal.AUTH_FAILED,
    404: Signal.RUN_NOT_FOUND,
    409: Signal.RUN_CLAIMED_ELSEWHERE,
    410: Signal.RUN_NOT_ACTIVE,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back to a `hello`."""

    status: int
    headers: httpx.Headers
    content: bytes


@dataclass(slots=True)
class ApiHops:
    """The orchestrator behind the TCP connection. `reply`: what the greeting said, once it was taken."""

    params: BootParams
    client: Client
    way: Way
    correlation_id: str
    hop_s: float = HOP_LIMIT_S
    reply: wire.HelloReply = field(default_factory=wire.HelloReply)
    _refusal: Failed | None = None

    def checks(self) -> list[Check]:
        """In the order of the walk."""
        return [
            Check(Hop.TLS, self.tls, Signal.API_UNRESPONSIVE),
            Check(Hop.CLOCK, self.clock, Signal.API_UNRESPONSIVE),
            Check(Hop.HELLO, self.hello, Signal.API_UNRESPONSIVE, 2),
            Check(Hop.TOKEN, self.token, Signal.AUTH_FAILED),
            Check(Hop.RUN, self.run, Signal.RUN_NOT_ACTIVE),
            Check(Hop.IPERF, self.iperf, Signal.IPERF_UNREACHABLE),
        ]

    async def tls(self) -> Seen:
        parts = urlsplit(self.params.orchestrator)
        if parts.scheme == "http":
            return none_here("plain HTTP is asked for")
        host, port = parts.hostname or "", parts.port or 443
        try:
            if not self.params.fingerprints:
                return await self._trusted(host, port)
            seen = fingerprint_of(await fetch_leaf(host, port))
        except (ssl.SSLError, OSError) as problem:
            raise tls_failure(problem) from None
        if seen not in self.params.fingerprints:
            raise tls_failure(FingerprintMismatch(self.params.fingerprints, seen))
        return Seen(f"fingerprint {seen[:16]}… is the one that was given")

    async def _trusted(self, host: str, port: int) -> Seen:
        _, writer = await asyncio.open_connection(host, port, ssl=await self.way.context())
        writer.transport.abort()
        return Seen("the certificate is one that this system trusts")

    async def clock(self) -> Seen:
        """By the Date of any answer; the token is not shown for it."""
        try:
            async with asyncio.timeout(self.hop_s):
                client = await self.way.client()
                async with client.stream("GET", self.params.orchestrator + "/") as response:
                    there, here = http_date(response.headers.get("Date", "")), datetime.now(UTC)
        except (TimeoutError, httpx.HTTPError, OSError):
            return none_here("no answer to read a time from")
        if there is None:
            return none_here("the answer tells no time")
        skew_s = (here - there).total_seconds()
        if abs(skew_s) <= MOST_SKEW_S:
            return Seen(f"{abs(skew_s):.0f} s apart")
        side, form = "ahead of" if skew_s > 0 else "behind", "%Y-%m-%d %H:%M"
        raise Failed(
            Signal.CLOCK_SKEW,
            f"this host's clock is {clock(abs(skew_s))} (h:mm:ss) {side} the orchestrator's:"
            f" {here:{form}} here, {there:{form}} there (UTC)",
        )

    async def hello(self) -> Seen:
        route = await route_to(self.params.orchestrator, with_mac=not self.params.mac)
        greeting = wire.HelloRequest(
            agent_version=__version__,
            mac=self.params.mac or route.mac or NO_MAC,
            ip=route.ip,
            instance_id=self.correlation_id,
        )
        try:
            response, content = await self.client.ask("hello", greeting)
        except (httpx.HTTPError, OSError) as problem:
            raise call_failure(problem) from None
        failure = judged(Answer(response.status_code, response.headers, content))
        if failure is not None and SIGNALS[failure.signal].hop is Hop.HELLO:
            raise failure
        self._refusal = failure
        if failure is None:
            self.reply = msgspec.json.decode(content, type=wire.HelloReply)
        return Seen("the orchestrator answers" + (f", and refuses with HTTP {response.status_code}" if failure else ""))

    async def token(self) -> Seen:
        if self._refusal is not None and self._refusal.signal is Signal.RUN_NOT_FOUND:
            return none_here("without the run it was not looked at")
        return await self._unless_refused(Hop.TOKEN, "it is taken")

    async def run(self) -> Seen:
        state = self.reply.current_state
        return await self._unless_refused(Hop.RUN, f"it stands at {state}" if state else "it takes this host")

    async def _unless_refused(self, hop: Hop, well: str) -> Seen:
        if self._refusal is not None and SIGNALS[self._refusal.signal].hop is hop:
            raise self._refusal
        return Seen(well)

    async def iperf(self) -> Seen:
        port, stages = self.reply.iperf_port, self.reply.stages
        if port is None or not 0 < port < 65536:
            return none_here("the orchestrator names no iperf3 port")
        host = self.reply.iperf_host or urlsplit(self.params.orchestrator).hostname or ""
        problem = await connect_problem(host, port, self.hop_s)
        if problem is None:
            return Seen(f"port {port} answers")
        text = f"{host} port {port}: {problem}"
        if stages is not None and "Network" not in stages:
            return Seen(f"{text}; this run does not need it", WARNING)
        raise Failed(Signal.IPERF_UNREACHABLE, text)


# --- judgements, pure -------------------------------------------------------------------------------------------------


def tls_failure(problem: Exception) -> Failed:
    """What a TLS handshake that failed says."""
    match problem:
        case FingerprintMismatch():
            return Failed(Signal.API_TLS_FAILED, str(problem.args[-1]))
        case ssl.SSLCertVerificationError(verify_code=code) if code in {EXPIRED, NOT_YET_VALID}:
            words = "has expired" if code == EXPIRED else "is not valid yet"
            return Failed(
                Signal.API_TLS_FAILED,
                f"the certificate {words} by this host's clock, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
                "If this host's clock is wrong, set it; else renew the certificate.",
            )
        case ssl.SSLCertVerificationError():
            text = f"this system does not trust the certificate: {problem.verify_message}"
            return Failed(Signal.API_TLS_FAILED, text, "Give its fingerprint with vetting.tls_fpr.")
        case ssl.SSLError(reason=reason) if reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"}:
            return Failed(
                Signal.API_TLS_FAILED,
                "what answers there does not speak TLS",
                "Look whether the port is that of the orchestrator's agent API, and whether http:// was meant.",
            )
        case ssl.SSLError():
            return Failed(Signal.API_TLS_FAILED, f"the handshake failed: {problem.reason or problem}")
        case _:
            return Failed(Signal.API_TLS_FAILED, f"the connection was closed during the handshake: {problem}")


def call_failure(problem: Exception) -> Failed:
    """What a call that got no answer says."""
    if isinstance(problem, ssl.SSLError):
        return tls_failure(problem)
    words = str(problem) or type(problem).__name__
    if isinstance(problem, httpx.DecodingError):
        return Failed(Signal.API_INCOMPATIBLE, words)
    if isinstance(problem, httpx.RemoteProtocolError | httpx.ReadError):
        return Failed(Signal.API_FAILING, f"it hung up before its answer was whole: {words}")
    return Failed(Signal.API_UNREACHABLE, words)


def judged(answer: Answer) -> Failed | None:
    """What is wrong with the answer to a `hello`; None when it was taken."""
    status, own = answer.status, _envelope(answer.content)
    said = f"{own.code}: {own.message}" if own else _excerpt(answer)
    text = f"HTTP {status}: {said}"
    if status == 429 or (status == 503 and "Retry-After" in answer.headers):
        wait = answer.headers.get("Retry-After")
        return Failed(Signal.API_RATE_LIMITED, text + (f"; asked to wait {wait}" if wait else ""))
    if status >= 500:
        return Failed(Signal.API_FAILING, text)
    if status == 200:
        return _judged_reply(answer)
    if own is None:
        return Failed(Signal.API_INTERCEPTED, text)
    return Failed(REFUSED[status] if status in FINAL_STATUS else Signal.API_INCOMPATIBLE, text)


def _judged_reply(answer: Answer) -> Failed | None:
    try:
        msgspec.json.decode(answer.content, type=wire.HelloReply)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
        if answer.content.lstrip()[:1] == b"<" or "html" in answer.headers.get("Content-Type", ""):
            return Failed(Signal.API_INTERCEPTED, f"HTTP 200 with a page: {_excerpt(answer)}")
        return Failed(Signal.API_INCOMPATIBLE, f"HTTP 200 with an answer that makes no sense: {problem}")
    return None


def _envelope(content: bytes) -> wire.ErrorBody | None:
    try:
        return msgspec.json.decode(content, type=wire.ErrorEnvelope).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _excerpt(answer: Answer) -> str:
    where = answer.headers.get("Location", "")
    text = " ".join(answer.content[:4096].decode(errors="replace").split())[:SHOWN_BODY]
    return (f"it leads to {where}; " if where else "") + (repr(text) if text else "an empty page")
