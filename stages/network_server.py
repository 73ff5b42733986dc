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
from stages.outcome import Finding, ReasonCode, Severity
from stages.runner import tool_finding
from stages.stage import IperfPeer, StageContext

QUEUE_TICK_S = 5.0


@dataclass(frozen=True, slots=True)
class Server:
    """An iperf3 server on another host, and the routes by which it may be reached."""

    address: Address
    port: int
    routing: Routing


class NoServer(Exception):
    """Throughput cannot be tested at all. `finding` says why; its component is "network"."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding = finding


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


async def find(context: StageContext, peer: IperfPeer | None, required: bool | None) -> Server:
    """The server to test against. Raises NoServer.

    `required` None: the throughput is required unless the server is on this very host, where it can't be tested.
    """
    name = peer.host if peer is not None else context.facts.orchestrator_host
    if name is None:
        raise NoServer(_not_tested("there is no orchestrator to send traffic to", required))
    try:
        routing = await routes.read_routing(context.host)
        address = await _resolve(name)
    except ToolError as problem:
        raise NoServer(tool_finding(problem, "network")) from problem
    except routes.UnreadableRoutes as problem:
        text = f"The routes of this host cannot be read: {problem}"
        raise NoServer(Finding(ReasonCode.OUTPUT_UNREADABLE, Severity.ERROR, "network", text)) from problem
    except OSError as problem:
        raise NoServer(unreachable("network", f"{name}: {problem.strerror or problem}", required)) from problem
    if routing.is_own(address):
        raise NoServer(_not_tested("the orchestrator is on this very host", required or False))
    if peer is None:
        raise NoServer(unreachable("network", "the orchestrator has no iperf3 server", required))
    return Server(address, peer.port, routing)


def unreachable(component: str, why: str, required: bool | None) -> Finding:
    """The finding for a server that is away."""
    severity = Severity.WARNING if required is False else Severity.ERROR
    return Finding(ReasonCode.IPERF_UNREACHABLE, severity, component, f"Throughput not tested: {why}")


def _not_tested(why: str, required: bool | None) -> Finding:
    severity = Severity.WARNING if required is False else Severity.ERROR
    return Finding(ReasonCode.NET_THROUGHPUT_NOT_TESTED, severity, "network", f"Throughput not tested: {why}")


async def _resolve(name: str) -> Address:
    """The first address of a host name. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(name.strip("[]"), None, type=socket.SOCK_STREAM)
    return ipaddress.ip_address(str(found[0][4][0]).partition("%")[0])
