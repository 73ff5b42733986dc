"""The disks of the machine: what they are, how they are attached, and what identifies them.

Sources: the block folder of sysfs, the inquiry pages that the kernel keeps of SCSI and ATA disks, and
udev's database where it runs. No tool is run and no disk is opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from probes import attachment, inquiry
from probes.apart import apart
from probes.host import Host, entries_of, int_of, text_of
from probes.notes import Notes
from probes.pci import address_in

SECTOR = 512
COMES_AND_GOES = frozenset({"usb", "mmc"})
"""Transports of sticks, cards and the virtual drives of a BMC: whoever pulls one out breaks nothing."""
# Made by the kernel from something else, or no disks at all. Boot and RPMB areas belong to their eMMC.
_NOT_DISKS = re.compile(r"(?:loop|ram|zram|dm-|md|sr|scd|fd|zd|bcache|drbd|ublkb|mtdblock|device-mapper)[\d_]?")
_PART_OF_MMC = re.compile(r"mmcblk\d+(?:boot\d|rpmb|gp\d)")


@dataclass(frozen=True, slots=True)
class Disk:
    """One disk. A value is None where the disk or its driver does not tell (see the notes)."""

    name: str
    """The kernel's name, `sda`; it may change with each boot."""
    serial: str | None
    wwn: str | None
    """World-wide name: `0x5000…`, `eui.…`, `uuid.…`."""
    vendor: str | None
    model: str | None
    firmware: str | None
    size_bytes: int | None
    size_gb: float | None
    """In 10^9 bytes, as printed on the disk."""
    transport: str | None
    """nvme, nvme-of, sata, sas, scsi, raid, virtio, usb, mmc, ufs, iscsi, fc, nvdimm, nbd, rbd, xen, hyperv."""
    rotational: bool | None
    removable: bool | None
    read_only: bool | None
    logical_block_size: int | None
    physical_block_size: int | None
    device_number: str | None
    """major:minor."""
    hctl: str | None
    """SCSI host:channel:target:lun."""
    pci: str | None
    driver: str | None
    """Of the controller: `ahci`, `mpt3sas`, `nvme`, `virtio_blk`."""
    numa_node: int | None
    namespace: int | None
    """NVMe namespace id."""
    controller: str | None
    """NVMe controller, `nvme0`."""
    enclosure_slot: str | None
    """The bay, where an enclosure tells."""
    state: str | None
    """The driver's view: `running`, `live`, `offline`."""
    write_cache: str | None
    zoned: str | None
    discard: bool | None
    queue_depth: int | None
    partitions: int

    @property
    def component(self) -> str:
        """How findings name this disk: by serial, by its kernel name only when it has none."""
        return f"disk:{self.serial or self.name}"

    @property
    def is_local(self) -> bool:
        """Whether it certainly sits in this machine alone."""
        return self.transport in attachment.LOCAL_TRANSPORTS


async def collect(host: Host, notes: Notes) -> tuple[Disk, ...]:
    """The real disks, by kernel name. Takes milliseconds. Raises OSError when the kernel shows no block devices."""
    return await apart(lambda: read(host, notes), "disks")


def read(host: Host, notes: Notes) -> tuple[Disk, ...]:
    """As `collect`, blocking."""
    root = os.path.realpath(host.sys())
    disks = []
    for folder in sorted(host.sys("block").iterdir()):
        path = os.path.relpath(os.path.realpath(folder), root)
        if _is_disk(folder, path):
            disk = _disk(attachment.Place(folder.name, folder, path, _udev(host, folder), host))
            _note_missing(disk, notes)
            disks.append(disk)
    return tuple(disks)


def _is_disk(folder: Path, path: str) -> bool:
    name = folder.name
    if _NOT_DISKS.match(name) or _PART_OF_MMC.match(name) or text_of(folder / "hidden") == "1":
        return False
    if name.startswith("nbd"):
        return (folder / "pid").exists()
    if "/virtual/" in path and not name.startswith("nvme"):
        return False
    # An empty card reader, or a BMC's virtual drive without medium.
    return not (text_of(folder / "removable") == "1" and int_of(folder / "size") == 0)


def _disk(place: attachment.Place) -> Disk:
    folder, device = place.folder, place.device
    sectors = int_of(folder / "size")
    size = None if sectors is None or sectors < 0 else sectors * SECTOR
    identity = _identity(place)
    pci = address_in(place.path) or attachment.nvme_value(place, "address")
    discard = int_of(folder / "queue" / "discard_max_bytes")
    return Disk(
        name=place.name,
        serial=identity.serial,
        wwn=_wwn(place),
        vendor=identity.vendor,
        model=identity.model,
        firmware=identity.firmware,
        size_bytes=size,
        size_gb=None if size is None else round(size / 1e9, 3),
        transport=attachment.transport(place),
        rotational=_flag(folder / "queue" / "rotational"),
        removable=_flag(folder / "removable"),
        read_only=_flag(folder / "ro"),
        logical_block_size=int_of(folder / "queue" / "logical_block_size"),
        physical_block_size=int_of(folder / "queue" / "physical_block_size"),
        device_number=text_of(folder / "dev"),
        hctl=attachment.hctl(place.path),
        pci=pci,
        driver=attachment.driver(place, pci),
        numa_node=_numa_node(place.host, pci),
        namespace=_namespace(place),
        controller=attachment.nvme_controller(place),
        enclosure_slot=_enclosure_slot(device),
        state=text_of(device / "state"),
        write_cache=text_of(folder / "queue" / "write_cache"),
        zoned=text_of(folder / "queue" / "zoned"),
        discard=None if discard is None else discard > 0,
        queue_depth=int_of(device / "queue_depth") or int_of(folder / "queue" / "nr_requests"),
        partitions=sum(1 for entry in entries_of(folder) if entry.name.startswith(place.name)),
    )


