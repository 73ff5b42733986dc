"""Which address and which interface of this host lead to the orchestrator."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

LOOK_UP_LIMIT_S = 5.0
_Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]
NO_MAC = "00:00:00:00:00:00"


@dataclass(frozen=True, slots=True)
class Route:
    """The near end of the way. Empty where it could not be found."""

    ip: str = ""
    mac: str = ""
    trouble: str = ""
    """Why it could not be found."""


async def route_to(base_url: str, *, with_mac: bool = True) -> Route:
    """The route as it is now: addresses come and go while the host boots. Looking for the MAC address takes longer."""
    parts = urlsplit(base_url)
    assert parts.hostname is not None
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        async with asyncio.timeout(LOOK_UP_LIMIT_S):
            found = await _look_up(parts.hostname, port)
    except OSError as problem:  # a TimeoutError too
        why = problem.strerror or f"no answer from a name server within {LOOK_UP_LIMIT_S:g} s"
        return Route(trouble=f"the name {parts.hostname} is not resolved: {why}")
    trouble = ""
    for family, kind, _, _, address in found:
        try:
            with socket.socket(family, kind) as probe:
                probe.connect(address)  # a datagram socket: asks the routing table, sends nothing
                ip = str(probe.getsockname()[0])
                return Route(ip, _mac_of(ip) if with_mac else "")
        except OSError as problem:
            trouble = f"no route to {address[0]}: {problem.strerror}"
    return Route(trouble=trouble)


async def _look_up(name: str, port: int) -> Sequence[_Address]:
    """Raises OSError. An address needs no resolver, and so no thread."""
    try:
        return socket.getaddrinfo(name, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_DGRAM)


def _mac_of(ip: str) -> str:
    """The MAC address of the interface with that address, lower case with colons; "" when it has none."""
    import psutil

    for addresses in psutil.net_if_addrs().values():
        if any(one.address.split("%")[0] == ip for one in addresses):
            macs = [one.address for one in addresses if one.family == psutil.AF_LINK]
            return macs[0].lower().replace("-", ":") if macs else ""
    return ""
