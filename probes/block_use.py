"""Who uses a block device, and what kind of device it is: the facts that decide whether a disk may be written.

Everything is read through the major:minor number of a descriptor that is already open, never through a name:
names are reused by hot-plug. A fact that could not be read is None, with a line in `unread`; absence of
evidence is never taken for evidence of absence.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from probes.boot_medium import boot_devices
from probes.host import Host, entries_of, text_of

BLKGETSIZE64 = 0x80081272
SECTOR = 512

T = TypeVar("T")


class Transport(StrEnum):
    """How the disk is attached, as far as wiping is concerned."""

    SATA = "sata"
    SAS = "sas"
    SCSI = "scsi"
    """A SCSI disk of a local adapter without a transport class: a RAID volume, virtio-scsi."""
    NVME = "nvme"
    VIRTIO = "virtio"
    MMC = "mmc"
    USB = "usb"
    ISCSI = "iscsi"
    FIBRE_CHANNEL = "fibre channel"
    NVME_OVER_FABRICS = "nvme over fabrics"
    MULTIPATH = "multipath"
    VIRTUAL = "virtual"
    """Made by the kernel itself: loop, dm, md, zram, nbd, drbd."""


@dataclass(frozen=True, slots=True)
class BlockUse:
    """What the kernel says of one whole block device. None: could not be read."""

    device: str
    """major:minor, "8:0"."""
    name: str | None
    """The kernel's name now: "sda"."""
    size_bytes: int | None
    serial: str | None
    """The serial that sysfs shows; "" when the device has none."""
    transport: Transport | None
    removable: bool | None
    read_only: bool | None
    virtual_media: bool | None
    """True for a BMC's virtual disk or a USB gadget."""
    partitions: tuple[str, ...] | None
    mounted_at: tuple[str, ...] | None
    swaps: tuple[str, ...] | None
    holders: tuple[str, ...] | None
    """dm, md, multipath … devices on the disk or on a partition of it."""
    boot_medium: tuple[str, ...] | None
    """What says that this machine was booted from this disk."""
    unread: tuple[str, ...] = ()


def read(host: Host, fd: int) -> BlockUse:
    """The facts of the whole disk that `fd` is open on. Raises OSError when `fd` is no whole block device."""
    status = os.fstat(fd)
    if not stat.S_ISBLK(status.st_mode):
        raise OSError("the descriptor is not open on a block device")
    device = device_number(status.st_rdev)
    folder = host.sys("dev", "block", device).resolve()
    if (folder / "partition").exists():
        raise OSError(f"{device} is a partition, not a disk")
    reader = _Reader([])
    partitions = reader.fact("partitions", lambda: _partitions(folder))
    family = (device, *(number for _, number in partitions or ()))
    return BlockUse(
        device=device,
        name=folder.name if folder.is_dir() else None,
        size_bytes=reader.fact("size", lambda: size_of(fd)),
        serial=reader.fact("serial", lambda: serial_of(folder)),
        transport=reader.fact("transport", lambda: transport_of(folder)),
        removable=reader.fact("removable", lambda: _flag(folder / "removable")),
        read_only=reader.fact("ro", lambda: _flag(folder / "ro")),
        virtual_media=reader.fact("vendor and model", lambda: _virtual_media(folder)),
        partitions=None if partitions is None else tuple(name for name, _ in partitions),
        mounted_at=reader.fact("mounts", lambda: _mounts(host, family)),
        swaps=reader.fact("swaps", lambda: _swaps(host, family)),
        holders=reader.fact("holders", lambda: _holders(host, folder)),
        boot_medium=reader.fact("boot medium", lambda: boot_devices(host, family)),
        unread=tuple(reader.unread),
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    unread: list[str]

    def fact(self, what: str, read_it: Callable[[], T]) -> T | None:
        try:
            return read_it()
        except (OSError, ValueError) as problem:
            self.unread.append(f"{what}: {problem}")
            return None


def device_number(rdev: int) -> str:
    """ "8:0" for a device number of stat()."""
    return f"{os.major(rdev)}:{os.minor(rdev)}"


def size_of(fd: int) -> int:
    """Bytes of the block device (or file) that `fd` is open on. 0 when its medium has gone. Raises OSError."""
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode):
        return status.st_size
    size: int = struct.unpack("Q", fcntl.ioctl(fd, BLKGETSIZE64, b"\0" * 8))[0]
    return size


