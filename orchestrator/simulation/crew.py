"""A simulation in several processes: one interpreter alone would be slower than the server it measures."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import sys
from dataclasses import dataclass

import msgspec
import psutil

from orchestrator.simulation.agents import Plan
from orchestrator.simulation.figures import Figures, together
from orchestrator.simulation.line import CallFailed
from probes.host import REAL_PROC
from probes.tool_process import Process
from probes.tools import Tools

CREDENTIALS = 12
WATCH_S = 0.5


class ServerCost(msgspec.Struct, frozen=True, kw_only=True):
    """What the server's process took meanwhile."""

    cpu_s: float
    rss_mib: float
    """The most that was seen."""


@dataclass(slots=True)
class ServerWatch:
    """Looks at the server's process, whose id its socket tells."""

    process: psutil.Process
    rss: int = 0
    cpu_began: float = 0.0
    cpu_s: float = 0.0

    @classmethod
    def of(cls, operator_socket: str) -> ServerWatch:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.connect(operator_socket)
            credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS)
        return cls(psutil.Process(int.from_bytes(credentials[:4], sys.byteorder)))

    def _cpu(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)

    async def watch(self) -> None:
        """Until cancelled."""
        self.cpu_began = self._cpu()
        while True:
            self.rss = max(self.rss, self.process.memory_info().rss)
            await asyncio.sleep(WATCH_S)

    def cost(self) -> ServerCost:
        """What it took since `watch` began."""
        return ServerCost(cpu_s=round(self._cpu() - self.cpu_began, 2), rss_mib=round(self.rss / 2**20, 1))


def shares(plan: Plan, processes: int) -> list[Plan]:
    """The plan in as many parts, of about the same number of runs."""
    count = max(1, min(processes, len(plan.runs)))
    cuts = [number * len(plan.runs) // count for number in range(count + 1)]
    return [
        msgspec.structs.replace(plan, runs=plan.runs[begin:end], first=plan.first + begin)
        for begin, end in itertools.pairwise(cuts)
    ]


async def run_crew(plan: Plan, processes: int, server: ServerWatch) -> tuple[Figures, ServerCost]:
    """Let the plan be lived by so many processes. Raises CallFailed."""
    tools = Tools.of_environment(REAL_PROC)
    async with contextlib.AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(
                tools.start(sys.executable, "-m", "orchestrator.simulation.worker", stdin=True)
            )
            for _ in range(max(1, min(processes, len(plan.runs))))
        ]
        for worker, share in zip(workers, shares(plan, processes), strict=True):
            await _tell(worker, msgspec.json.encode(share) + b"\n")
        for worker in workers:
            await _line(worker)
        watching = asyncio.create_task(server.watch())
        for worker in workers:
            await _tell(worker, b"\n")
        lines = await asyncio.gather(*map(_line, workers))
        watching.cancel()
        return together(msgspec.json.decode(line, type=Figures) for line in lines), server.cost()


async def _tell(worker: Process, line: bytes) -> None:
    assert worker.stdin is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        worker.stdin.write(line)
        await worker.stdin.drain()


async def _line(worker: Process) -> bytes:
    line = await worker.stdout.readline()
    if not line:
        raise CallFailed((await worker.stderr.read()).decode(errors="replace").strip()[-500:] or "a process ended")
    return line
