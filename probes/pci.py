"""PCI devices and their links, hop by hop up to the root port.

Source: the kernel's ABI page sysfs-bus-pci. Speeds are in GT/s, widths in lanes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from probes.apart import apart
from probes.host import Host, entries_of, int_of, text_of
from probes.notes import Notes

ADDRESS = re.compile(r"^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$")
WIDEST = 32
NumberT = TypeVar("NumberT", int, float)
CLASS_NAMES = {
    0x01: "storage",
    0x02: "network",
    0x03: "display",
    0x04: "multimedia",
    0x05: "memory",
    0x06: "bridge",
    0x07: "communication",
    0x08: "system",
    0x0B: "processor",
    0x0C: "serial bus",
    0x10: "encryption",
    0x11: "signal processing",
    0x12: "accelerator",
}


@dataclass(frozen=True, slots=True)
class PciLink:
    """A link as one end of it reports it; a value is None where that end does not say."""

    speed_gts: float | None
    width: int | None
    max_speed_gts: float | None
    max_width: int | None


@dataclass(frozen=True, slots=True)
class PciDevice:
    """One function of a device. Ids are lower-case hex with 0x; `upstream` is the address of the port above."""

    address: str
    class_id: str | None
    kind: str | None
    """The class in a word ("network"), where it is a common one."""
    vendor_id: str | None
    device_id: str | None
    subsystem_vendor_id: str | None
    subsystem_device_id: str | None
    revision: str | None
    driver: str | None
    numa_node: int | None
    upstream: str | None
    slot: str | None
    """The label on the chassis or board, where the firmware tells it."""
    virtual_function: bool
    link: PciLink | None


@dataclass(frozen=True, slots=True)
class LinkShortfall:
    """A link below what both its ends can do. `speed_*` and `width_*` are actual and expected."""

    address: str
    upstream: str
    kind: str | None
    width: int | None
    expected_width: int | None
    speed_gts: float | None
    expected_speed_gts: float | None

    @property
    def narrow(self) -> bool:
        """Fewer lanes than both ends have. Never a matter of power saving."""
        return self.width is not None and self.expected_width is not None and self.width < self.expected_width

    @property
    def slow(self) -> bool:
        """A lower speed than both ends have. Some devices slow down when idle: judge it under load."""
        speed, expected = self.speed_gts, self.expected_speed_gts
        return speed is not None and expected is not None and speed < expected


async def collect(host: Host, notes: Notes) -> tuple[PciDevice, ...]:
    """All PCI functions, by address. Empty where there is no PCI bus."""
    return await apart(lambda: read(host, notes), "pci")


def read(host: Host, notes: Notes) -> tuple[PciDevice, ...]:
    """As `collect`, blocking."""
    if not host.sys("bus", "pci").exists():
        notes.add("pci", "this machine has no PCI bus that the kernel shows")
        return ()
    slots = _slots(host)
    folders = [folder for folder in entries_of(host.sys("bus", "pci", "devices")) if ADDRESS.match(folder.name)]
    devices = tuple(_device(folder, slots) for folder in folders)
    for device in devices:
        if device.class_id is None or device.vendor_id is None:
            notes.add(f"pci {device.address}", "what it is could not be read")
    return devices


def links_of(host: Host, addresses: Sequence[str]) -> dict[str, PciLink]:
    """The links of some devices as they are now; one that tells nothing is left out. Blocking."""
    read = {address: _link(host.sys("bus", "pci", "devices", address)) for address in addresses}
    return {address: link for address, link in read.items() if link is not None}


def address_in(path: str) -> str | None:
    """The PCI address of the device nearest to the end of a sysfs path."""
    return next((part for part in reversed(path.split("/")) if ADDRESS.match(part)), None)


def degraded_links(devices: Sequence[PciDevice]) -> tuple[LinkShortfall, ...]:
    """Links narrower or slower than both their ends allow, one a link, by address of the lower end.

    The lower end is compared with min(its own maximum, the maximum of the port above it). Functions of one device
    share a link: the first speaks for all. Devices without a port above (integrated ones) have no link.
    """
    by_address = {device.address: device for device in devices}
    found: dict[tuple[str, str], LinkShortfall] = {}
    for device in sorted(devices, key=lambda one: one.address):
        port = by_address.get(device.upstream or "")
        if port is None or device.virtual_function:
            continue
        shortfall = _shortfall(device, port)
        if shortfall is not None:
            found.setdefault((port.address, device.address.rpartition(".")[0]), shortfall)
    return tuple(found.values())


def _shortfall(device: PciDevice, port: PciDevice) -> LinkShortfall | None:
    if device.link is None or device.link.width is None:
        return None
    above = port.link or PciLink(None, None, None, None)
    shortfall = LinkShortfall(
        address=device.address,
        upstream=port.address,
        kind=device.kind,
        width=device.link.width,
        expected_width=_least(device.link.max_width, above.max_width),
        speed_gts=device.link.speed_gts,
        expected_speed_gts=_least(device.link.max_speed_gts, above.max_speed_gts),
    )
    return shortfall if shortfall.narrow or shortfall.slow else None


def _least(own: NumberT | None, above: NumberT | None) -> NumberT | None:
    """The lower of both; what one end alone says where the other is silent; None without an own maximum."""
    return own if own is None or above is None else min(own, above)


def _device(folder: Path, slots: dict[str, str]) -> PciDevice:
    address = folder.name
    # One read of `uevent` instead of one for each id: a large server has hundreds of functions.
    event = dict(line.partition("=")[::2] for line in (text_of(folder / "uevent") or "").splitlines())
    there = _names_in(folder)
    class_id = event.get("PCI_CLASS")
    vendor_id, device_id = _ids(event.get("PCI_ID"))
    subsystem_vendor_id, subsystem_device_id = _ids(event.get("PCI_SUBSYS_ID"))
    node = int_of(folder / "numa_node") if "numa_node" in there else None
    return PciDevice(
        address=address,
        class_id=f"0x{class_id.zfill(6).lower()}" if class_id else None,
        kind=_kind(class_id),
        vendor_id=vendor_id,
        device_id=device_id,
        subsystem_vendor_id=subsystem_vendor_id,
        subsystem_device_id=subsystem_device_id,
        revision=text_of(folder / "revision") if "revision" in there else None,
        driver=event.get("DRIVER"),
        numa_node=node if node is not None and node >= 0 else None,
        upstream=_port_above(folder),
        slot=slots.get(address.rpartition(".")[0]) or (text_of(folder / "label") if "label" in there else None),
        virtual_function=(folder / "physfn").exists(),
        link=_link(folder) if "current_link_width" in there else None,
    )


def _names_in(folder: Path) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries)
    except OSError:
        return frozenset()


def _ids(pair: str | None) -> tuple[str | None, str | None]:
    """("0x8086", "0x3c00") for "8086:3C00"."""
    first, colon, second = (pair or "").lower().partition(":")
    return (f"0x{first}", f"0x{second}") if colon else (None, None)


def _port_above(folder: Path) -> str | None:
    """The device one step up in the tree of devices; None below a root complex."""
    try:
        parent = folder.readlink().parent.name
    except OSError:
        return None
    return parent if ADDRESS.match(parent) else None


def _link(folder: Path) -> PciLink | None:
    """The link as this device reports it; None when it reports nothing that a link could be."""
    link = PciLink(
        speed_gts=_speed(text_of(folder / "current_link_speed")),
        width=_width(int_of(folder / "current_link_width")),
        max_speed_gts=_speed(text_of(folder / "max_link_speed")),
        max_width=_width(int_of(folder / "max_link_width")),
    )
    return None if link == PciLink(None, None, None, None) else link


def _speed(text: str | None) -> float | None:
    """8.0 for "8.0 GT/s PCIe"; None for "Unknown"."""
    match = re.match(r"(\d{1,4}(?:\.\d{1,3})?) GT/s", text or "")
    return float(match[1]) if match else None


def _width(lanes: int | None) -> int | None:
    """Lanes; None for 0 (no link) and for 255 (the device does not answer)."""
    return lanes if lanes is not None and 0 < lanes <= WIDEST else None


def _kind(class_id: str | None) -> str | None:
    try:
        return CLASS_NAMES.get(int(class_id or "", 16) >> 16)
    except ValueError:
        return None


def link_name(link: Path) -> str | None:
    """The last part of what a symbolic link points to: a driver's or subsystem's name."""
    try:
        return link.readlink().name or None
    except OSError:
        return None


def _slots(host: Host) -> dict[str, str]:
    """Slot labels by address without function."""
    slots: dict[str, str] = {}
    for folder in entries_of(host.sys("bus", "pci", "slots")):
        address = text_of(folder / "address")
        if address:
            slots[address] = folder.name
    return slots
