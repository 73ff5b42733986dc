"""Network interfaces that are hardware: those with a device behind them, virtio ones included.

Bridges, bonds, VLANs and tunnels are not listed. Sources: the net folder of sysfs (kernel ABI page
sysfs-class-net), and the kernel's ethtool calls for driver, firmware and permanent address.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from probes import ethtool
from probes.apart import apart
from probes.host import Host, entries_of, int_of, text_of
from probes.notes import Notes
from probes.pci import address_in, link_name

# ARPHRD_* of the kernel.
_KINDS = {1: "ethernet", 32: "infiniband"}
# NET_ADDR_*: where the address in use comes from.
_ADDRESS_SOURCES = {0: "permanent", 1: "random", 2: "borrowed", 3: "set"}
_NO_ADDRESS = re.compile(r"[0:]*")
# Six bytes of Ethernet, twenty of InfiniBand.
_ADDRESS = re.compile(r"(?:[0-9A-Fa-f]{2}:){5,19}[0-9A-Fa-f]{2}")
_UP = 1


@dataclass(frozen=True, slots=True)
class Nic:
    """One network interface. A value is None where it could not be read (see the notes)."""

    name: str
    mac: str | None
    """The permanent address, lower case with colons; the one in use where the driver tells no other."""
    speed_mbps: int | None
    """Of the link as it is now; None while there is no link, and on virtual hardware."""
    link: bool | None
    """Whether there is a carrier; None while the interface is switched off."""
    driver: str | None
    pci: str | None
    firmware: str | None
    duplex: str | None
    """`full` or `half`."""
    mtu: int | None
    carrier_changes: int | None
    up: bool | None
    """Whether the interface is switched on."""
    kind: str | None
    """`ethernet`, `infiniband`, `wireless`."""
    current_mac: str | None
    mac_source: str | None
    """`permanent`, `random`, `borrowed`, `set`: where the address in use comes from."""
    addresses: tuple[str, ...]
    """IP addresses."""
    driver_version: str | None
    vendor_id: str | None
    device_id: str | None
    numa_node: int | None
    port: int | None
    """Which port of its card, from 0."""
    bus: str | None
    """pci, virtio, usb."""
    queues: int | None
    """Receive queues."""
    virtual_function: bool
    master: str | None
    """The bond or bridge it belongs to."""

    @property
    def component(self) -> str:
        """How findings name this interface."""
        return f"nic:{self.mac or self.name}"


async def collect(host: Host, notes: Notes) -> tuple[Nic, ...]:
    """The hardware interfaces, by name. Raises OSError when the kernel shows none at all."""
    addresses = _addresses() if host.is_real else {}
    folders = await apart(lambda: _folders(host), "nics")
    facts = {folder.name: await ethtool.facts(host, folder.name, notes) for folder in folders}
    return await apart(
        lambda: tuple(_nic(one, facts[one.name], addresses.get(one.name, ()), notes) for one in folders), "nics"
    )


def _folders(host: Host) -> list[Path]:
    folders = sorted(host.sys("class", "net").iterdir())
    return [folder for folder in folders if (folder / "device").is_dir()]


def _addresses() -> Mapping[str, tuple[str, ...]]:
    """IP addresses by interface, without link-local scope ids."""
    import socket

    import psutil

    wanted = {socket.AF_INET, socket.AF_INET6}
    return {
        name: tuple(one.address.partition("%")[0] for one in entries if one.family in wanted)
        for name, entries in psutil.net_if_addrs().items()
    }


def _nic(folder: Path, facts: ethtool.Facts, addresses: tuple[str, ...], notes: Notes) -> Nic:
    device = folder / "device"
    path = device.resolve()
    current_mac = _mac(text_of(folder / "address"))
    is_up = _is_up(folder)
    speed = int_of(folder / "speed")
    pci = address_in(str(path))
    pci_folder = _pci_folder(path, pci)
    node = int_of(pci_folder / "numa_node")
    nic = Nic(
        name=folder.name,
        mac=_mac(facts.permanent_mac) or current_mac,
        speed_mbps=speed if speed is not None and speed > 0 else None,
        link={"0": False, "1": True}.get(text_of(folder / "carrier") or ""),
        driver=facts.driver or link_name(device / "driver"),
        pci=pci,
        firmware=facts.firmware,
        duplex={"full": "full", "half": "half"}.get(text_of(folder / "duplex") or ""),
        mtu=int_of(folder / "mtu"),
        carrier_changes=int_of(folder / "carrier_changes"),
        up=is_up,
        kind="wireless" if (folder / "wireless").exists() else _KINDS.get(int_of(folder / "type") or 0),
        current_mac=current_mac,
        mac_source=_ADDRESS_SOURCES.get(_number(int_of(folder / "addr_assign_type"))),
        addresses=addresses,
        driver_version=facts.driver_version,
        vendor_id=text_of(pci_folder / "vendor"),
        device_id=text_of(pci_folder / "device"),
        numa_node=node if node is not None and node >= 0 else None,
        port=int_of(folder / "dev_port"),
        bus=link_name(device / "subsystem"),
        queues=sum(1 for entry in entries_of(folder / "queues") if entry.name.startswith("rx-")) or None,
        virtual_function=(device / "physfn").is_symlink(),
        master=link_name(folder / "master"),
    )
    _note_missing(nic, notes)
    return nic


def _note_missing(nic: Nic, notes: Notes) -> None:
    if nic.link is None:
        why = "the interface is switched off" if nic.up is False else "not readable"
        notes.add(f"nic {nic.name}: link", why)
    for what in ("speed_mbps", "duplex"):
        if getattr(nic, what) is None:
            why = "the driver does not tell" if nic.link else "there is no link"
            notes.add(f"nic {nic.name}: {what}", why)
    for what in ("mac", "driver", "pci", "firmware"):
        if getattr(nic, what) is None:
            notes.add(f"nic {nic.name}: {what}", "the driver does not tell")


def _pci_folder(path: Path, pci: str | None) -> Path:
    """The folder of the PCI function; the device's own where it sits on another bus."""
    return next((folder for folder in (path, *path.parents) if folder.name == pci), path)


def _is_up(folder: Path) -> bool | None:
    flags = int_of(folder / "flags", 16)
    return None if flags is None else bool(flags & _UP)


def _number(value: int | None) -> int:
    return -1 if value is None else value


def _mac(text: str | None) -> str | None:
    """A hardware address, lower case; None for all zeros and for what is none."""
    if (
        text is None
        or _NO_ADDRESS.fullmatch(text)
        or not re.fullmatch(r"(?:[0-9A-Fa-f]{2}:){5,19}[0-9A-Fa-f]{2}", text)
    ):
        return None
    return text.lower()
