"""Sends traffic both ways over one port, then both at once, watching its counters."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace

from probes import links
from probes.links import LinkCounters, Port
from probes.tools import ToolError
from stages import iperf, network_server
from stages.iperf import Request
from stages.network_readings import FlowReading, PortReading
from stages.outcome import Finding, ReasonCode, error
from stages.runner import tool_finding
from stages.stage import StageContext

SAMPLE_S = 1.0
WAYS = ("send", "receive")


@dataclass(frozen=True, slots=True)
class Drive:
    """How one port is to be driven."""

    server: str
    ports: tuple[int, ...]
    """One for each process."""
    device: str
    """What iperf3 is bound to: the port itself, or the bond, bridge or VLAN on it."""
    source: str
    streams: int
    """Of each process."""
    seconds: int
    warm_up_s: int
    retry_s: float
    both_at_once: bool

    def requests(self, way: str) -> list[Request]:
        """One for each process; `way` is send, receive or both."""
        return [
            Request(
                host=self.server,
                port=port,
                seconds=self.seconds,
                omit=self.warm_up_s,
                streams=self.streams,
                reverse=way == "receive",
                both=way == "both",
                address=self.source,
                device=self.device,
            )
            for port in self.ports
        ]


async def drive(context: StageContext, reading: PortReading, how: Drive) -> PortReading:
    """`reading` with what was measured. A way that cannot be measured ends it: the other would fail the same way."""
    port = reading.port
    started = time.monotonic()
    reading = replace(reading, before=links.read_counters(context.host, port.name))
    for way in (*WAYS, "both") if how.both_at_once else WAYS:
        context.info(f"{port.name}: iperf3 {way}, {len(how.ports)} × {how.streams} stream(s), {how.seconds} s")
        try:
            flows = await _measure(context, port, way, how)
        except (iperf.IperfUnavailable, iperf.IperfNotInstalled, iperf.IperfUnreadable, ToolError) as problem:
            reading = _failed(reading, way, problem, how)
            break
        for name, flow in flows.items():
            context.info(f"{port.name}: {flow.flow.mbps:.0f} Mb/s {name}{' at once' if way == 'both' else ''}")
        if way == "both":
            reading = replace(reading, at_once=flows)
        else:
            reading = replace(reading, flows={**reading.flows, **flows})
    after = links.read_counters(context.host, port.name)
    return replace(reading, after=after, watched_s=time.monotonic() - started)


def _failed(reading: PortReading, way: str, problem: Exception, how: Drive) -> PortReading:
    where = f"iperf3 server {how.server} port {', '.join(str(port) for port in how.ports)}"
    if way == "both" and isinstance(problem, iperf.IperfUnavailable):
        # Each way alone was measured; servers before 3.7 cannot do both.
        return replace(reading, at_once_problem=f"{where}: {problem}")
    if isinstance(problem, iperf.IperfUnavailable):
        return replace(reading, unreachable=f"{where}: {problem}")
    finding = _stalled(reading.port, way, how) if isinstance(problem, iperf.IperfStalled) else None
    finding = finding or _finding(reading.port.component, problem)
    return replace(reading, problems=(*reading.problems, finding))


def _stalled(port: Port, way: str, how: Drive) -> Finding:
    """Worse than any rate, and no matter what the port is: the server answered over it before and after the test."""
    text = f"Not one byte went over {port.name} in {how.seconds} s ({way}), though the iperf3 server answered"
    return error(ReasonCode.NET_THROUGHPUT_LOW, port.component, text)


def _finding(component: str, problem: Exception) -> Finding:
    if isinstance(problem, ToolError):
        return tool_finding(problem, component)
    if isinstance(problem, iperf.IperfNotInstalled):
        return error(ReasonCode.TOOL_MISSING, component, f"libiperf is not installed: {problem}")
    return error(ReasonCode.OUTPUT_UNREADABLE, component, str(problem))


async def _measure(context: StageContext, port: Port, way: str, how: Drive) -> dict[str, FlowReading]:
    before = links.read_counters(context.host, port.name)
    sampling = asyncio.create_task(_sample(context, port, WAYS if way == "both" else (way,)))
    try:
        flows = await iperf.measure_all(context.host, how.requests(way), retry_s=how.retry_s)
    finally:
        await network_server.end(sampling)
    after = links.read_counters(context.host, port.name)
    return {
        name: FlowReading(flow, how.streams, _moved(before, after, name), len(how.ports))
        for name, flow in flows.items()
    }


def _moved(before: LinkCounters | None, after: LinkCounters | None, way: str) -> int | None:
    if before is None or after is None:
        return None
    inwards = way == "receive"
    return after.moved(inwards) - before.moved(inwards)


async def _sample(context: StageContext, port: Port, ways: tuple[str, ...]) -> None:
    """Live throughput by the port's own counters, once a second."""
    last, then = links.read_counters(context.host, port.name), time.monotonic()
    while True:
        await asyncio.sleep(SAMPLE_S)
        now, moment = links.read_counters(context.host, port.name), time.monotonic()
        for way in ways:
            if (moved := _moved(last, now, way)) is not None:
                mbps = moved * 8 / 1e6 / (moment - then)
                context.sample("throughput", f"{port.component}/{way}", round(mbps, 1), "Mb/s")
        last, then = now, moment
