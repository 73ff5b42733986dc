"""Network ports and their links: what the kernel shows of each, what ethtool says both sides offer, and counters.

Sources: Documentation/ABI/testing/sysfs-class-net of the Linux kernel; ethtool(8), its plain output.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from probes import nics
from probes.host import Host, entries_of, int_of, text_of
from probes.nics import Nic
from probes.notes import Notes

VIRTUAL_DRIVERS = {
    "virtio_net",
    "vmxnet3",
    "hv_netvsc",
    "netvsc",
    "xen_netfront",
    "vif",
    "ena",
    "gve",
    "veth",
    "mlx5_sf",
}
EMULATED_DRIVERS = {"e1000", "e1000e", "igb", "8139cp", "8139too", "pcnet32", "ne2k-pci", "tulip", "r8169", "rtl8139"}
"""Real chips that hypervisors imitate: emulated where the CPU says that it is a guest's."""


@dataclass(frozen=True, slots=True)
class Port:
    """One network port that is hardware to this machine (a PCI, USB, virtio or platform device)."""

    name: str
    component: str
    """As findings name it: nic:MAC, by the permanent address."""
    macs: frozenset[str]
    """The permanent address and the one in use."""
    driver: str | None
    virtual: bool
    """Emulated, paravirtual or wireless: its figures say nothing of a cable."""
    carrier: bool
    """A link is there. A port that is switched off has none."""
    speed_mbps: int | None
    duplex: str | None
    """`full`, `half`, or None where the driver does not say."""
    mtu: int | None = None
    own_mac: str | None = None
    """The address burned into it; None where that cannot be told from one that was set (a bond's)."""
    uppers: tuple[str, ...] = ()
    """Devices stacked on it (bond, bridge, VLAN), nearest first."""


@dataclass(frozen=True, slots=True, order=True)
class Mode:
    """A link mode, as 10000baseT/Full."""

    mbps: int
    full: bool


@dataclass(frozen=True, slots=True)
class LinkOffer:
    """What ethtool says of a link. None: not reported (most drivers tell the partner's modes for copper only)."""

    supported: frozenset[Mode] | None
    advertised: frozenset[Mode] | None
    partner: frozenset[Mode] | None
    speed_mbps: int | None
    duplex: str | None
    auto_negotiation: bool | None

    def best_common_mbps(self) -> int | None:
        """The highest full-duplex speed that both sides offer; None when one side's offer is not known."""
        if self.supported is None or self.partner is None:
            return None
        ours = {mode.mbps for mode in self.supported if mode.full}
        theirs = {mode.mbps for mode in self.partner if mode.full}
        return max(ours & theirs, default=None)

    def best_own_mbps(self) -> int | None:
        """The highest speed that this port supports."""
        return max((mode.mbps for mode in self.supported or ()), default=None)


@dataclass(frozen=True, slots=True)
class LinkCounters:
    """Counters of one port since boot. A counter that the driver does not keep is 0."""

    crc: int
    frame: int
    carrier: int
    """Transmit errors for loss of carrier."""
    carrier_changes: int
    rx_bytes: int
    tx_bytes: int
    late_collisions: int = 0
    """Collisions after the first 64 bytes: the other end believes in another duplex mode."""

    def moved(self, inwards: bool) -> int:
        """Bytes received or sent."""
        return self.rx_bytes if inwards else self.tx_bytes

    def errors(self) -> int:
        """All that speak of a bad link."""
        return self.crc + self.frame + self.carrier + self.carrier_changes


class UnreadableOffer(ValueError):
    """ethtool printed something else than a port's settings."""


async def ports(host: Host) -> list[Port]:
    """The machine's network ports, by name; empty when the kernel shows none."""
    try:
        found = await nics.collect(host, Notes())
    except OSError:
        return []
    guest = _is_guest(host)
    return [_port(host, nic, guest) for nic in found]


def _port(host: Host, nic: Nic, guest: bool) -> Port:
    return Port(
        name=nic.name,
        component=nic.component,
        macs=frozenset(mac for mac in (nic.mac, nic.current_mac) if mac is not None),
        driver=nic.driver,
        virtual=_is_virtual(nic, guest),
        carrier=nic.link is True,
        speed_mbps=nic.speed_mbps,
        duplex=nic.duplex,
        mtu=nic.mtu,
        own_mac=nic.mac if nic.bus == "pci" and not nic.virtual_function and nic.master is None else None,
        uppers=_uppers(host.sys("class", "net", nic.name)),
    )


