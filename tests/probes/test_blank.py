"""What holds data is seen twice over: by libblkid's signatures, and by blocks that are not all alike.

Recorded are the pages that the real mkfs and its kind wrote (tests/fixtures/signatures, each with its origin). What no
tool at hand makes is written by its magic numbers where libblkid looks for them.
"""

from __future__ import annotations

import base64
import json
import os
import struct
import subprocess
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from image.lab.contents import zfs_label
from probes import blank
from probes.host import Host
from stages.wipe_guard import Allowed, Refused, decide
from tests.stages.test_wipe_guard import DATA, GOOD, HOST, RUN
from tests.support.stand_ins import StandIns

RECORDED = Path(__file__).parents[1] / "fixtures/signatures"
MIB = 2**20
SIZE = 64 * MIB


@dataclass(frozen=True)
class Image:
    """A disk's content: pieces by offset, zeros elsewhere. `types`: what libblkid calls it, one of them at least."""

    size_bytes: int
    pieces: Mapping[int, bytes]
    types: frozenset[str]

    def write(self, path: Path) -> Path:
        with path.open("wb") as file:
            file.truncate(self.size_bytes)
            for offset, data in self.pieces.items():
                file.seek(offset)
                file.write(data)
        return path


def recorded(path: Path) -> Image:
    content = json.loads(path.read_text())
    pages = {int(offset): zlib.decompress(base64.b64decode(page)) for offset, page in content["pages"].items()}
    return Image(content["size_bytes"], pages, frozenset(content["types"]))


def made(name: str, pieces: Mapping[int, bytes]) -> Image:
    return Image(SIZE, pieces, frozenset({name}))


MD_1_2 = struct.pack("<IIII", 0xA92B4EFC, 1, 0, 0) + bytes(128) + struct.pack("<Q", 8)
BITLOCKER = b"\xebX\x90-FVE-FS-".ljust(176, b"\0") + struct.pack("<Q", 0x10000)
GFS2 = struct.pack(">IIQII", 0x01161970, 1, 0, 100, 0) + struct.pack(">II", 1801, 1900)
MBR = bytes(446) + struct.pack("<BBBBBBBBII", 0x80, 1, 1, 0, 0x83, 254, 255, 255, 2048, 100000) + bytes(48) + b"U\xaa"

MADE = {
    "zfs": made("zfs_member", {0: zfs_label()}),
    "ceph-bluestore": made("ceph_bluestore", {0: b"bluestore block device\n"}),
    "vmfs-volume": made("VMFS_volume_member", {MIB: bytes.fromhex("0dd001c0") + bytes(508)}),
    "vmfs": made("VMFS", {2 * MIB: bytes.fromhex("5ef1ab2f") + bytes(508)}),
    "gfs2": made("gfs2", {64 * 1024: GFS2 + b"lock_dlm".rjust(16)}),
    "bitlocker": made("BitLocker", {0: BITLOCKER, 0x10000: b"-FVE-FS-" + bytes(64)}),
    "md-1.2": made("linux_raid_member", {4096: MD_1_2}),
    "intel-raid": made("isw_raid_member", {SIZE - 1024: b"Intel Raid ISM Cfg Sig. 1.1.00".ljust(512, b"\0")}),
    "mbr": made("dos", {0: MBR}),
}
KNOWN = MADE | {path.stem: recorded(path) for path in sorted(RECORDED.glob("*.json"))}
UNKNOWN = {
    "gpfs-nsd": {1024: b"NSD descriptor in /dev/sdx created by GPFS"},
    "encrypted": {4096: os.urandom(4096)},
    "oracle-asm": {32: b"ORCLDISKDATA1"},
    "one-byte-at-the-end": {SIZE - 1: b"\1"},
}
"""Nothing that libblkid knows."""


async def look(host: Host, path: Path) -> blank.Content:
    fd = os.open(path, os.O_RDONLY)
    try:
        return await blank.look(host, fd, path.stat().st_size)
    finally:
        os.close(fd)


def decided(content: blank.Content) -> Allowed | Refused:
    """The guard's word on a disk that is all that it should be, but for its content."""
    return decide(replace(GOOD, signatures=content.signatures, blank=content.blank), HOST, RUN)


def test_enough_kinds_are_recorded() -> None:
    wanted = {"ext4", "xfs", "btrfs", "f2fs", "ntfs", "vfat", "swap", "gpt", "gpfs", "luks", "bcache", "lvm"}
    assert wanted <= set(KNOWN)
    assert all("Written by" in json.loads(path.read_text())["origin"] for path in RECORDED.glob("*.json"))


@pytest.mark.parametrize("name", KNOWN)
async def test_each_signature_is_known_by_name_and_refused(tmp_path: Path, host: Host, name: str) -> None:
    content = await look(host, KNOWN[name].write(tmp_path / "disk.img"))
    assert content.signatures
    assert KNOWN[name].types & {one.partition(" ")[0] for one in content.signatures}, content.signatures
    refused = decided(content)
    assert isinstance(refused, Refused)
    assert refused.code is DATA
    assert content.signatures[0] in refused.sentence


@pytest.mark.parametrize("name", KNOWN)
async def test_each_is_refused_even_where_no_signature_is_seen(
    tmp_path: Path, host: Host, stand_ins: StandIns, name: str
) -> None:
    """An older libblkid, or one that was built without it: such a disk is not blank all the same."""
    stand_ins.says("wipefs", '{"signatures": []}')
    content = await look(host, KNOWN[name].write(tmp_path / "disk.img"))
    assert content.signatures == ()
    assert content.blank is False
    assert isinstance(decided(content), Refused)


@pytest.mark.parametrize("name", UNKNOWN)
async def test_what_libblkid_does_not_know_is_not_blank(tmp_path: Path, host: Host, name: str) -> None:
    image = Image(SIZE, UNKNOWN[name], frozenset()).write(tmp_path / "disk.img")
    content = await look(host, image)
    assert content.blank is False
    assert isinstance(decided(content), Refused)


@pytest.mark.parametrize("pattern", ["0000000000000000", "ffffffffffffffff", "a55a00ffdeadbeef"])
async def test_a_disk_of_one_pattern_is_blank(tmp_path: Path, host: Host, pattern: str) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes.fromhex(pattern) * (2 * MIB // 8))
    content = await look(host, path)
    assert (content.signatures, content.blank, content.pattern) == ((), True, pattern)
    assert isinstance(decided(content), Allowed)


@pytest.mark.parametrize("tool", ["mkfs.ext4", "mkswap"])
async def test_what_the_tools_of_this_machine_write_is_refused(tmp_path: Path, host: Host, tool: str) -> None:
    """The recordings age; these two are on every Linux."""
    path = Image(SIZE, {}, frozenset()).write(tmp_path / "disk.img")
    subprocess.run([tool, "-q", path], check=True, capture_output=True)  # noqa: ASYNC221  # a moment, and nothing else runs
    assert isinstance(decided(await look(host, path)), Refused)
