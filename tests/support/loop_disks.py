"""A made-up machine whose disks are loop devices over files of the test: real kernel, real tools, real errors.

The sysfs tree says "SATA disk with this serial"; behind the device node is a loop device that the test made.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from probes.host import Host
from probes.tools import Tools

MIB = 2**20
CONTROLLER = "0000:00:1f.2"


@dataclass
class LoopDisk:
    """One loop device and the file behind it."""

    name: str
    serial: str
    backing: Path
    device: Path
    number: str

    def truncate(self, size: int) -> None:
        """Cut the file under the running device: requests beyond its new end fail with EIO."""
        os.truncate(self.backing, size)

    def resize(self) -> None:
        """Make the device as long as its file is by now."""
        subprocess.run(["losetup", "-c", self.device], check=True)

    def overwrite(self, offset: int, data: bytes) -> None:
        """Change what is on the disk behind its back."""
        with self.backing.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def content(self) -> bytes:
        return self.backing.read_bytes()


@dataclass
class LoopMachine:
    """A root folder with proc, sys and dev of a machine whose disks are loop devices."""

    root: Path
    tools: Tools
    disks: list[LoopDisk] = field(default_factory=list)

    @property
    def host(self) -> Host:
        return Host(root=self.root, tools=self.tools)

    def add(
        self,
        name: str,
        serial: str,
        size: int,
        *,
        rotational: bool = False,
        removable: bool = False,
        controller: str = CONTROLLER,
    ) -> LoopDisk:
        """A SATA disk of `size` bytes, all zero, at the controller of that PCI address."""
        backing = self.root / f"{name}.img"
        with backing.open("wb") as file:
            file.truncate(size)
        return self.add_file(name, serial, backing, rotational=rotational, removable=removable, controller=controller)

    def add_file(
        self,
        name: str,
        serial: str,
        backing: Path,
        *,
        rotational: bool = False,
        removable: bool = False,
        controller: str = CONTROLLER,
    ) -> LoopDisk:
        made = subprocess.run(["losetup", "--show", "-f", backing], check=True, capture_output=True, text=True)
        device = Path(made.stdout.strip())
        rdev = device.stat().st_rdev
        disk = LoopDisk(name, serial, backing, device, f"{os.major(rdev)}:{os.minor(rdev)}")
        self.disks.append(disk)
        os.mknod(self.root / "dev" / name, 0o600 | 0o060000, rdev)
        self._describe(disk, controller, rotational=rotational, removable=removable)
        return disk

    def folder(self, disk: LoopDisk) -> Path:
        """The disk's folder in the made-up sysfs."""
        return (self.root / "sys/block" / disk.name).resolve()

    def _describe(self, disk: LoopDisk, controller: str, *, rotational: bool, removable: bool) -> None:
        index = len(self.disks)
        device = (
            self.root / f"sys/devices/pci0000:00/{controller}/ata{index}/host{index}/target{index}:0:0/{index}:0:0:0"
        )
        folder = device / "block" / disk.name
        for made in (folder / "holders", folder / "queue"):
            made.mkdir(parents=True)
        files = {
            "size": str(disk.backing.stat().st_size // 512),
            "removable": str(int(removable)),
            "ro": "0",
            "dev": disk.number,
            "queue/rotational": str(int(rotational)),
            "queue/logical_block_size": "512",
        }
        for file, text in files.items():
            (folder / file).write_text(text + "\n")
        (folder / "stat").symlink_to(f"/sys/dev/block/{disk.number}/stat")
        (folder / "device").symlink_to(device)
        (device / "vendor").write_text("ATA     \n")
        (device / "model").write_text("Loop Disk 1000\n")
        page = disk.serial.encode()
        (device / "vpd_pg80").write_bytes(bytes([0, 0x80, 0, len(page)]) + page)
        for link in (self.root / "sys/block" / disk.name, self.root / "sys/dev/block" / disk.number):
            link.symlink_to(folder)


@contextlib.contextmanager
def loop_machine(root: Path, tools: Tools) -> Iterator[LoopMachine]:
    """A machine without disks yet, in an empty folder; its loop devices are gone when the block is left."""
    for folder in ("proc/self", "sys/block", "sys/dev/block", "dev/disk/by-partuuid", "run"):
        (root / folder).mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text("22 1 0:5 / / rw - tmpfs tmpfs rw\n")
    (root / "proc/swaps").write_text("Filename\tType\tSize\tUsed\tPriority\n")
    (root / "proc/cmdline").write_text("BOOT_IMAGE=/vmlinuz boot=live\n")
    (root / "dev/kmsg").symlink_to("/dev/kmsg")
    machine = LoopMachine(root, tools)
    try:
        yield machine
    finally:
        for disk in machine.disks:
            subprocess.run(["losetup", "-d", disk.device], check=False, capture_output=True)
