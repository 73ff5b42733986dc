"""The orchestrator's side of a preflight: from the image that a host boots to the terminal that opens in it.

It reads what the server remembers, fetches its own image as a boot loader would, and tries the hold key at the held
host. The run is left as it stands.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.agent_service import AgentService
from orchestrator.clock import now_text, seconds_between
from orchestrator.hold_check import HoldHops
from orchestrator.images import NoImage
from orchestrator.liveness import API_UNREACHABLE, AUTH_FAILED, STALE, Liveness
from orchestrator.run_record import Run
from orchestrator.terminal_failures import FAILURES, MINT
from vetting_agent.preflight_report import HOP_LIMIT_S, OK, WARNING, Check, Failed, Report, Seen, Walk, none_here
from vetting_agent.printable import clock
from vetting_agent.redact import Redactor
from vetting_agent.signals import Hop, Signal

if TYPE_CHECKING:
    from orchestrator.images import ImageFolder

SIDE = "orchestrator"
HEAD_BYTES = 512
FILE_IN_TEMPLATE = re.compile(r"@BASE@/([A-Za-z0-9._-]+)")
SQUASHFS = ".squashfs"
EVENTS = 200
FAILED_SIGNALS = {
    AUTH_FAILED: Signal.AUTH_FAILED,
    API_UNREACHABLE: Signal.API_FAILING,
    STALE: Signal.HEARTBEAT_STALE,
}
HOPS: Sequence[Hop] = (
    Hop.SERVER,
    Hop.IMAGE,
    Hop.CLAIM,
    Hop.HEARTBEAT,
    Hop.RESULT,
    Hop.HOLD_PORT,
    Hop.HOLD_KEY,
    Hop.TERMINAL,
)


@dataclass(frozen=True, slots=True)
class OrchestratorPreflight:
    """One run, as this server sees it. `boot_url`, `image`: of the boot services, None where there are none."""

    service: AgentService
    url: str
    run_id: int
    correlation_id: str
    boot_url: str | None = None
    image: ImageFolder | None = None
    hop_s: float = HOP_LIMIT_S

    async def run(self) -> Report:
        """Look at every hop in turn. Never raises but for a cancel; takes a minute at the very most."""
        hold = HoldHops(self.service.store, lambda: self.found, self.hop_s)
        checks = [
            Check(Hop.SERVER, self._server, Signal.SERVER_DOWN),
            Check(Hop.IMAGE, self._image, Signal.IMAGE_NOT_SERVED, 3),
            Check(Hop.CLAIM, self._claim, Signal.NOT_CLAIMED),
            Check(Hop.HEARTBEAT, self._heartbeat, Signal.HEARTBEAT_STALE),
            Check(Hop.RESULT, self._result, Signal.RESULT_POST_FAILED),
            *hold.checks(),
            Check(Hop.TERMINAL, self._terminal, Signal.TERMINAL_MINT),
        ]
        return await Walk(SIDE, self.run_id, self.correlation_id, Redactor(), self.hop_s).over(checks)

    @property
    def found(self) -> Run:
        """The run as it stands now."""
        run = self.service.store.find_run(self.run_id)
        if run is None:
            raise Failed(Signal.RUN_NOT_FOUND, f"there is no run {self.run_id}")
        return run

    def _alive(self) -> Liveness:
        from orchestrator.web.fleet import alive_of

        return alive_of(self.service, self.found, time.monotonic())

    async def _server(self) -> Seen:
        port = self.service.iperf.port if self.service.iperf else None
        return Seen(f"serves {self.url}" + (f", iperf3 on port {port}" if port else ", without iperf3"))

    async def _image(self) -> Seen:
        if self.image is None or self.boot_url is None:
            return none_here("this server has no boot services")
        try:
            self.image.check()
            names = self.image.names()
            wanted = [*FILE_IN_TEMPLATE.findall(self.image.template()), *(one for one in names if SQUASHFS in one)]
        except (NoImage, OSError) as problem:
            raise Failed(Signal.IMAGE_NOT_SERVED, str(problem)) from None
        if missing := [one for one in wanted if one not in names]:
            raise Failed(Signal.IMAGE_NOT_SERVED, f"boot.ipxe loads {', '.join(missing)}, which is not there")
        await self._fetched(self.boot_url, list(dict.fromkeys(wanted)))
        return Seen(f"boot.ipxe, {', '.join(dict.fromkeys(wanted))} from {self.boot_url}")

    async def _fetched(self, base: str, names: Sequence[str]) -> None:
        """The heads of all, as a boot loader gets them. Raises Failed."""
        import ssl

        import httpx

        no_trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # it is plain HTTP
        async with httpx.AsyncClient(verify=no_trust, trust_env=False, timeout=self.hop_s) as client:
            for path in ("boot.ipxe", *(f"image/{name}" for name in names)):
                whole = path == "boot.ipxe"  # without an address: a script that asks, and changes nothing
                headers = {} if whole else {"Range": f"bytes=0-{HEAD_BYTES - 1}"}
                try:
                    answer = await client.get(f"{base}/{path}", headers=headers)
                except httpx.HTTPError as problem:
                    words = str(problem) or type(problem).__name__
                    raise Failed(Signal.IMAGE_NOT_SERVED, f"{base}/{path}: {words}") from None
                good = answer.content.startswith(b"#!ipxe") if whole else answer.content
                if answer.status_code not in {200, 206} or not good:
                    text = f"{base}/{path}: HTTP {answer.status_code}, {len(answer.content)} bytes"
                    raise Failed(Signal.IMAGE_NOT_SERVED, text)

    async def _claim(self) -> Seen:
        run, pulse = self.found, self.service.pulse
        if run.is_over:
            raise Failed(Signal.RUN_NOT_ACTIVE, f"run {run.run_id} is {run.state} since {run.finished_at}")
        if run.instance_id is not None:
            return Seen(f"by {run.mac} at {run.ip}, agent {run.agent_version} ({run.instance_id})")
        if (refused := pulse.auth_failures.get(run.run_id)) is not None:
            text = f"a host was refused at {refused.ts}: {refused.code}: {refused.message}"
            raise Failed(Signal.AUTH_FAILED, f"{text} ({refused.correlation_id or 'no correlation id'})")
        if (greeting := pulse.greetings.get(run.run_id)) is not None:
            text = f"{greeting.who} said hello at {greeting.ts} and did not claim ({greeting.correlation_id})"
            raise Failed(Signal.NOT_CLAIMED, text)
        raise Failed(Signal.NOT_CLAIMED, "no host has called for this run since the server was started")

    async def _heartbeat(self) -> Seen:
        run, alive = self.found, self._alive()
        if run.powered_off:
            return none_here("the host was powered off on order")
        status = self.service.store.status(run.run_id)
        age = f"{clock(seconds_between(status.last_seen_at, now_text()))} ago" if status else "never"
        if (signal := FAILED_SIGNALS.get(alive.state)) is not None:
            raise Failed(signal, f"last heartbeat {age}; {alive.reason} ({alive.correlation_id})")
        if self.service.is_silent(run):
            raise Failed(Signal.HEARTBEAT_STALE, f"last heartbeat {age}; {alive.reason} ({alive.correlation_id})")
        return Seen(f"last one {age}, {status.activity}" if status else alive.reason, OK if status else WARNING)

    async def _result(self) -> Seen:
        run = self.found
        failure = self.service.pulse.result_failures.get(run.run_id)
        if failure is not None:
            text = f"{failure.verb} at {failure.ts}: {failure.code}: {failure.message} ({failure.correlation_id})"
            raise Failed(Signal.RESULT_POST_FAILED, text)
        status, last = self.service.store.status(run.run_id), await self.service.store.last_log(run.run_id)
        waits = status is not None and status.activity == "between" and run.in_flight is not None
        if waits and last is not None and last.text.startswith(Signal.RESULT_POST_FAILED):
            raise Failed(Signal.RESULT_POST_FAILED, f"{run.in_flight}, by the host's log at {last.ts}: {last.text}")
        done = [(one.finished_at, name) for name in run.stages if (one := run.record_of(name)).finished_at is not None]
        if not done:
            return none_here("no stage has ended yet")
        at, stage = max(done, key=lambda one: one[0] or "")
        return Seen(f"the last was that of {stage} at {at}")

    async def _terminal(self) -> Seen:
        run, terminals = self.found, self.service.terminals
        if not run.is_holding or terminals is None:
            return none_here(f"a terminal opens in a hold only; the run is {run.state}")
        if (reason := terminals.why_not(run.run_id)) is not None:
            raise Failed(Signal.TERMINAL_MINT, reason)
        events = await self.service.store.events(run.run_id, EVENTS)
        texts = [one.text for one in events if one.kind == "terminal" and one.text.startswith("terminal of ")]
        past = FAILURES.keys() - {MINT}  # whether a token is given out now has just been looked at
        failed = next((code for code in past if texts and f" failed: {code}: " in texts[-1]), None)
        if failed is not None:
            raise Failed(
                Signal(failed), f"the last one: {texts[-1]}", "Open one again to see whether this still holds."
            )
        return Seen("one can be opened" + ("; the last one worked" if texts else ""))
