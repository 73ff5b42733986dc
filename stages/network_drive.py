"""Sends traffic both ways over one port, watching its counters."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace

from probes import links
from probes.links import Port
from probes.routes import Address
from probes.tools import ToolError
from stages import iperf, network_server
from stages.network_judge import FlowReading, PortReading
from stages.network_server import Server
from stages.outcome import Finding, ReasonCode, error
from stages.runner import tool_finding
from stages.stage import StageContext

SAMPLE_S = 1.0


@dataclass(frozen=True, slots=True)
class Drive:
    """How one port is to be driven."""

    server: Server
    device: str
    """What iperf3 is bound to: the port itself, or the bond, bridge or VLAN on it."""
    source: Address
    streams: int
    seconds: int
    warm_up_s: int
    retry_s: float
    required: bool | None
    """Whether an unreachable server is an error (True, None) or a warning."""


async def drive(context: StageContext, reading: PortReading, how: Drive) -> PortReading:
    """`reading` with what was measured. A way that cannot be measured ends it: the other would fail the same way."""
    port = reading.port
    started = time.monotonic()
    reading = replace(reading, before=links.read_counters(context.host, port.name))
    for reverse in (False, True):
        request = iperf.Request(
            host=str(how.server.address),
            port=how.server.port,
            seconds=how.seconds,
            omit=how.warm_up_s,
            streams=how.streams,
            reverse=reverse,
            address=str(how.source),
            device=how.device,
        )
        context.info(f"{port.name}: iperf3 {request.direction}, {how.streams} stream(s), {how.seconds} s")
        flow = await _measure(context, port, request, how)
        if isinstance(flow, Finding):
            reading = replace(reading, problems=(*reading.problems, flow))
            break
        context.info(f"{port.name}: {flow.flow.mbps:.0f} Mb/s {request.direction}")
        reading = replace(reading, flows={**reading.flows, request.direction: flow})
    after = links.read_counters(context.host, port.name)
    return replace(reading, after=after, watched_s=time.monotonic() - started)


async def _measure(context: StageContext, port: Port, request: iperf.Request, how: Drive) -> FlowReading | Finding:
    before = links.read_counters(context.host, port.name)
    sampling = asyncio.create_task(_sample(context, port, request))
    try:
        flow = await iperf.measure(context.host, request, retry_s=how.retry_s)
    except iperf.IperfUnavailable as problem:
        why = f"iperf3 server {request.host} port {request.port}: {problem}"
        return network_server.unreachable(port.component, why, how.required)
    except iperf.IperfNotInstalled as problem:
        return error(ReasonCode.TOOL_MISSING, port.component, f"libiperf is not installed: {problem}")
    except iperf.IperfUnreadable as problem:
        return error(ReasonCode.OUTPUT_UNREADABLE, port.component, str(problem))
    except ToolError as problem:
        return tool_finding(problem, port.component)
    finally:
        await network_server.end(sampling)
    after = links.read_counters(context.host, port.name)
    counted = None if before is None or after is None else after.moved(request.reverse) - before.moved(request.reverse)
    return FlowReading(flow, request.streams, counted)


async def _sample(context: StageContext, port: Port, request: iperf.Request) -> None:
    """Live throughput by the port's own counters, once a second."""
    last, then = links.read_counters(context.host, port.name), time.monotonic()
    while True:
        await asyncio.sleep(SAMPLE_S)
        now, moment = links.read_counters(context.host, port.name), time.monotonic()
        if last is not None and now is not None:
            mbps = (now.moved(request.reverse) - last.moved(request.reverse)) * 8 / 1e6 / (moment - then)
            context.sample("throughput", f"{port.component}/{request.direction}", round(mbps, 1), "Mb/s")
        last, then = now, moment
