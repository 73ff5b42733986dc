"""The simulated agents: each claims a run of its own and then calls as a real one does while it walks a stage."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import msgspec

from orchestrator.clock import now_text
from orchestrator.operator_messages import RunCreated
from orchestrator.simulation.figures import Figures
from orchestrator.simulation.line import CallFailed, Line
from vetting_agent import __version__, pinning
from vetting_agent.wire import API_PREFIX, Claim, HeartbeatRequest, LogLine, LogRequest, Sample, SensorRequest

SENSORS = 16
FIRST_MAC = 0x02_00_00_00_00_00
"""Locally administered: no real card has it."""
CLAIMS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Load:
    """What each agent does. `flat_out`: heartbeats one after the other, and nothing else."""

    flat_out: bool = False
    log_lines: int = 4
    """In each batch of the log; 0: none are sent."""
    pace: float = 1.0
    """2.0: twice as often as the claim says."""


@dataclass(slots=True)
class SimulatedAgent:
    """One of them."""

    run: RunCreated
    number: int
    line: Line
    figures: Figures
    instance: str = field(default_factory=lambda: str(uuid.uuid4()))
    claim: Claim | None = None
    _seq: int = 0

    async def start(self) -> None:
        """Claim the run. Raises CallFailed when that is refused."""
        mac = f"{FIRST_MAC + self.number:012x}"
        body = {
            "ip": "127.0.0.1",
            "mac": ":".join(mac[at : at + 2] for at in range(0, 12, 2)),
            "instance_id": self.instance,
            "agent_version": __version__,
            "kernel_boot_id": str(uuid.uuid4()),
        }
        answer = await self._call("claim", body)
        if answer is None:
            raise CallFailed(f"run {self.run.run_id} cannot be claimed: {dict(self.figures.failed)}")
        self.claim = msgspec.json.decode(answer, type=Claim)

    async def live(self, load: Load) -> None:
        """Call until cancelled."""
        assert self.claim is not None, "start() comes first"
        if load.flat_out:
            while True:
                await self._heartbeat()
        async with asyncio.TaskGroup() as group:
            lock = asyncio.Lock()  # one connection, one call at a time
            tasks = [
                (self.claim.heartbeat_interval_s, self._heartbeat),
                (self.claim.sensor_interval_s, self._sensor),
                (self.claim.log_interval_s if load.log_lines else None, lambda: self._log(load.log_lines)),
            ]
            for interval, call in tasks:
                if interval:
                    group.create_task(_every(interval / load.pace, call, lock))

    async def _heartbeat(self) -> None:
        request = HeartbeatRequest(activity="stage", stage="Inventory", elapsed_s=1.0, progress=0.5, eta_s=1.0)
        await self._call("heartbeat", request)

    async def _sensor(self) -> None:
        now = now_text()
        samples = [
            Sample(kind="temp", key=f"core{number}", value=40 + 20 * random.random(), unit="°C", ts=now)  # noqa: S311
            for number in range(SENSORS)
        ]
        await self._call("sensor", SensorRequest(samples=samples))

    async def _log(self, count: int) -> None:
        now = now_text()
        first, self._seq = self._seq + 1, self._seq + count
        lines = [
            LogLine(ts=now, level="info", stage="Inventory", text=f"line {seq} of a simulated agent", seq=seq)
            for seq in range(first, first + count)
        ]
        if await self._call("log", LogRequest(lines=lines)) is not None:
            self.figures.log_lines += count

    async def _call(self, verb: str, body: object) -> bytes | None:
        """The answer, or None when there was none or a bad one; noted either way."""
        headers = (
            f"Authorization: Bearer {self.run.token}\r\nX-Correlation-ID: {self.instance}\r\n"
            "Content-Type: application/json\r\n"
        ).encode()
        began = time.perf_counter()
        try:
            path = f"{API_PREFIX}/{self.run.run_id}/{verb}"
            status, answer = await self.line.call(path, headers, msgspec.json.encode(body))
        except CallFailed as problem:
            self.figures.note(verb, time.perf_counter() - began, str(problem))
            return None
        self.figures.note(verb, time.perf_counter() - began, None if status == 200 else str(status))
        return answer if status == 200 else None


async def _every(interval: float, call: object, lock: asyncio.Lock) -> None:
    """At its own point of each interval, so that thousands of agents do not call at once."""
    assert callable(call)
    due = time.monotonic() + interval * random.random()  # noqa: S311
    while True:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        async with lock:
            await call()
        due = max(due + interval, time.monotonic())


async def simulate(
    url: str, fingerprint: str, runs: Sequence[RunCreated], load: Load, seconds: float
) -> tuple[Figures, float]:
    """Claim every run, then let all live; the figures of that time, and how long it was. Raises CallFailed."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    host, port = parts.hostname, parts.port or 443
    leaf = await pinning.fetch_leaf(host, port)
    pinning.check(leaf, [fingerprint])
    figures = Figures()
    context = pinning.pinned_context(leaf, (fingerprint,))
    agents = [SimulatedAgent(run, number, Line(host, port, context), figures) for number, run in enumerate(runs)]
    try:
        await _claim_all(agents)
        figures.clear()
        began = time.monotonic()
        tasks = [asyncio.create_task(agent.live(load)) for agent in agents]
        await asyncio.sleep(seconds)
        took = time.monotonic() - began
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        for agent in agents:
            agent.line.close()
    return figures, took


async def _claim_all(agents: Sequence[SimulatedAgent]) -> None:
    gate = asyncio.Semaphore(CLAIMS_AT_ONCE)

    async def claim(agent: SimulatedAgent) -> None:
        async with gate:
            await agent.start()

    await asyncio.gather(*map(claim, agents))