def serial_of(folder: Path) -> str:
    """The serial in a disk's sysfs folder: NVMe, MMC and virtio state it, SCSI and ATA have VPD page 80h.

    "" when the disk states none; raises OSError when the folder itself is not there.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is gone")
    for name in ("device/serial", "serial"):
        if serial := text_of(folder / name):
            return serial
    page = folder / "device/vpd_pg80"
    if page.exists():
        return page.read_bytes()[4:].decode("ascii", "replace").strip("\x00 ")
    return ""


def transport_of(folder: Path) -> Transport:
    """By the path of the device in sysfs. Raises ValueError for one that is not known to be local or remote."""
    path = str(folder)
    if folder.name.startswith("nvme"):
        return _nvme_transport(folder)
    for pattern, transport in _PATHS:
        if re.search(pattern, path):
            return transport
    raise ValueError(f"no known transport in {path}")


# In this order: a remote marker wins over the local adapter that it hangs off.
_PATHS: tuple[tuple[str, Transport], ...] = (
    (r"/session\d+/", Transport.ISCSI),
    (r"/(rport|vport|ctlr_|fc_|fcoe)[-_\d]", Transport.FIBRE_CHANNEL),
    (r"/devices/virtual/|/devices/rbd/|/etherd", Transport.VIRTUAL),
    (r"/usb\d+/", Transport.USB),
    (r"/mmc_host/", Transport.MMC),
    (r"/devices/pci.*/ata\d+/", Transport.SATA),
    (r"/devices/platform/.*/ata\d+/", Transport.SATA),
    (r"/devices/pci.*/end_device-", Transport.SAS),
    (r"/devices/(pci|platform).*/host\d+/", Transport.SCSI),
    (r"/devices/(pci|platform).*/virtio\d+/block/", Transport.VIRTIO),
)


def _nvme_transport(folder: Path) -> Transport:
    """A namespace lies below its controller, or below its subsystem where the kernel's multipath is on."""
    parent = folder.parent
    controllers = [entry for entry in entries_of(parent) if re.fullmatch(r"nvme\d+", entry.name)]
    if not controllers:
        controllers = [parent]
    transports = [text_of(controller / "transport") for controller in controllers]
    if None in transports:
        raise ValueError(f"no transport beside {folder}")
    if set(transports) != {"pcie"}:
        return Transport.NVME_OVER_FABRICS
    return Transport.NVME if len(transports) == 1 else Transport.MULTIPATH


def _flag(path: Path) -> bool:
    text = path.read_text().strip()
    if text not in {"0", "1"}:
        raise ValueError(f"{path.name} says {text!r}")
    return text == "1"


# Virtual media as BMCs name them (AMI MegaRAC, iDRAC, iLO, XCC, Supermicro), and the kernel's own USB gadget.
_VIRTUAL_MEDIA = re.compile(
    r"virtual\s*(media|floppy|cd|dvd|disk|hdisk|hard\s?disk|keyboard|usb|flash)|\bami\b|megarac|idrac|\bilo\b|lcdrive"
    r"|imm2?\b|xclarity|remote\s*(disk|media)|file-(cd|stor)\s*gadget|mass storage gadget|\bipmi\b|\bbmc\b",
    re.IGNORECASE,
)


def _virtual_media(folder: Path) -> bool:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is gone")
    return is_virtual_media(f"{text_of(folder / 'device/vendor') or ''} {text_of(folder / 'device/model') or ''}")


def is_virtual_media(vendor_and_model: str) -> bool:
    """Whether a disk calls itself what BMCs call the images that they lend over USB."""
    return _VIRTUAL_MEDIA.search(vendor_and_model) is not None


def _partitions(folder: Path) -> tuple[tuple[str, str], ...]:
    """Name and major:minor of each partition."""
    found = [entry for entry in folder.iterdir() if (entry / "partition").exists()]
    return tuple((entry.name, (entry / "dev").read_text().strip()) for entry in sorted(found))


def _holders(host: Host, folder: Path) -> tuple[str, ...]:
    """Devices built on the disk or its partitions, by their own word (`holders`) and by the builders' (`slaves`)."""
    names = [folder.name, *(name for name, _ in _partitions(folder))]
    folders = [folder, *(folder / name for name in names[1:])]
    holders = {entry.name for place in folders for entry in (place / "holders").iterdir()}
    for other in host.sys("block").iterdir():
        if any(slave.name in names for slave in entries_of(other / "slaves")):
            holders.add(other.name)
    return tuple(sorted(holders))


def _mounts(host: Host, family: Collection[str | None]) -> tuple[str, ...]:
    """Mount points of the disk and its partitions. btrfs mounts carry a number of their own, so that their source
    is looked at too; the exclusive open covers its further devices."""
    mounted = set()
    for line in host.proc("self", "mountinfo").read_text(errors="replace").splitlines():
        before, _, after = line.partition(" - ")
        fields, source = before.split(), after.split()[1:2]
        if len(fields) < 5 or not source:
            raise ValueError(f"a line of mountinfo could not be read: {line!r}")
        if fields[2] in family or _number_of(host, unescape(source[0])) in family:
            mounted.add(unescape(fields[4]))
    return tuple(sorted(mounted))


def _swaps(host: Host, family: Collection[str | None]) -> tuple[str, ...]:
    used = []
    for line in host.proc("swaps").read_text(errors="replace").splitlines()[1:]:
        path, kind = unescape(line.split()[0]), line.split()[1]
        number = _number_of(host, path)
        if kind == "partition" and number is None:
            raise ValueError(f"it is not known which disk the swap {path} lies on")
        if number in family:
            used.append(path)
    return tuple(used)


def _number_of(host: Host, path: str) -> str | None:
    """major:minor of a block device node; None for anything else."""
    if not path.startswith("/"):
        return None
    try:
        status = host.root.joinpath(path.lstrip("/")).stat()
    except OSError:
        return None
    return device_number(status.st_rdev) if stat.S_ISBLK(status.st_mode) else None


def unescape(text: str) -> str:
    """The kernel writes blanks in paths as octal: "\\040"."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
