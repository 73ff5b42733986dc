"""Network: the links as they are, and iperf3 traffic both ways over each port that reaches the orchestrator."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from probes import link_statistics, links, lldp, path
from probes.link_statistics import LinkStatistics
from probes.links import Port
from probes.routes import Address
from probes.tools import ToolError, ToolFailed
from stages import network_outcome, network_server
from stages.network_drive import Drive, drive
from stages.network_extras import expectation
from stages.network_judge import Limits
from stages.network_readings import NetworkReadings, PortReading, ServerMissing, Untested
from stages.network_server import NoServer, Server
from stages.outcome import Outcome, ReasonCode, error
from stages.runner import tool_finding
from stages.stage import IperfPeer, Stage, StageContext

MBPS_PER_STREAM = 10_000
MBPS_PER_PROCESS = 25_000
"""What one iperf3 process does on one CPU; before 3.16 it has a single thread."""
STREAMS_MAX = 40
FLOW_EXTRA_S = 2.0
LISTEN_MAX_S = 3600.0


@dataclass(frozen=True, slots=True)
class Options:
    """Times in seconds, shares as parts of 1."""

    duration_s: float = field(default=10.0, metadata={"minimum": 1, "maximum": 86400})
    """For each port and direction."""
    warm_up_s: float = field(default=1.0, metadata={"minimum": 0, "maximum": 60})
    """At the start of each test, and not counted: TCP is still finding its speed."""
    both_at_once: bool = True
    """After each direction alone, both at the same time."""
    throughput_required: bool | None = None
    """True: untested throughput is an error. None: unless the iperf3 server is on this very host."""
    throughput_share: float = field(default=0.8, metadata={"minimum": 0, "maximum": 1})
    """The part of the link's speed that must be reached."""
    path_mbps: float | None = field(default=None, metadata={"minimum": 1})
    """The speed of the slowest part of the way to the server, if it is slower than the links here."""
    expected_nics: tuple[str, ...] = ()
    """MAC addresses of ports that must be here and have a link."""
    expected_neighbors: tuple[str, ...] = ()
    """What must stand at the other end by LLDP, each "MAC=SYSTEM" or "MAC=SYSTEM/PORT"."""
    lldp_wait_s: float = field(default=31.0, metadata={"minimum": 0, "maximum": 300})
    """How long an expected neighbour is listened for at least; switches speak every 30 s."""
    errors_per_minute: float = field(default=3.0, metadata={"minimum": 0})
    retransmit_warning: float = field(default=0.001, metadata={"minimum": 0, "maximum": 1})
    retransmit_failure: float = field(default=0.01, metadata={"minimum": 0, "maximum": 1})
    transceiver_alarms_fail: bool = False
    """Whether a transceiver's alarm is an error or a warning."""
    pauses_per_second: float = field(default=1000.0, metadata={"minimum": 0})
    """So many pause frames are a warning."""
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
            transceiver_alarms_fail=self.transceiver_alarms_fail,
            pauses_per_second=self.pauses_per_second,
            neighbors=self.neighbors(),
        )

    def neighbors(self) -> dict[str, str]:
        """The expected neighbours by MAC address."""
        return {mac.strip().lower(): name for mac, _, name in (one.partition("=") for one in self.expected_neighbors)}


@dataclass(frozen=True, slots=True)
class Target:
    """A port that will be driven from this device and address."""

    port: Port
    device: str
    address: Address


@dataclass(frozen=True, slots=True)
class Left:
    """A port that will not be driven, and why."""

    port: Port
    kind: Untested
    why: str


def plan(ports: Sequence[Port], server: Server | None) -> list[Target | Left]:
    """For each port how it is driven, or why it is not. Pure."""
    targets: list[Target | Left] = []
    used: set[str] = set()
    for port in ports:
        target = _target(port, server, used)
        if isinstance(target, Target):
            used.add(target.device)
        targets.append(target)
    return targets


def _target(port: Port, server: Server | None, used: set[str]) -> Target | Left:
    if not port.carrier:
        return Left(port, Untested.NO_LINK, f"{port.name} has no link")
    if server is None:
        return Left(port, Untested.NO_SERVER, "there is no server")
    source = server.routing.source((port.name, *port.uppers), server.address)
    if source is None:
        return Left(port, Untested.NO_ROUTE, f"there is no route over {port.name} to the iperf3 server")
    if source[0] in used:
        why = f"{port.name} is one of several ports under {source[0]}, which was driven as a whole"
        return Left(port, Untested.SHARED, why)
    return Target(port, *source)


def streams_for(speed_mbps: int | None) -> int:
    """One for each 10 Gb/s of the link."""
    return min(STREAMS_MAX, max(1, math.ceil((speed_mbps or 0) / MBPS_PER_STREAM)))


def processes_for(speed_mbps: int | None, servers: int) -> int:
    """One for each 25 Gb/s of the link, as far as there are servers: each serves one process at a time."""
    return max(1, min(servers, math.ceil((speed_mbps or 0) / MBPS_PER_PROCESS)))


def planned_s(options: Options) -> float:
    """For one port; corrected when the ports are known."""
    wait_s = options.lldp_wait_s if options.expected_neighbors else 0.0
    return _port_s(options) + wait_s


