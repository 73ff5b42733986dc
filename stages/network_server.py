"""The iperf3 server that the orchestrator lends: waiting for it, and finding out whether it is of any use here."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

from probes import routes
from probes.routes import Address, Routing
from probes.tools import ToolError
from stages.network_readings import ServerMissing
from stages.outcome import ReasonCode
from stages.runner import tool_finding
from stages.stage import IperfPeer, StageContext

QUEUE_TICK_S = 5.0


@dataclass(frozen=True, slots=True)
class Server:
    """An iperf3 server on another host, and the routes by which it may be reached."""

    address: Address
    ports: tuple[int, ...]
    """One for each iperf3 process that may test against it at the same time."""
    routing: Routing


class NoServer(Exception):
    """Throughput cannot be tested at all; `reading` says why."""

    def __init__(self, reading: ServerMissing) -> None:
        super().__init__(reading.message)
        self.reading = reading


@contextlib.asynccontextmanager
async def leased(context: StageContext, *, tick_s: float = QUEUE_TICK_S) -> AsyncIterator[IperfPeer | None]:
    """The server for this host alone. Waiting for it costs nothing of the stage's time limit."""
    waiting = asyncio.create_task(_extend_plan(context, tick_s))
    try:
        async with context.iperf.lease() as peer:
            await end(waiting)
            yield peer
    finally:
        await end(waiting)


async def _extend_plan(context: StageContext, tick_s: float) -> None:
    while True:
        await asyncio.sleep(tick_s)
        context.plan.set(context.plan.planned_s + tick_s)


async def end(task: asyncio.Task[None]) -> None:
    """Cancel a task of ours and wait for it."""
    task.cancel()
    await asyncio.wait([task])  # unlike awaiting the task itself, this never swallows a cancel of ours


async def find(context: StageContext, peer: IperfPeer | None) -> Server:
    """The server to test against. Raises NoServer."""
    name = peer.host if peer is not None else context.facts.orchestrator_host
    if name is None:
        raise NoServer(_not_tested("there is no orchestrator to send traffic to"))
    try:
        routing = await routes.read_routing(context.host)
        address = await _resolve(name)
    except ToolError as problem:
        finding = tool_finding(problem, "network")
        raise NoServer(ServerMissing(finding.reason_code, finding.message, finding.evidence, ours=True)) from problem
    except routes.UnreadableRoutes as problem:
        text = f"The routes of this host cannot be read: {problem}"
        raise NoServer(ServerMissing(ReasonCode.OUTPUT_UNREADABLE, text, ours=True)) from problem
    except OSError as problem:
        raise NoServer(_away(f"{name}: {problem.strerror or problem}")) from problem
    if routing.is_own(address):
        raise NoServer(_not_tested("the orchestrator is on this very host", own_host=True))
    if peer is None:
        raise NoServer(_away("the orchestrator has no iperf3 server"))
    return Server(address, (peer.port, *peer.more_ports), routing)


def _away(why: str) -> ServerMissing:
    return ServerMissing(ReasonCode.IPERF_UNREACHABLE, f"Throughput not tested: {why}")


def _not_tested(why: str, *, own_host: bool = False) -> ServerMissing:
    return ServerMissing(ReasonCode.NET_THROUGHPUT_NOT_TESTED, f"Throughput not tested: {why}", own_host=own_host)


async def _resolve(name: str) -> Address:
    """The first address of a host name. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(name.strip("[]"), None, type=socket.SOCK_STREAM)
    return ipaddress.ip_address(str(found[0][4][0]).partition("%")[0])
