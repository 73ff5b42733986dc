"""Who uses a block device: by the kernel's own files, real and made up; and whether it is blank."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from probes import blank, block_use, reservation
from probes.block_use import Transport, is_virtual_media, transport_of
from probes.boot_medium import EFI_GLOBAL
from probes.host import Host
from probes.tools import ToolResult
from tests.support.loop_disks import MIB, LoopDisk, LoopMachine, loop_machine
from tests.support.stand_ins import StandIns

DEVICES = "sys/devices"
PCI = f"{DEVICES}/pci0000:00/0000:00:1f.2"


@pytest.mark.parametrize(
    ("path", "transport"),
    [
        (f"{PCI}/ata1/host0/target0:0:0/0:0:0:0/block/sda", Transport.SATA),
        (f"{PCI}/host0/port-0:0/end_device-0:0/target0:0:0/0:0:0:0/block/sda", Transport.SAS),
        (f"{PCI}/host0/port-0:0/expander-0:0/port-0:0:1/end_device-0:0:1/target0:0:1/0:0:1:0/block/sdb", Transport.SAS),
        (f"{PCI}/host0/target0:2:0/0:2:0:0/block/sda", Transport.SCSI),
        (f"{DEVICES}/pci0000:00/0000:00:04.0/virtio1/host6/target6:0:0/6:0:0:1/block/sda", Transport.SCSI),
        (f"{DEVICES}/pci0000:00/0000:00:02.0/virtio1/block/vda", Transport.VIRTIO),
        (f"{DEVICES}/platform/soc/fe310000.mmc/mmc_host/mmc0/mmc0:0001/block/mmcblk0", Transport.MMC),
        (f"{DEVICES}/pci0000:00/0000:00:14.0/usb1/1-4/1-4:1.0/host6/target6:0:0/6:0:0:0/block/sdb", Transport.USB),
        (f"{DEVICES}/platform/host3/session1/target3:0:0/3:0:0:1/block/sdc", Transport.ISCSI),
        (f"{PCI}/host7/rport-7:0-0/target7:0:0/7:0:0:0/block/sdd", Transport.FIBRE_CHANNEL),
        (f"{DEVICES}/virtual/block/loop0", Transport.VIRTUAL),
        (f"{DEVICES}/virtual/block/dm-0", Transport.VIRTUAL),
        (f"{DEVICES}/rbd/0/block/rbd0", Transport.VIRTUAL),
    ],
)
def test_the_place_in_the_device_tree_tells_the_transport(path: str, transport: Transport) -> None:
    assert transport_of(Path("/", path)) is transport


@pytest.mark.parametrize("path", ["/sys/devices/pseudo_0/adapter0/host2/target2:0:0/2:0:0:0/block/sda", "/sys/block/x"])
def test_an_unknown_place_is_no_transport(path: str) -> None:
    with pytest.raises(ValueError, match="no known transport"):
        transport_of(Path(path))


@pytest.mark.parametrize(
    ("controllers", "transport"),
    [
        ({"nvme0": "pcie"}, Transport.NVME),
        ({"nvme0": "tcp"}, Transport.NVME_OVER_FABRICS),
        ({"nvme0": "rdma", "nvme1": "rdma"}, Transport.NVME_OVER_FABRICS),
        ({"nvme0": "pcie", "nvme1": "fc"}, Transport.NVME_OVER_FABRICS),
        ({"nvme0": "pcie", "nvme1": "pcie"}, Transport.MULTIPATH),
    ],
)
def test_nvme_below_its_subsystem(tmp_path: Path, controllers: dict[str, str], transport: Transport) -> None:
    subsystem = tmp_path / "devices/virtual/nvme-subsystem/nvme-subsys0"
    (subsystem / "nvme0n1").mkdir(parents=True)
    for name, said in controllers.items():
        (subsystem / name).mkdir()
        (subsystem / name / "transport").write_text(said + "\n")
    assert transport_of(subsystem / "nvme0n1") is transport


def test_nvme_below_its_controller(tmp_path: Path) -> None:
    controller = tmp_path / "devices/pci0000:00/0000:01:00.0/nvme/nvme0"
    (controller / "nvme0n1").mkdir(parents=True)
    with pytest.raises(ValueError, match="no transport"):
        transport_of(controller / "nvme0n1")
    (controller / "transport").write_text("pcie\n")
    assert transport_of(controller / "nvme0n1") is Transport.NVME


@pytest.mark.parametrize(
    "words",
    [
        "AMI Virtual HDisk0",
        "AMI Virtual Floppy0",
        "iDRAC  Virtual CD",
        "Linux File-Stor Gadget",
        "HPE iLO LUN 00",
        "IPMI Virtual Disk",
    ],
)
def test_what_bmcs_lend_is_virtual_media(words: str) -> None:
    assert is_virtual_media(words)


@pytest.mark.parametrize(
    "words", ["ATA Samsung SSD 860", "SEAGATE ST4000NM0023", "ATA WDC WD40EFRX-68N", "", "ATA MICRON"]
)
def test_what_disks_are_called_is_not(words: str) -> None:
    assert not is_virtual_media(words)


# --- on a loop device behind a made-up sysfs ----------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path: Path, stand_ins: StandIns) -> Iterator[LoopMachine]:
    with loop_machine(tmp_path / "machine", stand_ins.tools()) as made:
        made.add("sda", "SER-A", 4 * MIB)
        yield made


def use_of(machine: LoopMachine) -> block_use.BlockUse:
    fd = os.open(machine.root / "dev/sda", os.O_RDONLY)
    try:
        return block_use.read(machine.host, fd)
    finally:
        os.close(fd)


@pytest.mark.root
def test_an_idle_disk(machine: LoopMachine) -> None:
    use = use_of(machine)
    assert use == block_use.BlockUse(
        device=machine.disks[0].number,
        name="sda",
        size_bytes=4 * MIB,
        serial="SER-A",
        transport=Transport.SATA,
        removable=False,
        read_only=False,
        virtual_media=False,
        partitions=(),
        mounted_at=(),
        swaps=(),
        holders=(),
        boot_medium=(),
    )


def add_partition(machine: LoopMachine, number: str) -> None:
    part = machine.folder(machine.disks[0]) / "sda1"
    (part / "holders").mkdir(parents=True)
    (part / "partition").write_text("1\n")
    (part / "dev").write_text(f"{number}\n")


@pytest.mark.root
def test_a_partition_in_use_is_a_disk_in_use(machine: LoopMachine) -> None:
    add_partition(machine, "259:77")
    (machine.root / "proc/self/mountinfo").write_text("40 1 259:77 / /srv\\040x rw - ext4 /dev/sda1 rw\n")
    (machine.folder(machine.disks[0]) / "sda1/holders/dm-3").mkdir()
    use = use_of(machine)
    assert use.partitions == ("sda1",)
    assert use.mounted_at == ("/srv x",)
    assert use.holders == ("dm-3",)


@pytest.mark.root
def test_a_btrfs_mount_is_found_by_its_source(machine: LoopMachine) -> None:
    (machine.root / "proc/self/mountinfo").write_text("40 1 0:33 / /data rw shared:1 - btrfs /dev/sda rw\n")
    assert use_of(machine).mounted_at == ("/data",)


@pytest.mark.root
@pytest.mark.parametrize(
    "word", ["root=/dev/sda", "live-media=/dev/sda", "root=UUID=abc", "root=live:LABEL=LIVE", "resume=PARTUUID=p1"]
)
def test_the_kernel_command_line_names_the_boot_medium(machine: LoopMachine, word: str) -> None:
    for folder, name in (("by-uuid", "abc"), ("by-label", "LIVE"), ("by-partuuid", "p1")):
        (machine.root / "dev/disk" / folder).mkdir(exist_ok=True)
        (machine.root / "dev/disk" / folder / name).symlink_to(machine.root / "dev/sda")
    (machine.root / "proc/cmdline").write_text(f"quiet {word} splash\n")
    assert use_of(machine).boot_medium == (word,)


@pytest.mark.root
def test_the_firmwares_current_entry_names_the_boot_medium(machine: LoopMachine) -> None:
    guid = uuid.UUID("6f8c1b5e-0d5d-4c39-9c0a-6a9f3a8b1c2d")
    (machine.root / f"dev/disk/by-partuuid/{guid}").symlink_to(machine.root / "dev/sda")
    variables = machine.root / "sys/firmware/efi/efivars"
    variables.mkdir(parents=True)
    (variables / f"BootCurrent-{EFI_GLOBAL}").write_bytes(b"\x06\0\0\0\x03\0")
    (variables / f"Boot0003-{EFI_GLOBAL}").write_bytes(b"\x07\0\0\0 device path " + guid.bytes_le + b" end")
    assert use_of(machine).boot_medium == ("Boot0003",)


@pytest.mark.root
def test_what_cannot_be_read_is_none_and_noted(machine: LoopMachine) -> None:
    (machine.root / "proc/swaps").unlink()
    (machine.root / "proc/cmdline").unlink()
    (machine.folder(machine.disks[0]) / "removable").write_text("maybe\n")
    use = use_of(machine)
    assert (use.swaps, use.boot_medium, use.removable) == (None, None, None)
    assert len(use.unread) == 3


@pytest.mark.root
def test_a_partition_or_a_file_is_no_disk(machine: LoopMachine, tmp_path: Path) -> None:
    (machine.folder(machine.disks[0]) / "partition").write_text("1\n")
    with pytest.raises(OSError, match="partition"):
        use_of(machine)
    with (tmp_path / "file").open("wb") as file, pytest.raises(OSError, match="no"):
        block_use.read(machine.host, file.fileno())


# --- blankness -------------------------------------------------------------------------------------------------------


async def content_of(host: Host, path: Path) -> blank.Content:
    fd = os.open(path, os.O_RDONLY)
    try:
        return await blank.look(host, fd, path.stat().st_size)
    finally:
        os.close(fd)


@pytest.mark.parametrize("size", [4096, 3 * MIB + 512, 129 * MIB])
@pytest.mark.parametrize("word", ["0000000000000000", "ffffffffffffffff", "a55a00ffdeadbeef"])
async def test_one_pattern_all_over_is_blank(tmp_path: Path, host: Host, size: int, word: str) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes((bytes.fromhex(word) * (size // 8 + 1))[:size])
    content = await content_of(host, path)
    assert (content.signatures, content.blank, content.pattern) == ((), True, word)


@pytest.mark.parametrize("offset", [0, 4095, 64 * MIB - 1, 76 * MIB + 100, 140 * MIB - 1])
async def test_a_byte_in_any_part_that_is_looked_at_is_data(tmp_path: Path, host: Host, offset: int) -> None:
    """Between the edges of this disk lie 12 MiB, of which 1,024 blocks are a third: each 12 KiB one block."""
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(140 * MIB)
        file.seek(offset if offset < 65 * MIB or offset > 77 * MIB else 64 * MIB + 12288 * 100)
        file.write(b"x")
    content = await content_of(host, path)
    assert content.blank is False
    assert content.differs_at is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"pattern": "00"}',
        '{"pattern": null, "differs_at": null}',
        json.dumps({"pattern": "00" * 8, "differs_at": None, "edge_bytes": 100, "blocks": 0}),
        json.dumps({"pattern": "00" * 8, "differs_at": None, "edge_bytes": 128 * MIB, "blocks": 1023}),
    ],
)
def test_an_answer_about_less_than_all_is_not_blank(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        blank.parse_blankness(text, 10**12)


@pytest.mark.parametrize("text", ["", "{}", "null", '{"signatures": null}', '{"signatures": [5]}'])
def test_no_list_of_signatures_is_not_none_found(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        blank.parse_signatures(text)


@pytest.mark.root
async def test_a_disk_that_cannot_be_read_is_not_blank(machine: LoopMachine) -> None:
    disk: LoopDisk = machine.disks[0]
    disk.truncate(MIB)
    fd = os.open(disk.device, os.O_RDONLY | os.O_DIRECT)
    try:
        content = await blank.look(machine.host, fd, 4 * MIB)
    finally:
        os.close(fd)
    assert content.blank is None
    assert content.unread


# --- reservations ----------------------------------------------------------------------------------------------------


def ended(code: int | None, stdout: str, stderr: str = "") -> ToolResult:
    return ToolResult(("tool",), stdout, stderr, code, None, 0.1)


def test_reservations_are_believed_only_in_plain_words() -> None:
    assert not reservation.judge_scsi(ended(0, "  PR generation=0x0, there are NO registered reservation keys\n"))
    assert reservation.judge_scsi(ended(0, "  PR generation=0x2, 1 registered reservation key follows:\n    0xabc\n"))
    assert not reservation.judge_scsi(ended(reservation.SG_INVALID_OPCODE, "", "PR in: command not supported"))
    assert reservation.judge_scsi(ended(reservation.SG_RESERVATION_CONFLICT, ""))
    assert not reservation.judge_nvme(ended(0, '{"gen": 0, "rtype": 0, "regctl": 0, "ptpls": 0}'))
    assert reservation.judge_nvme(ended(0, '{"gen": 3, "rtype": 1, "regctl": 1}'))
    assert not reservation.judge_nvme(ended(1, "", "NVMe status: Invalid Command Opcode: A reserved value(0x2001)"))


@pytest.mark.parametrize("result", [ended(0, ""), ended(1, ""), ended(5, "", "illegal request"), ended(None, "")])
def test_every_other_answer_about_reservations_is_unknown(result: ToolResult) -> None:
    for judge in (reservation.judge_scsi, reservation.judge_nvme):
        with pytest.raises(reservation.Unreadable):
            judge(result)
        with pytest.raises(reservation.Unreadable):
            judge(replace(result, stdout="{}"))


async def test_a_transport_that_cannot_be_reserved_needs_no_tool(only_stand_ins: StandIns, tmp_path: Path) -> None:
    host = Host(tmp_path, only_stand_ins.tools())
    assert not await reservation.is_reserved(host, 0, Transport.SATA)
    for transport in (Transport.SAS, Transport.NVME, None, Transport.VIRTUAL):
        with pytest.raises(reservation.Unreadable):
            await reservation.is_reserved(host, 0, transport)
