"""How a disk is attached: its place in the tree of devices, its transport, its controller and driver."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from probes.host import Host, entries_of, text_of
from probes.pci import address_in, link_name

_NVME_CONTROLLER = re.compile(r"nvme\d+$")
_RAID_DRIVERS = frozenset(
    {"megaraid_sas", "megaraid", "hpsa", "cciss", "smartpqi", "aacraid", "arcmsr", "ips", "3w-sas", "3w-9xxx", "pm80xx"}
)
# Transports whose disk sits in this machine and nowhere else. What is not listed is taken for remote.
LOCAL_TRANSPORTS = frozenset({"nvme", "sata", "sas", "scsi", "raid", "virtio", "mmc", "ufs", "nvdimm", "xen", "hyperv"})


@dataclass(frozen=True, slots=True)
class Place:
    """One block device in sysfs: where it really lies, and what udev knows of it."""

    name: str
    folder: Path
    path: str
    """Its place in the tree of devices, below sysfs."""
    udev: Mapping[str, str]
    host: Host

    @property
    def device(self) -> Path:
        return self.folder / "device"


def transport(place: Place) -> str | None:
    """How the disk is attached, by its name, its place in the tree of devices, and its driver."""
    by_name = {"vd": "virtio", "mmcblk": "mmc", "nbd": "nbd", "rbd": "rbd", "pmem": "nvdimm", "xvd": "xen"}
    for head, kind in by_name.items():
        if place.name.startswith(head):
            return kind
    if place.name.startswith("nvme"):
        carrier = nvme_value(place, "transport") or ("pcie" if address_in(place.path) else None)
        return None if carrier is None else "nvme" if carrier == "pcie" else "nvme-of"
    by_path = {r"/usb\d": "usb", r"/session\d": "iscsi", "/rport-": "fc", r"/virtio\d": "virtio", "(?i)vmbus": "hyperv"}
    for pattern, kind in by_path.items():
        if re.search(pattern, place.path):
            return kind
    return _scsi_transport(place)


def _scsi_transport(place: Place) -> str | None:
    if text_of(place.device / "vendor") == "ATA" or re.search(r"/ata\d", place.path):
        return "sata"
    if "/end_device-" in place.path or (place.device / "sas_address").exists():
        return "sas"
    host_driver = _scsi_host_driver(place)
    if host_driver in _RAID_DRIVERS:
        return "raid"
    if host_driver == "ufshcd":
        return "ufs"
    return "scsi" if hctl(place.path) else None


def _scsi_host_driver(place: Place) -> str | None:
    match = re.search(r"/(host\d+)/", place.path)
    return text_of(place.host.sys("class", "scsi_host", match[1], "proc_name")) if match else None


def driver(place: Place, pci: str | None) -> str | None:
    """The driver of the controller; of a device without one, of the PCI function at `pci`."""
    if nvme_controller(place):
        return "nvme"
    name = _scsi_host_driver(place) or link_name(place.device / "driver")
    if name and name != "sd":  # that one drives every SCSI disk
        return name
    return link_name(place.host.sys("bus", "pci", "devices", pci, "driver")) if pci else name


def nvme_controller(place: Place) -> str | None:
    """`nvme0` for `nvme0n1`; None for other disks."""
    match = re.match(r"nvme\d+", place.name)
    return match[0] if match else None


def nvme_value(place: Place, name: str) -> str | None:
    """An attribute of the namespace's controller; with native multipath, of one controller of its subsystem."""
    if not place.name.startswith("nvme"):
        return None
    controllers = [entry for entry in entries_of(place.device) if _NVME_CONTROLLER.match(entry.name)]
    by_class = place.host.sys("class", "nvme", nvme_controller(place) or "")
    candidates: Sequence[Path] = (place.device, *controllers, by_class)
    return next((text for folder in candidates if (text := text_of(folder / name))), None)


def hctl(path: str) -> str | None:
    """SCSI host:channel:target:lun in a place in the tree of devices."""
    match = re.search(r"/(\d+:\d+:\d+:\d+)/block/", path)
    return match[1] if match else None
