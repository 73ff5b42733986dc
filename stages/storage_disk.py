"""One disk as the Storage stage sees it: its name in findings, its floor, and whether it is still there."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from probes.apart import apart
from probes.block_use import device_number, is_virtual_media, size_of
from probes.disks import Disk
from probes.host import Host, text_of
from stages.stage import ExpectedDisk
from stages.storage_plan import Options

_EMULATED = re.compile(r"qemu|vbox|vmware|virtual|msft|bochs", re.IGNORECASE)
_READ_SECTORS = 2
_WRITTEN_SECTORS = 6
SECTOR = 512


@dataclass(frozen=True, slots=True)
class Subject:
    """A disk under test."""

    disk: Disk
    component: str
    """`disk:SERIAL`; where two disks have one serial, `disk:SERIAL/NAME`, so that neither hides the other."""

    @property
    def rotational(self) -> bool:
        return self.disk.rotational is True

    @property
    def label(self) -> str:
        """For a person: "sda (WDC WD40EFRX, serial WD-1)"."""
        model, serial = self.disk.model or "unknown model", self.disk.serial or "none"
        return f"{self.disk.name} ({model}, serial {serial})"


def subjects_of(disks: Sequence[Disk]) -> list[Subject]:
    """The disks under the names that findings give them."""
    names = Counter(disk.component for disk in disks)
    return [
        Subject(disk, disk.component if names[disk.component] == 1 else f"{disk.component}/{disk.name}")
        for disk in disks
    ]


def floor_of(disk: Disk, options: Options) -> float | None:
    """Sequential read rate (MB/s) that a sound disk of this kind reaches; None: no such expectation.

    By transport. A virtual machine's disk has the speed of what lies behind it, a USB bridge that of its port."""
    emulated = _EMULATED.search(f"{disk.vendor or ''} {disk.model or ''}") is not None
    if emulated or disk.transport not in {"nvme", "sata", "sas", "scsi", "raid"}:
        return options.floor_virtual_mb_s
    if disk.transport == "nvme":
        return options.floor_nvme_mb_s
    # A disk that does not say whether it turns is held to the lower of the two floors.
    return options.floor_ssd_mb_s if disk.rotational is False else options.floor_hdd_mb_s


def is_foreign(disk: Disk, expected_disks: Sequence[ExpectedDisk] | None) -> bool:
    """A stick, a card or a BMC's image that nobody counts as part of this server."""
    expected = {one.serial.strip() for one in expected_disks or ()}
    if disk.serial and disk.serial.strip() in expected:
        return False
    return disk.removable is True or is_virtual_media(f"{disk.vendor or ''} {disk.model or ''}")


async def open_apart(path: Path, flags: int) -> int:
    """A descriptor. The open of a dying disk can hang for minutes, and may succeed when nobody waits any more."""
    abandoned = threading.Event()

    def work() -> int:
        fd = os.open(path, flags)
        if abandoned.is_set():
            os.close(fd)
            raise OSError("opened too late")
        return fd

    try:
        return await apart(work, "open")
    except asyncio.CancelledError:
        abandoned.set()
        raise


def whereabouts(host: Host, fd: int, size_bytes: int) -> str | None:
    """None while the disk that `fd` is open on is there as it was, else what became of it."""
    try:
        number = device_number(os.fstat(fd).st_rdev)
        size = size_of(fd)
    except OSError as problem:
        return f"it answers no more: {problem.strerror}"
    if size == 0:
        return "its medium is gone: it has size 0 now"
    if not host.sys("dev", "block", number).exists():
        return "it left the bus: the kernel does not list it any more"
    if size != size_bytes:
        return f"its size changed from {size_bytes} to {size} bytes"
    return None


@dataclass(frozen=True, slots=True)
class Moved:
    """Bytes that the kernel counted on a disk since it came."""

    read: int
    written: int


def moved(host: Host, number: str) -> Moved | None:
    """By the kernel's own count (`stat` in sysfs), whatever any tool says. None when it cannot be read.

    Kernels before 6.4 do not count on an NVMe disk that lies below its subsystem (native multipath).
    """
    folder = host.sys("dev", "block", number)
    if "nvme-subsystem" in str(folder.resolve()) or text_of(folder / "queue/iostats") == "0":
        return None
    fields = (text_of(folder / "stat") or "").split()
    try:
        return Moved(int(fields[_READ_SECTORS]) * SECTOR, int(fields[_WRITTEN_SECTORS]) * SECTOR)
    except (IndexError, ValueError):
        return None
