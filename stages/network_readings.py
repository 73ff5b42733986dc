"""What the Network stage reads: plain values, all that its judge looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from probes.link_statistics import LinkStatistics
from probes.links import LinkCounters, LinkOffer, Port
from probes.lldp import Neighbor
from probes.path import PathReading
from stages.iperf import Flow
from stages.outcome import Finding, ReasonCode


class Untested(StrEnum):
    """Why no traffic was sent over a port."""

    NO_LINK = "no_link"
    NO_SERVER = "no_server"
    NO_ROUTE = "no_route"
    SHARED = "shared"
    """It is one of several ports under a device that was driven as a whole."""


@dataclass(frozen=True, slots=True)
class ServerMissing:
    """Why there was no iperf3 server to test against."""

    reason_code: ReasonCode
    message: str
    evidence: str = ""
    own_host: bool = False
    """The orchestrator is on this very host."""
    ours: bool = False
    """The fault is on this side: a tool that is missing, a route that cannot be read."""


@dataclass(frozen=True, slots=True)
class FlowReading:
    """One direction measured: the flow, and what the port's own counter moved meanwhile."""

    flow: Flow
    streams: int
    """Of each process."""
    counted_bytes: int | None
    processes: int = 1


@dataclass(frozen=True, slots=True)
class PortReading:
    """All that was read of one port."""

    port: Port
    needed: bool
    """It must have a link: the host booted from it, or it is expected to be in use."""
    offer: LinkOffer | None = None
    before: LinkCounters | None = None
    after: LinkCounters | None = None
    statistics_before: LinkStatistics = field(default_factory=LinkStatistics)
    statistics_after: LinkStatistics = field(default_factory=LinkStatistics)
    watched_s: float = 0.0
    flows: Mapping[str, FlowReading] = field(default_factory=dict)
    """By direction, `send` and `receive`."""
    at_once: Mapping[str, FlowReading] = field(default_factory=dict)
    """The same, both at the same time."""
    at_once_problem: str = ""
    """Why that was not measured, although it was tried."""
    untested: Untested | None = None
    untested_why: str = ""
    unreachable: str = ""
    """Why the server, which should have been there, could not be reached."""
    neighbor: Neighbor | None = None
    path: PathReading | None = None
    problems: tuple[Finding, ...] = ()
    """What kept something from being read or tested."""

    @property
    def speed_mbps(self) -> int | None:
        return (self.offer.speed_mbps if self.offer else None) or self.port.speed_mbps

    @property
    def coverage(self) -> float:
        """The part of the two directions that traffic was sent in, over this very port."""
        return sum(carried(reading) for reading in self.flows.values()) / 2


def carried(reading: FlowReading) -> bool:
    """True when the port's own byte counter saw the flow: with two ports on one network it may take the other."""
    return reading.counted_bytes is not None and reading.counted_bytes >= 0.9 * reading.flow.bytes_moved


@dataclass(frozen=True, slots=True)
class NetworkReadings:
    """All ports, and what concerns them together."""

    ports: tuple[PortReading, ...]
    boot_mac: str | None = None
    server: ServerMissing | None = None
    """None: there was one."""
    listening_problem: str = ""
    """Why neighbours could not be listened for."""