def _is_virtual(nic: Nic, guest: bool) -> bool:
    return nic.kind == "wireless" or nic.driver in VIRTUAL_DRIVERS or (guest and nic.driver in EMULATED_DRIVERS)


def _is_guest(host: Host) -> bool:
    """True in a virtual machine, by the CPU flag `hypervisor` of x86."""
    cpuinfo = text_of(host.proc("cpuinfo")) or ""
    return re.search(r"^flags\s*:.*\bhypervisor\b", cpuinfo, re.MULTILINE) is not None


def _uppers(folder: Path) -> tuple[str, ...]:
    """Names of what is stacked on a port, nearest first."""
    found: list[str] = []
    queue = [folder]
    while queue:
        lower = queue.pop(0)
        names = [entry.name.removeprefix("upper_") for entry in entries_of(lower) if entry.name.startswith("upper_")]
        fresh = [name for name in names if name not in found]
        found += fresh
        queue += [folder.parent / name for name in fresh]
    return tuple(found)


def read_counters(host: Host, name: str) -> LinkCounters | None:
    """The port's counters now; None when the port is gone."""
    folder = host.sys("class", "net", name)
    rx_bytes, tx_bytes = int_of(folder / "statistics" / "rx_bytes"), int_of(folder / "statistics" / "tx_bytes")
    if rx_bytes is None or tx_bytes is None:
        return None
    return LinkCounters(
        crc=int_of(folder / "statistics" / "rx_crc_errors") or 0,
        frame=int_of(folder / "statistics" / "rx_frame_errors") or 0,
        carrier=int_of(folder / "statistics" / "tx_carrier_errors") or 0,
        carrier_changes=int_of(folder / "carrier_changes") or 0,
        rx_bytes=rx_bytes,
        tx_bytes=tx_bytes,
        late_collisions=int_of(folder / "statistics" / "tx_window_errors") or 0,
    )


async def read_offer(host: Host, name: str) -> LinkOffer:
    """What both sides of a link offer.

    Raises ToolError when ethtool is missing or hangs, UnreadableOffer when it printed no settings. Its exit code
    alone decides nothing: it is not 0 where one of its many questions is refused, with all that matters here printed.
    """
    result = await host.tools.run("ethtool", name, timeout_s=10.0, accept=None)
    try:
        return parse_offer(result.stdout)
    except UnreadableOffer as problem:
        raise UnreadableOffer(f"ethtool {name}: {problem} ({result.how_it_ended()}: {result.last_words()})") from None


def parse_offer(text: str) -> LinkOffer:
    """The settings that `ethtool NAME` prints. Raises UnreadableOffer."""
    fields = _fields(text)
    if "speed" not in fields or "duplex" not in fields:
        raise UnreadableOffer("no speed and duplex in its output")
    speed = re.fullmatch(r"([0-9]{1,9})Mb/s", fields["speed"])
    duplex = fields["duplex"].lower()
    negotiation = fields.get("auto-negotiation")
    # Without negotiation some drivers (ice) print their own modes as the partner's.
    partner_told = fields.get("link partner advertised auto-negotiation") == "Yes"
    return LinkOffer(
        supported=_modes(fields.get("supported link modes")),
        advertised=_modes(fields.get("advertised link modes")),
        partner=_modes(fields.get("link partner advertised link modes")) if partner_told else None,
        speed_mbps=int(speed[1]) if speed else None,
        duplex=duplex if duplex in {"full", "half"} else None,
        auto_negotiation=None if negotiation is None else negotiation == "on",
    )


def _fields(text: str) -> dict[str, str]:
    """Name (lower case) to value; a line without a name goes on with the value before it."""
    fields: dict[str, str] = {}
    name = ""
    for line in text.splitlines()[1:]:
        head, colon, rest = line.partition(":")
        if colon:
            name = head.strip().lower()
            fields[name] = rest.strip()
        elif name:
            fields[name] += " " + line.strip()
    return fields


def _modes(text: str | None) -> frozenset[Mode] | None:
    found = re.findall(r"\b([0-9]{1,9})base[^\s/]*/(Half|Full)", text or "")
    return frozenset(Mode(int(mbps), duplex == "Full") for mbps, duplex in found) or None
