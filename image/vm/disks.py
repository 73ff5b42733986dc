"""The disks of a virtual machine: `kind:size[:serial]`, as sparse files, or a file that is there."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = ("nvme", "sata", "scsi", "virtio")
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True, slots=True)
class Disk:
    """One disk. `size` in bytes; None: `file` is there already, or `block` is something else than a file."""

    kind: str
    serial: str
    """Empty: a disk that tells none, which an NVMe cannot be."""
    size: int | None = None
    file: Path | None = None
    block: Mapping[str, Any] | None = None
    """A block device in QEMU's own words (`-blockdev`), `{"driver": "nbd", …}`, instead of a file."""
    options: str = ""
    """More of the device's properties: `logical_block_size=4096,physical_block_size=4096`."""
    bytes_per_s: int | None = None
    """QEMU gives it no more, read or written; only for a disk that is a file."""
    can_leave: bool = False
    """It hangs on a port of its own, and can be pulled out of the running machine. NVMe and virtio."""

    def prepared(self, folder: Path, number: int) -> Path | None:
        """Its file, made if need be; None for a block device of another kind. Raises OSError."""
        if self.block is not None:
            return None
        if self.file is not None:
            return self.file.resolve(strict=True)
        assert self.size is not None
        path = folder / f"disk{number}.img"
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


def arguments(disks: list[tuple[Disk, Path | None]]) -> list[str]:
    """QEMU's arguments for these disks and the adapters that they hang on (q35: its own AHCI for SATA).

    The Nth one is the device `diskN`, and its block device the node `blockN`.
    """
    argv: list[str] = []
    if any(one.kind == "scsi" for one, _ in disks):
        argv += ["-device", "virtio-scsi-pci,id=scsi"]
    sata = iter(range(6))
    for number, (one, path) in enumerate(disks):
        block = _block(one, path)
        if one.bytes_per_s is not None:
            argv += ["-object", f"throttle-group,id=limit{number},x-bps-total={one.bytes_per_s}"]
            block = {"driver": "throttle", "throttle-group": f"limit{number}", "file": block}
        argv += ["-blockdev", json.dumps({**block, "node-name": f"block{number}"})]
        argv += _slot(number) if one.can_leave else []
        argv += ["-device", ",".join(_device(one, number, sata))]
    return argv


def _block(one: Disk, path: Path | None) -> dict[str, Any]:
    if one.block is not None:
        return dict(one.block)
    return {"driver": "raw", "discard": "unmap", "file": {"driver": "file", "filename": str(path)}}


def _slot(number: int) -> list[str]:
    return ["-device", f"pcie-root-port,id=slot{number},chassis={number + 1},slot={number + 1}"]


def _device(one: Disk, number: int, sata: Iterator[int]) -> list[str]:
    words = {
        "nvme": ["nvme"],
        "sata": ["ide-hd", "rotation_rate=1"],
        "scsi": ["scsi-hd", "bus=scsi.0"],
        "virtio": ["virtio-blk-pci"],
    }[one.kind]
    words += [f"id=disk{number}", f"drive=block{number}"]
    words += [f"bus=ide.{next(sata)}"] if one.kind == "sata" else []
    words += [f"bus=slot{number}"] if one.can_leave else []
    words += [f"serial={one.serial}"] if one.serial else []
    return words + ([one.options] if one.options else [])