def _note_missing(disk: Disk, notes: Notes) -> None:
    for what in ("serial", "wwn", "model", "size_bytes", "transport", "rotational", "firmware"):
        if getattr(disk, what) is None:
            kind = disk.transport or "unknown kind"
            notes.add(f"disk {disk.name}: {what}", f"not told by the kernel for this disk ({kind})")


def _identity(place: attachment.Place) -> inquiry.Identity:
    """Serial, vendor, model and firmware from the best source there is."""
    sources = (_own_identity, _ata_identity, _scsi_identity, _udev_identity, _usb_identity)
    return inquiry.first_known([source(place) for source in sources])


def _own_identity(place: attachment.Place) -> inquiry.Identity:
    """NVMe, eMMC and virtio have files of their own. (SCSI's `model` and `rev` are cut short: not here.)"""
    device = place.device
    if place.name.startswith("nvme"):
        serial, model, firmware = (attachment.nvme_value(place, name) for name in ("serial", "model", "firmware_rev"))
        return inquiry.Identity(serial=serial, model=model, firmware=firmware)
    if place.name.startswith("mmcblk"):
        firmware = text_of(device / "fwrev")
        return inquiry.Identity(serial=text_of(device / "serial"), model=text_of(device / "name"), firmware=firmware)
    return inquiry.Identity(serial=text_of(place.folder / "serial"))


def _ata_identity(place: attachment.Place) -> inquiry.Identity:
    """The full ATA identity, which the kernel keeps as SCSI page 89h (since Linux 5.5)."""
    return inquiry.from_ata_page(inquiry.bytes_of(place.device / "vpd_pg89"))


def _scsi_identity(place: attachment.Place) -> inquiry.Identity:
    device = place.device
    vendor, model = text_of(device / "vendor"), text_of(device / "model")
    is_ata = vendor == "ATA"
    return inquiry.Identity(
        serial=inquiry.from_serial_page(inquiry.bytes_of(device / "vpd_pg80")),
        # Of an ATA disk these are cut to 16 and 4 letters: udev knows better where it runs.
        model=place.udev.get("ID_MODEL") if is_ata and place.udev.get("ID_MODEL") else model,
        firmware=place.udev.get("ID_REVISION") if is_ata and place.udev.get("ID_REVISION") else text_of(device / "rev"),
        vendor=None if is_ata or (vendor or "").startswith("0x") else vendor,
    )


def _udev_identity(place: attachment.Place) -> inquiry.Identity:
    """`ID_SERIAL_SHORT` of a SCSI disk is its WWN, so the unit's own serial number goes first."""
    names = ("SCSI_IDENT_SERIAL", "ID_SCSI_SERIAL", "ID_SERIAL_SHORT")
    serial = next((place.udev[name] for name in names if place.udev.get(name)), None)
    return inquiry.Identity(serial=serial, model=place.udev.get("ID_MODEL"), firmware=place.udev.get("ID_REVISION"))


def _usb_identity(place: attachment.Place) -> inquiry.Identity:
    """The serial number of the USB device that the disk sits behind."""
    folder = place.folder.resolve()
    while folder.name != "devices" and folder != folder.parent:
        if (folder / "idVendor").exists():
            return inquiry.Identity(serial=text_of(folder / "serial"))
        folder = folder.parent
    return inquiry.Identity()


def _wwn(place: attachment.Place) -> str | None:
    text = text_of(place.folder / "wwid") or text_of(place.device / "wwid")
    if text and text.startswith("naa."):
        return "0x" + text.removeprefix("naa.").lower()
    if text and not text.startswith("t10."):
        return text
    return place.udev.get("ID_WWN_WITH_EXTENSION") or place.udev.get("ID_WWN") or text


def _numa_node(host: Host, pci: str | None) -> int | None:
    node = int_of(host.sys("bus", "pci", "devices", pci, "numa_node")) if pci else None
    return node if node is not None and node >= 0 else None


def _namespace(place: attachment.Place) -> int | None:
    match = re.fullmatch(r"nvme\d+n(\d{1,9})", place.name)
    return int_of(place.folder / "nsid") or (int(match[1]) if match else None)


def _enclosure_slot(device: Path) -> str | None:
    links = [entry for entry in entries_of(device) if entry.name.startswith("enclosure_device:")]
    return links[0].name.partition(":")[2] or None if links else None


def _flag(path: Path) -> bool | None:
    return {"0": False, "1": True}.get(text_of(path) or "")


def _udev(host: Host, folder: Path) -> Mapping[str, str]:
    """What udev's database holds of a block device; empty where udev does not run."""
    number = text_of(folder / "dev")
    text = text_of(host.run("udev", "data", f"b{number}")) if number else None
    lines = (line.removeprefix("E:") for line in (text or "").splitlines() if line.startswith("E:"))
    return {name: value.strip() for name, _, value in (line.partition("=") for line in lines)}
