"""Network: the links as they are, and iperf3 traffic both ways over each port that reaches the orchestrator."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from probes import links
from probes.links import Port
from probes.routes import Address
from probes.tools import ToolError
from stages import network_server
from stages.network_drive import Drive, drive
from stages.network_judge import Limits, PortReading, judge_absent, judge_port
from stages.network_server import NoServer, Server
from stages.outcome import Finding, Outcome, ReasonCode, Severity, error
from stages.runner import tool_finding
from stages.stage import IperfPeer, Stage, StageContext

MBPS_PER_STREAM = 10_000
STREAMS_MAX = 16
FLOW_EXTRA_S = 2.0
NOT_TESTED = "Throughput not tested: "


@dataclass(frozen=True, slots=True)
class Options:
    """Times in seconds, shares as parts of 1."""

    duration_s: float = field(default=10.0, metadata={"minimum": 1, "maximum": 86400})
    """For each port and direction."""
    warm_up_s: float = field(default=1.0, metadata={"minimum": 0, "maximum": 60})
    """At the start of each test, and not counted: TCP is still finding its speed."""
    throughput_required: bool | None = None
    """True: untested throughput is an error. None: unless the iperf3 server is on this very host."""
    throughput_share: float = field(default=0.8, metadata={"minimum": 0, "maximum": 1})
    """The part of the link's speed that must be reached."""
    path_mbps: float | None = None
    """The speed of the slowest part of the way to the server, if it is slower than the links here."""
    expected_nics: tuple[str, ...] = ()
    """MAC addresses of ports that must be here and have a link."""
    errors_per_minute: float = 3.0
    retransmit_warning: float = 0.001
    retransmit_failure: float = 0.01
    retry_s: float = field(default=60.0, metadata={"minimum": 0})
    """How long a server that is away or busy is tried."""

    def limits(self) -> Limits:
        """What counts as sound."""
        return Limits(
            throughput_share=self.throughput_share,
            path_mbps=self.path_mbps,
            errors_per_minute=self.errors_per_minute,
            retransmit_warning=self.retransmit_warning,
            retransmit_failure=self.retransmit_failure,
        )


@dataclass(frozen=True, slots=True)
class Target:
    """A port that will be driven from this device and address."""

    port: Port
    device: str
    address: Address


def plan(ports: Sequence[Port], server: Server | NoServer, required: bool | None) -> list[Target | Finding]:
    """For each port how it is driven, or the finding that says why it is not. Pure."""
    targets: list[Target | Finding] = []
    used: set[str] = set()
    for port in ports:
        target = _target(port, server, used)
        if isinstance(target, Target):
            used.add(target.device)
        targets.append(target)
    if used or (isinstance(server, NoServer) and any(port.carrier for port in ports)):
        return targets
    # With no port driven at all, "no route" is no detail of one port any more.
    severity = Severity.WARNING if required is False else Severity.ERROR
    return [replace(target, severity=severity) if isinstance(target, Finding) else target for target in targets]


def _target(port: Port, server: Server | NoServer, used: set[str]) -> Target | Finding:
    if not port.carrier:
        return _untested(port, f"{port.name} has no link")
    if isinstance(server, NoServer):
        return replace(server.finding, component=port.component)
    source = server.routing.source((port.name, *port.uppers), server.address)
    if source is None:
        return _untested(port, f"there is no route over {port.name} to the iperf3 server")
    if source[0] in used:
        why = f"{port.name} is one of several ports under {source[0]}, which was driven as a whole"
        return replace(_untested(port, why), severity=Severity.WARNING)
    return Target(port, *source)


def _untested(port: Port, why: str) -> Finding:
    return Finding(ReasonCode.NET_THROUGHPUT_NOT_TESTED, Severity.INFO, port.component, NOT_TESTED + why)


def streams_for(speed_mbps: int | None) -> int:
    """One for each 10 Gb/s of the link."""
    return min(STREAMS_MAX, max(1, math.ceil((speed_mbps or 0) / MBPS_PER_STREAM)))


def planned_s(options: Options) -> float:
    """For one port; corrected when the ports are known."""
    return 2 * (options.duration_s + options.warm_up_s + FLOW_EXTRA_S)


