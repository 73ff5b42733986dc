"""The simulated agents: each claims a run of its own and then calls as a real one does while it walks a stage."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
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
FLAT_OUT = ("heartbeat", "log")
_encoded = msgspec.json.Encoder().encode


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What each agent does. `flat_out`: this verb, one call after the other, and nothing else."""

    flat_out: str | None = None
    log_lines: int = 4
    """In each batch of the log; 0: none are sent."""
    pace: float = 1.0
    """2.0: twice as often as the claim says."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What one process simulates. `first`: the number of its first agent among all of them."""

    url: str
    fingerprint: str
    runs: list[RunCreated]
    load: Load
    seconds: float
    first: int = 0


class SimulatedAgent:
    """One of them."""

    def __init__(self, run: RunCreated, number: int, line: Line, figures: Figures) -> None:
        self.run = run
        self.line = line
        self.figures = figures
        self.claim: Claim | None = None
        mac = f"{FIRST_MAC + number:012x}"
        self._mac = ":".join(mac[at : at + 2] for at in range(0, 12, 2))
        self._instance = str(uuid.uuid4())
        self._headers = (
            f"Authorization: Bearer {run.token}\r\nX-Correlation-ID: {self._instance}\r\n"
            "Content-Type: application/json\r\n"
        ).encode()
        self._seq = 0
        self._began = time.monotonic()

    async def start(self) -> None:
        """Claim the run. Raises CallFailed when that is refused."""
        body = {
            "ip": "127.0.0.1",
            "mac": self._mac,
            "instance_id": self._instance,
            "agent_version": __version__,
            "kernel_boot_id": str(uuid.uuid4()),
        }
        answer = await self._call("claim", body)
        if answer is None:
            raise CallFailed(f"run {self.run.run_id} cannot be claimed: {self.figures.failed}")
        self.claim = msgspec.json.decode(answer, type=Claim)

    async def live(self, load: Load) -> None:
        """Call until cancelled."""
        assert self.claim is not None, "start() comes first"
        if load.flat_out is not None:
            while True:
                await (self._heartbeat() if load.flat_out == "heartbeat" else self._log(load.log_lines))
        lock = asyncio.Lock()  # one connection, one call at a time
        tasks: list[tuple[float | None, Callable[[], Awaitable[None]]]] = [
            (self.claim.heartbeat_interval_s, self._heartbeat),
            (self.claim.sensor_interval_s, self._sensor),
            (self.claim.log_interval_s if load.log_lines else None, lambda: self._log(load.log_lines)),
        ]
        async with asyncio.TaskGroup() as group:
            for interval, call in tasks:
                if interval:
                    group.create_task(_every(interval / load.pace, call, lock))

    async def _heartbeat(self) -> None:
        elapsed = round(time.monotonic() - self._began, 3)
        request = HeartbeatRequest(activity="running", stage="Inventory", elapsed_s=elapsed, progress=0.5, eta_s=1.0)
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
        path = f"{API_PREFIX}/{self.run.run_id}/{verb}"
        content = _encoded(body)
        began = time.perf_counter()
        try:
            status, answer = await self.line.call(path, self._headers, content)
        except CallFailed as problem:
            self.figures.note(verb, time.perf_counter() - began, str(problem))
            return None
        self.figures.note(verb, time.perf_counter() - began, None if status == 200 else str(status))
        return answer if status == 200 else None


async def _every(interval: float, call: Callable[[], Awaitable[None]], lock: asyncio.Lock) -> None:
    """At its own point of each interval, so that thousands of agents do not call at once."""
    due = time.monotonic() + interval * random.random()  # noqa: S311
    while True:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        async with lock:
            await call()
        due = max(due + interval, time.monotonic())


async def simulate(plan: Plan, all_claimed: Callable[[], Awaitable[None]] | None = None) -> Figures:
    """Claim every run, wait for the others, then let all live; the figures of that time. Raises CallFailed."""
    parts = urlsplit(plan.url)
    assert parts.hostname is not None
    host, port = parts.hostname, parts.port or 443
    leaf = await pinning.fetch_leaf(host, port)
    pinning.check(leaf, [plan.fingerprint])
    figures = Figures()
    context = pinning.pinned_context(leaf, (plan.fingerprint,))
    agents = [
        SimulatedAgent(run, number, Line(host, port, context), figures)
        for number, run in enumerate(plan.runs, plan.first)
    ]
    try:
        await _claim_all(agents)
        if all_claimed is not None:
            await all_claimed()
        await _let_live(agents, plan, figures)
    finally:
        for agent in agents:
            agent.line.close()
    return figures


async def _claim_all(agents: Sequence[SimulatedAgent]) -> None:
    gate = asyncio.Semaphore(CLAIMS_AT_ONCE)

    async def claim(agent: SimulatedAgent) -> None:
        async with gate:
            await agent.start()

    await asyncio.gather(*map(claim, agents))


async def _let_live(agents: Sequence[SimulatedAgent], plan: Plan, figures: Figures) -> None:
    figures.clear()
    began, cpu = time.monotonic(), time.process_time()
    tasks = [asyncio.create_task(agent.live(plan.load)) for agent in agents]
    await asyncio.sleep(plan.seconds)
    figures.seconds, figures.cpu_s = time.monotonic() - began, time.process_time() - cpu
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
