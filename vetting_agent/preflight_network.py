"""The hops from the network card to a TCP connection, as the kernel tells of them; nothing is sent but the last one."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from probes.apart import apart
from probes.host import Host, text_of
from vetting_agent.preflight_report import HOP_LIMIT_S, Check, Failed, Seen, none_here
from vetting_agent.signals import Hop, Signal

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
LOCALHOST = "localhost"
LEAST_TRY_S = 1.0
NO_ROUTE_FLAGS = 0x0200
"""RTF_REJECT, linux/route.h: a route that forbids."""


@dataclass(slots=True)
class NetworkHops:
    """The way to the orchestrator at `base_url`. What a hop finds the later ones build on."""

    host: Host
    base_url: str
    hop_s: float = HOP_LIMIT_S
    _addresses: list[str] = field(default_factory=list)

    def checks(self) -> list[Check]:
        """In the order of the walk."""
        return [
            Check(Hop.LINK, self.link, Signal.LINK_DOWN),
            Check(Hop.ADDRESS, self.address, Signal.ADDRESS_MISSING),
            Check(Hop.ROUTE, self.route, Signal.ROUTE_MISSING),
            Check(Hop.DNS, self.dns, Signal.DNS_FAILED),
            Check(Hop.TCP, self.tcp, Signal.API_UNREACHABLE),
        ]

    @property
    def name(self) -> str:
        return urlsplit(self.base_url).hostname or ""

    @property
    def port(self) -> int:
        parts = urlsplit(self.base_url)
        return parts.port or (443 if parts.scheme == "https" else 80)

    @property
    def literal(self) -> Address | None:
        """The orchestrator's address where the URL holds one."""
        with suppress(ValueError):
            return ipaddress.ip_address(self.name.partition("%")[0])
        return None

    @property
    def stays_here(self) -> bool:
        """Whether the orchestrator is on this very machine."""
        return self.literal.is_loopback if self.literal else self.name.lower() == LOCALHOST

    async def link(self) -> Seen:
        if self.stays_here:
            return none_here("the orchestrator is on this machine")
        ports = {name: stats for name, stats in (await apart(_port_states, "links")).items() if not _is_loopback(stats)}
        if not ports:
            raise Failed(Signal.NIC_MISSING, "only the loopback interface is there")
        running = sorted(name for name, stats in ports.items() if stats.isup)
        if not running:
            states = ", ".join(f"{name} {_state(stats)}" for name, stats in sorted(ports.items()))
            raise Failed(Signal.LINK_DOWN, states)
        down = sorted(ports.keys() - set(running))
        return Seen(f"up: {', '.join(running)}" + (f"; down: {', '.join(down)}" if down else ""))

    async def address(self) -> Seen:
        if self.stays_here:
            return none_here("the orchestrator is on this machine")
        link_local_counts = self.literal is not None and self.literal.is_link_local
        found = await apart(_own_addresses, "addresses")
        usable = [f"{address} on {name}" for name, address in found if link_local_counts or not address.is_link_local]
        if not usable:
            only = ", ".join(f"{address} on {name}" for name, address in found)
            raise Failed(Signal.ADDRESS_MISSING, f"only {only}, good for the own link alone" if only else "none at all")
        return Seen(", ".join(usable))

    async def route(self) -> Seen:
        if self.stays_here:
            return none_here("the orchestrator is on this machine")
        if self.literal is not None:
            source, problem = _source_to(self.name, self.port)
            if problem:
                raise Failed(Signal.ROUTE_MISSING, f"to {self.name}: {problem}")
            return Seen(f"to {self.name} from {source}")
        if not await apart(lambda: _has_routes(self.host), "routes"):
            raise Failed(Signal.ROUTE_MISSING, "the routing table is empty")
        return Seen("the routing table has routes")

    async def dns(self) -> Seen:
        if self.literal is not None:
            self._addresses = [self.name]
            return none_here(f"{self.name} is an address")
        try:
            async with asyncio.timeout(self.hop_s):
                found = await apart(lambda: socket.getaddrinfo(self.name, self.port, type=socket.SOCK_STREAM), "dns")
        except TimeoutError:
            text = f"{self.name}: no answer within {self.hop_s:g} s from {self._servers()}"
            raise Failed(Signal.DNS_FAILED, text) from None
        except (OSError, UnicodeError) as problem:
            words = getattr(problem, "strerror", None) or str(problem)
            raise Failed(Signal.DNS_FAILED, f"{self.name}: {words}, asking {self._servers()}") from None
        self._addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
        return Seen(f"{self.name} is {', '.join(self._addresses)}")

    async def tcp(self) -> Seen:
        problems = []
        share_s = max(LEAST_TRY_S, self.hop_s / max(1, len(self._addresses)))
        for address in self._addresses:
            if (problem := await connect_problem(address, self.port, share_s)) is None:
                return Seen(f"{_place(address, self.port)} answers")
            problems.append(f"{_place(address, self.port)}: {problem}")
        if all(_source_to(address, self.port)[1] for address in self._addresses):
            raise Failed(Signal.ROUTE_MISSING, "; ".join(problems))
        raise Failed(Signal.API_UNREACHABLE, "; ".join(problems))

    def _servers(self) -> str:
        text = text_of(self.host.etc("resolv.conf")) or ""
        words = [line.split() for line in text.splitlines()]
        servers = [one[1] for one in words if len(one) > 1 and one[0] == "nameserver"]
        return ", ".join(servers) or "no name server: /etc/resolv.conf names none"


async def connect_problem(address: str, port: int, limit_s: float) -> str | None:
    """Why no TCP connection comes to be; None when it does, and is closed again."""
    try:
        async with asyncio.timeout(limit_s):
            _, writer = await asyncio.open_connection(address, port)
    except TimeoutError:
        return f"no answer within {limit_s:.2g} s"
    except OSError as problem:
        return os.strerror(problem.errno) if problem.errno and problem.errno > 0 else str(problem)
    writer.transport.abort()
    return None


def _place(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _port_states() -> Mapping[str, Any]:
    import psutil

    return psutil.net_if_stats()


def _is_loopback(stats: Any) -> bool:
    return "loopback" in stats.flags.split(",")


def _state(stats: Any) -> str:
    """`isup` is true for an interface that is switched on and has its link."""
    return "has no link" if "up" in stats.flags.split(",") else "is switched off"


def _own_addresses() -> list[tuple[str, Address]]:
    """(interface, address) of all, loopback left out."""
    import psutil

    found = []
    for name, entries in sorted(psutil.net_if_addrs().items()):
        for one in entries:
            if one.family in {socket.AF_INET, socket.AF_INET6}:
                address = ipaddress.ip_address(one.address.partition("%")[0])
                if not address.is_loopback:
                    found.append((name, address))
    return found


def _source_to(address: str, port: int) -> tuple[str, str]:
    """(own address on the way there, ""), or ("", why there is no way). Asks the routing table, sends nothing."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, port))
            return str(probe.getsockname()[0]), ""
    except OSError as problem:
        return "", problem.strerror or str(problem)


def _has_routes(host: Host) -> bool:
    """Whether the kernel has any route off this machine."""
    for line in (text_of(host.proc("net", "route")) or "").splitlines()[1:]:
        if line.split()[:1] != ["lo"]:
            return True
    for line in (text_of(host.proc("net", "ipv6_route")) or "").splitlines():
        words = line.split()
        forbids = len(words) > 8 and int(words[8], 16) & NO_ROUTE_FLAGS
        own = words[:1] and words[0].startswith(("fe80", "ff"))
        if words[-1:] != ["lo"] and not forbids and not own:
            return True
    return False
