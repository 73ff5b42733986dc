"""What lies on the disks of somebody who forgot to wipe them: file systems, swap, LVM, LUKS, md and ZFS members.

Made on the host by the real tools, where these need no kernel of their own (md and ZFS do: their labels are laid down
here, as the formats' documentation has them). blkid must recognise each one before a row relies on it.
"""

# ruff: noqa: S603 - programs by name, with arguments of our own: what this file is for
from __future__ import annotations

import struct
import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from image.lab.scene import Scene, WrongTurn
from image.vm.disks import Disk

KIB, MIB = 2**10, 2**20
SIZE = 64 * MIB
TOOL_LIMIT_S = 60.0
LVM_CONFIG = """devices {{ filter=["a|{device}|","r|.*|"] use_devicesfile=0 }} backup {{ backup=0 archive=0 }}
global {{ event_activation=0 }} activation {{ udev_sync=0 udev_rules=0 monitoring=0 }}"""


def ext4(file: Path) -> None:
    _run("mkfs.ext4", "-q", "-F", file)


def swap(file: Path) -> None:
    _run("mkswap", file)


def vfat(file: Path) -> None:
    _run("mkfs.vfat", file)


def luks(file: Path) -> None:
    quick = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
    _run("cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", *quick, file, "-", given=b"secret")


def lvm(file: Path) -> None:
    with _loop(file) as device:
        config = LVM_CONFIG.format(device=device)
        _run("pvcreate", "--config", config, device)
        _run("vgcreate", "--config", config, f"vet{uuid.uuid4().hex[:8]}", device)


def md(file: Path) -> None:
    """A member of a RAID 1 of two disks, version 1.2: `struct mdp_superblock_1` of linux/raid/md_p.h at 4 KiB."""
    size, data = file.stat().st_size // 512, 2048
    constant = struct.pack("<4I16s32sQIIQ", 0xA92B4EFC, 1, 0, 0, uuid.uuid4().bytes, b"vet:0", 0, 1, 0, size - data)
    constant += struct.pack("<IIIIQIIII", 0, 2, 0, 0, 0, 0, 0, 0, 0)
    device = struct.pack("<QQQQII16sBBHI", data, size - data, 8, 0, 0, 0, uuid.uuid4().bytes, 0, 0, 0, 0)
    roles = struct.pack("<2H", 0, 1)
    state = struct.pack("<QQQ", 0, 1, 2**64 - 1)
    whole = constant + device + state + struct.pack("<II32s", 0, 2, b"") + roles
    total = sum(struct.unpack(f"<{len(whole) // 4}I", whole))
    checksum = (total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF
    at = len(constant) + len(device) + len(state)
    _write(file, 4 * KIB, whole[:at] + struct.pack("<I", checksum) + whole[at + 4 :])


def zfs(file: Path) -> None:
    """A vdev: four labels of 256 KiB, two at either end."""
    size = file.stat().st_size // (256 * KIB) * 256 * KIB
    for label in (0, 256 * KIB, size - 512 * KIB, size - 256 * KIB):
        _write(file, label, zfs_label())


def zfs_label() -> bytes:
    """What libblkid looks for: a list of names and values (XDR) at 16 KiB; in older versions the ring of uberblocks."""
    numbers = {"version": 5000, "state": 0, "txg": 4, "pool_guid": 0x5001, "top_guid": 0x5002, "guid": 0x5002}
    pairs = [_pair("name", 9, _xdr("tank"))]
    pairs += [_pair(name, 8, struct.pack(">Q", number)) for name, number in numbers.items()]
    pool = bytes([1, 1, 0, 0]) + struct.pack(">II", 0, 1) + b"".join(pairs) + bytes(8)
    uberblock = struct.pack("<5Q", 0x00BAB10C, 5000, 4, 0x1234, 1700000000)
    return bytes(16 * KIB) + pool.ljust(112 * KIB, b"\0") + uberblock.ljust(KIB, b"\0") * 128


def _pair(name: str, kind: int, value: bytes) -> bytes:
    """One value of a list: its size, its size in memory, its name, its type, how many there are."""
    body = _xdr(name) + struct.pack(">II", kind, 1) + value
    return struct.pack(">II", len(body) + 8, len(body) + 8) + body


def _xdr(text: str) -> bytes:
    raw = text.encode()
    return struct.pack(">I", len(raw)) + raw + bytes(-len(raw) % 4)


KINDS: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "EXT4": (ext4, "ext4"),
    "SWAP": (swap, "swap"),
    "VFAT": (vfat, "vfat"),
    "LUKS": (luks, "crypto_LUKS"),
    "LVM": (lvm, "LVM2_member"),
    "MD": (md, "linux_raid_member"),
    "ZFS": (zfs, "zfs_member"),
}
"""By the serial number of the disk that bears it: how it is made, and what blkid calls it."""


def full(scene: Scene, kind: str, how: str = "scsi", size: int = SIZE) -> Disk:
    """A disk with that content and serial number. Raises WrongTurn where it could not be made, or blkid does not see
    what it is."""
    file = scene.folder / f"{kind}.img"
    with file.open("wb") as made:
        made.truncate(size)
    make, name = KINDS[kind]
    make(file)
    # Something that no tool would put back, wherever it is overwritten.
    _write(file, size // 2, f"the data of {kind}".encode() * 256)
    said = _run("blkid", "-p", "-o", "value", "-s", "TYPE", file).strip()
    if said != name:
        raise WrongTurn(f"blkid takes {kind} for {said or 'nothing'}")
    return Disk(how, kind, file=file)


def _write(file: Path, offset: int, data: bytes) -> None:
    with file.open("r+b") as disk:
        disk.seek(offset)
        disk.write(data)


@contextmanager
def _loop(file: Path) -> Iterator[str]:
    device = _run("losetup", "--find", "--show", file).strip()
    try:
        yield device
    finally:
        _run("losetup", "--detach", device)


def _run(*words: str | Path, given: bytes = b"") -> str:
    argv = [str(word) for word in words]
    try:
        done = subprocess.run(argv, input=given, capture_output=True, timeout=TOOL_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise WrongTurn(f"{argv[0]}: {problem}") from None
    if done.returncode:
        raise WrongTurn(
            f"{argv[0]}: exit code {done.returncode}: {done.stderr.decode(errors='replace').strip()[-300:]}"
        )
    return done.stdout.decode(errors="replace")