def _port_s(options: Options) -> float:
    return (3 if options.both_at_once else 2) * (options.duration_s + options.warm_up_s + FLOW_EXTRA_S)


async def run(context: StageContext, options: Options) -> NetworkReadings:
    """Read the links, drive each port that reaches the server, listen for neighbours meanwhile, read again."""
    ports = await links.ports(context.host)
    if not ports:
        return NetworkReadings((), context.facts.boot_mac)
    needed = {*(mac.lower() for mac in options.expected_nics), context.facts.boot_mac}
    readings = [await _read_port(context, port, needed=bool(port.macs & needed)) for port in ports]
    started = time.monotonic()
    listened = [port.name for port in ports if port.carrier]
    listener = lldp.Listener(context.host, listened, limit_s=LISTEN_MAX_S)
    try:
        server, readings = await _with_server(context, options, readings)
        expecting = [one.port.name for one in readings if expectation(one, options.neighbors()) and one.port.carrier]
        await listener.wait_for(expecting, options.lldp_wait_s - (time.monotonic() - started))
    finally:
        await listener.end()
    watched_s = time.monotonic() - started
    heard = [replace(one, neighbor=listener.heard.get(one.port.name)) for one in readings]
    return NetworkReadings(
        ports=tuple([await _read_again(context, one, watched_s) for one in heard]),
        boot_mac=context.facts.boot_mac,
        server=server,
        listening_problem=listener.problem,
    )


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


async def _statistics(context: StageContext, reading: PortReading) -> tuple[LinkStatistics, PortReading]:
    """What ethtool knows beyond the link. Where it did not even tell of the link, that is said already."""
    if reading.port.virtual or not reading.port.carrier or reading.offer is None:
        return LinkStatistics(), reading
    try:
        return await link_statistics.read(context.host, reading.port.name), reading
    except ToolFailed:
        return LinkStatistics(), reading
    except ToolError as problem:
        finding = tool_finding(problem, reading.port.component)
        return LinkStatistics(), replace(reading, problems=(*reading.problems, finding))


async def _read_again(context: StageContext, reading: PortReading, watched_s: float) -> PortReading:
    """The counters after the stage."""
    if reading.watched_s <= 0:
        after = links.read_counters(context.host, reading.port.name)
        return replace(reading, after=after, watched_s=watched_s)
    return reading


async def _with_server(
    context: StageContext, options: Options, readings: Sequence[PortReading]
) -> tuple[ServerMissing | None, list[PortReading]]:
    async with network_server.leased(context) as peer:
        server, missing = await _server(context, peer)
        return missing, await _drive_all(context, options, server, readings)


async def _server(context: StageContext, peer: IperfPeer | None) -> tuple[Server | None, ServerMissing | None]:
    try:
        return await network_server.find(context, peer), None
    except NoServer as problem:
        return None, problem.reading


async def _drive_all(
    context: StageContext, options: Options, server: Server | None, readings: Sequence[PortReading]
) -> list[PortReading]:
    """Drive the ports one after the other, so that each has the path for itself."""
    targets = plan([reading.port for reading in readings], server)
    left = sum(isinstance(target, Target) for target in targets)
    context.plan.set(max(context.plan.planned_s, left * _port_s(options)))
    done: list[PortReading] = []
    for number, (target, reading) in enumerate(zip(targets, readings, strict=True)):
        context.progress(number / len(targets), left * _port_s(options))
        before, watched = await _statistics(context, reading)
        watched = await _one(context, options, server, target, watched)
        after, watched = await _statistics(context, watched)
        done.append(replace(watched, statistics_before=before, statistics_after=after))
        left -= isinstance(target, Target)
    context.progress(1.0, 0.0)
    return done


async def _one(
    context: StageContext, options: Options, server: Server | None, target: Target | Left, reading: PortReading
) -> PortReading:
    if isinstance(target, Left):
        return replace(reading, untested=target.kind, untested_why=target.why)
    assert server is not None
    seen = await path.check(context.host, target.device, str(target.address), str(server.address))
    processes = processes_for(reading.speed_mbps, len(server.ports))
    how = Drive(
        server=str(server.address),
        ports=server.ports[:processes],
        device=target.device,
        source=str(target.address),
        streams=math.ceil(streams_for(reading.speed_mbps) / processes),
        seconds=max(1, round(options.duration_s)),
        warm_up_s=round(options.warm_up_s),
        retry_s=options.retry_s,
        both_at_once=options.both_at_once,
    )
    return await drive(context, replace(reading, path=seen), how)


def judge(readings: NetworkReadings, options: Options) -> Outcome:
    """The outcome for all ports. Pure."""
    expected = tuple(mac.lower() for mac in options.expected_nics)
    return network_outcome.judge(readings, options.limits(), expected, options.throughput_required)


STAGE = Stage(
    name="Network",
    state="Network",
    title="Network links and throughput",
    options=Options,
    planned_s=planned_s,
    run=run,
    readings=NetworkReadings,
    judge=judge,
    tools=("ethtool", "ip", "iperf3"),
)