async def run(context: StageContext, options: Options) -> Outcome:
    """Read the links, drive each port that reaches the server, read the counters again, judge."""
    ports = await links.ports(context.host)
    expected = tuple(mac.lower() for mac in options.expected_nics)
    absent = judge_absent(expected, context.facts.boot_mac, ports)
    if not ports:
        text = "No network port was found"
        return Outcome(text, (*absent, error(ReasonCode.NOTHING_TO_TEST, "network", text)))
    needed = {*expected, context.facts.boot_mac}
    readings = [await _read_port(context, port, needed=bool(port.macs & needed)) for port in ports]
    started = time.monotonic()
    async with network_server.leased(context) as peer:
        server = await _server(context, peer, options)
        readings = await _drive_all(context, options, server, readings)
    watched_s = time.monotonic() - started
    return judge([_read_again(context, reading, watched_s) for reading in readings], absent, options)


async def _server(context: StageContext, peer: IperfPeer | None, options: Options) -> Server | NoServer:
    try:
        return await network_server.find(context, peer, options.throughput_required)
    except NoServer as problem:
        return problem


async def _read_port(context: StageContext, port: Port, *, needed: bool) -> PortReading:
    reading = PortReading(port=port, needed=needed, before=links.read_counters(context.host, port.name))
    if port.virtual or not port.carrier:
        return reading
    try:
        return replace(reading, offer=await links.read_offer(context.host, port.name))
    except ToolError as problem:
        return replace(reading, problems=(tool_finding(problem, port.component),))
    except links.UnreadableOffer as problem:
        return replace(reading, problems=(error(ReasonCode.OUTPUT_UNREADABLE, port.component, str(problem)),))


def _read_again(context: StageContext, reading: PortReading, watched_s: float) -> PortReading:
    """The counters after the stage, of a port that was not driven."""
    if reading.watched_s > 0:
        return reading
    return replace(reading, after=links.read_counters(context.host, reading.port.name), watched_s=watched_s)


async def _drive_all(
    context: StageContext, options: Options, server: Server | NoServer, readings: list[PortReading]
) -> list[PortReading]:
    """Drive the ports one after the other, so that each has the path for itself."""
    targets = plan([reading.port for reading in readings], server, options.throughput_required)
    left = sum(isinstance(target, Target) for target in targets)
    context.plan.set(max(context.plan.planned_s, left * planned_s(options)))
    done: list[PortReading] = []
    for number, (target, reading) in enumerate(zip(targets, readings, strict=True)):
        context.progress(number / len(targets), left * planned_s(options))
        if isinstance(target, Finding):
            done.append(replace(reading, problems=(*reading.problems, target)))
            continue
        assert isinstance(server, Server)
        how = Drive(
            server=server,
            device=target.device,
            source=target.address,
            streams=streams_for(reading.speed_mbps),
            seconds=max(1, round(options.duration_s)),
            warm_up_s=round(options.warm_up_s),
            retry_s=options.retry_s,
            required=options.throughput_required,
        )
        done.append(await drive(context, reading, how))
        left -= 1
    context.progress(1.0, 0.0)
    return done


def judge(readings: Sequence[PortReading], absent: Sequence[Finding], options: Options) -> Outcome:
    """The outcome for all ports. Pure."""
    judged = [judge_port(reading, options.limits()) for reading in readings]
    findings = [*absent, *(finding for found, _ in judged for finding in found)]
    versions = sorted({flow.flow.version for reading in readings for flow in reading.flows.values()})
    return Outcome(
        headline=_headline(readings, findings),
        findings=tuple(findings),
        measurements=tuple(measurement for _, measured in judged for measurement in measured),
        coverage={reading.port.component: reading.coverage for reading in readings},
        tool_versions={"libiperf": ", ".join(versions)} if versions else {},
    )


def _headline(readings: Sequence[PortReading], findings: Sequence[Finding]) -> str:
    up = sum(reading.port.carrier for reading in readings)
    ports = f"{len(readings)} network port{'s' if len(readings) != 1 else ''}, {up} with a link"
    flows = [
        f"{reading.port.name} "
        + " and ".join(f"{flow.flow.mbps:.0f} Mb/s {way}" for way, flow in reading.flows.items())
        for reading in readings
        if reading.flows
    ]
    if flows:
        return f"{ports}; {', '.join(flows)}"
    untested = sorted(
        (finding for finding in findings if finding.message.startswith(NOT_TESTED)),
        key=lambda finding: finding.severity is Severity.INFO,
    )
    why = untested[0].message.removeprefix(NOT_TESTED) if untested else "no port was driven"
    return f"{ports}; throughput not tested: {why}"


STAGE = Stage(
    name="Network",
    state="Network",
    title="Network links and throughput",
    options=Options,
    planned_s=planned_s,
    run=run,
    tools=("ethtool", "ip", "iperf3"),
)
