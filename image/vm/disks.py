"""The disks of a virtual machine: `kind:size[:serial]`, as sparse files, or a file that is there."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

KINDS = ("nvme", "sata", "scsi", "virtio")
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True, slots=True)
class Disk:
    """One disk. `size` in bytes; None: `file` is there already."""

    kind: str
    serial: str
    size: int | None = None
    file: Path | None = None

    def prepared(self, folder: Path) -> Path:
        """Its file, made if need be. Raises OSError."""
        if self.file is not None:
            return self.file.resolve(strict=True)
        assert self.size is not None
        path = folder / f"{self.kind}-{self.serial}.img"
        with path.open("wb") as made:
            made.truncate(self.size)
        return path


def disk(text: str) -> Disk:
    """`nvme:8G:SERIAL`, `sata:/path/to/file:SERIAL`. Raises ArgumentTypeError."""
    kind, _, rest = text.partition(":")
    size, _, serial = rest.partition(":")
    if kind not in KINDS:
        raise argparse.ArgumentTypeError(f"a disk is {', '.join(KINDS)}, not {kind!r}")
    if not re.fullmatch(r"[A-Za-z0-9_-]{0,20}", serial):
        raise argparse.ArgumentTypeError(f"a serial number is up to 20 letters and digits, not {serial!r}")
    serial = serial or f"VET{kind.upper()}"
    if "/" in size:
        return Disk(kind, serial, file=Path(size))
    return Disk(kind, serial, size=_bytes(size))


def _bytes(text: str) -> int:
    match = re.fullmatch(r"([0-9]+)([KMGT])i?B?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"a size is a number with K, M, G or T, not {text!r}")
    return int(match[1]) * UNITS[match[2]]


def arguments(disks: list[tuple[Disk, Path]]) -> list[str]:
    """QEMU's arguments for these disks and the adapters that they hang on (q35: its own AHCI for SATA)."""
    argv: list[str] = []
    if any(one.kind == "scsi" for one, _ in disks):
        argv += ["-device", "virtio-scsi-pci,id=scsi0"]
    slots = 0
    for number, (one, path) in enumerate(disks):
        drive = f"disk{number}"
        argv += ["-drive", f"if=none,id={drive},format=raw,discard=unmap,file={str(path).replace(',', ',,')}"]
        if one.kind == "nvme":
            argv += ["-device", f"nvme,id=nvme{number},serial={one.serial},drive={drive}"]
        elif one.kind == "sata":
            argv += ["-device", f"ide-hd,bus=ide.{slots},serial={one.serial},drive={drive},rotation_rate=1"]
            slots += 1
        elif one.kind == "scsi":
            argv += ["-device", f"scsi-hd,bus=scsi0.0,serial={one.serial},drive={drive}"]
        else:
            argv += ["-device", f"virtio-blk-pci,serial={one.serial},drive={drive}"]
    return argv
