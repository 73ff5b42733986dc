"""Addresses and routes of this machine, from `ip -j`: over which ports another host can be reached."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from probes.host import Host
from probes.json_paths import dig, parsed, rows

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
LIMIT_S = 10.0


class UnreadableRoutes(ValueError):
    """`ip -j` printed something that is not its JSON."""


@dataclass(frozen=True, slots=True)
class Route:
    """A unicast route: what it leads to, and over which device."""

    destination: Network
    device: str


@dataclass(frozen=True, slots=True)
class Routing:
    """Addresses by device, and unicast routes."""

    addresses: dict[str, tuple[Address, ...]]
    routes: tuple[Route, ...]

    def is_own(self, address: Address) -> bool:
        """True for an address of this very machine."""
        return address.is_loopback or any(address in own for own in self.addresses.values())

    def reaches(self, device: str, address: Address) -> bool:
        """True when some route over this device covers the address."""
        return any(route.device == device and address in route.destination for route in self.routes)

    def source(self, devices: Collection[str], address: Address) -> tuple[str, Address] | None:
        """(device, own address on it) to reach `address` from, of the first of `devices` that has both."""
        for device in devices:
            own = [each for each in self.addresses.get(device, ()) if each.version == address.version]
            usable = [each for each in own if each.is_link_local == address.is_link_local]
            if usable and self.reaches(device, address):
                return device, usable[0]
        return None


async def read_routing(host: Host) -> Routing:
    """The machine's addresses and routes now. Raises ToolError and UnreadableRoutes."""
    shown = await host.tools.run("ip", "-j", "addr", "show", timeout_s=LIMIT_S)
    routes: list[Route] = []
    for family in ("-4", "-6"):
        table = await host.tools.run("ip", "-j", family, "route", "show", "table", "all", timeout_s=LIMIT_S)
        routes += parse_routes(table.stdout, family)
    return Routing(addresses=parse_addresses(shown.stdout), routes=tuple(routes))


def parse_addresses(text: str) -> dict[str, tuple[Address, ...]]:
    """{device: addresses} of `ip -j addr show`. Raises UnreadableRoutes."""
    return {
        str(entry["ifname"]): tuple(
            _address(local) for info in rows(entry, "addr_info") if (local := dig(info, "local")) is not None
        )
        for entry in _entries(text)
        if "ifname" in entry
    }


def _address(local: object) -> Address:
    try:
        return ipaddress.ip_address(str(local))
    except ValueError:
        raise UnreadableRoutes(f"an address {local!r:.80}") from None


def parse_routes(text: str, family: str) -> list[Route]:
    """Unicast routes of `ip -j -4|-6 route show table all`. Raises UnreadableRoutes."""
    found = []
    for entry in _entries(text):
        if entry.get("type", "unicast") != "unicast":
            continue
        default = "0.0.0.0/0" if family == "-4" else "::/0"
        target = default if entry.get("dst") == "default" else str(entry.get("dst"))
        devices = [entry.get("dev"), *(dig(hop, "dev") for hop in rows(entry, "nexthops"))]
        try:
            destination = ipaddress.ip_network(target, strict=False)
        except ValueError:
            raise UnreadableRoutes(f"a route to {target!r:.80}") from None
        found += [Route(destination, device) for device in devices if isinstance(device, str) and device]
    return found


def _entries(text: str) -> list[dict[str, Any]]:
    try:
        entries = parsed(text or "[]")
    except ValueError:
        raise UnreadableRoutes(f"no JSON: {text[:80]!r}") from None
    if not isinstance(entries, list):
        raise UnreadableRoutes(f"no list: {text[:80]!r}")
    return [entry for entry in entries if isinstance(entry, dict)]
