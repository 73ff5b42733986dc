"""Which block devices are disks, who they are, and how they are attached."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from probes import disks, inquiry
from probes.host import Host
from probes.notes import Notes
from tests.support.replay import recorded_host
from tests.support.trees import Link, plant

BLOCK = {"size": "7814037168", "ro": "0", "removable": "0", "dev": "8:0", "queue/rotational": "1"}
PCI = "devices/pci0000:00/0000:00:17.0"


def block(name: str, place: str, **changes: str | bytes | Link) -> dict[str, str | bytes | Link]:
    """The files of a disk at a place in the tree of devices; names with `device/` in front are the device's."""
    found: dict[str, str | bytes | Link] = {f"sys/block/{name}": Link(f"../{place}/block/{name}")}
    found[f"sys/{place}/block/{name}/device"] = Link("../..")
    values = {**BLOCK, **{key.replace("__", "/"): value for key, value in changes.items()}}
    for key, value in values.items():
        where = f"{place}/{key.removeprefix('device/')}" if key.startswith("device/") else f"{place}/block/{name}/{key}"
        found[f"sys/{where}"] = value
    return found


def read(root: Path, files: dict[str, str | bytes | Link], notes: Notes | None = None) -> tuple[disks.Disk, ...]:
    return disks.read(Host(plant(root, files)), notes or Notes())


def serial_page(serial: str) -> bytes:
    """Page 80h as SPC-5 lays it out."""
    return bytes([0, 0x80, 0, len(serial)]) + serial.encode()


def ata_page(serial: str, firmware: str, model: str) -> bytes:
    """Page 89h as SAT-4 lays it out, with IDENTIFY data as ACS-4 does: letters of each word swapped."""
    identify = bytearray(512)
    for word, length, text in ((10, 20, serial), (23, 8, firmware), (27, 40, model)):
        letters = text.ljust(length).encode()
        identify[2 * word : 2 * word + length : 2] = letters[1::2]
        identify[2 * word + 1 : 2 * word + length : 2] = letters[0::2]
    return bytes([0, 0x89, 2, 0x38]) + bytes(56) + bytes(identify)


async def test_a_recorded_server() -> None:
    notes = Notes()
    nvme, sata = await disks.collect(recorded_host("dell-xeon"), notes)
    assert (nvme.name, nvme.transport, nvme.pci, nvme.serial) == ("nvme0n1", "nvme", "0000:00:02.0", None)
    assert "disk nvme0n1: serial: not told by the kernel for this disk (nvme)" in notes.lines
    assert (sata.serial, sata.wwn, sata.model) == ("14090C05022B", "0x500a07510c05022b", "MTFDDAK256MAM-1K12")
    assert (sata.transport, sata.hctl, sata.driver, sata.pci) == ("sata", "4:0:0:0", "ahci", "0000:00:1f.2")
    assert (sata.size_bytes, sata.size_gb, sata.firmware) == (250059350016, 250.059, "08TH")
    assert (sata.logical_block_size, sata.partitions, sata.state) == (512, 5, "running")


async def test_a_virtio_disk_without_serial_is_null_with_a_note() -> None:
    notes = Notes()
    (disk,) = await disks.collect(recorded_host("virtual-machine"), notes)
    assert (disk.name, disk.serial, disk.transport, disk.component) == ("vda", None, "virtio", "disk:vda")
    assert disk.is_local
    assert "disk vda: serial: not told by the kernel for this disk (virtio)" in notes.lines


@pytest.mark.parametrize("name", ["loop0", "ram1", "zram0", "dm-0", "md127", "sr0", "fd0", "zd16", "bcache0", "nbd0"])
def test_what_is_no_disk(tmp_path: Path, name: str) -> None:
    assert read(tmp_path, block(name, "devices/virtual")) == ()


def test_parts_of_an_emmc_empty_card_readers_and_hidden_paths_are_no_disks(tmp_path: Path) -> None:
    mmc = "devices/platform/mmc_host/mmc0/mmc0:0001"
    files = block("mmcblk0boot0", mmc) | block("sdz", PCI, removable="1", size="0")
    assert read(tmp_path, files | block("nvme0c0n1", PCI, hidden="1")) == ()


def test_a_connected_network_block_device_is_a_remote_disk(tmp_path: Path) -> None:
    (disk,) = read(tmp_path, block("nbd0", "devices/virtual", pid="77"))
    assert (disk.transport, disk.is_local) == ("nbd", False)


ATA = {"device/vendor": "ATA", "device/model": "ST4000NM000A-2HZ", "device/rev": "TN02"}


def test_an_ata_disk_is_named_in_full_by_its_identity_page(tmp_path: Path) -> None:
    page = ata_page("WS20ABCD", "TN02", "ST4000NM000A-2HZ100")
    files = block("sda", f"{PCI}/ata1/host0/target0:0:0/0:0:0:0", **{**ATA, "device/vpd_pg89": page})
    (disk,) = read(tmp_path, files | {"sys/class/scsi_host/host0/proc_name": "ahci"})
    assert (disk.serial, disk.model, disk.firmware) == ("WS20ABCD", "ST4000NM000A-2HZ100", "TN02")
    assert (disk.transport, disk.driver, disk.vendor) == ("sata", "ahci", None)


def test_a_sas_disk_has_the_serial_of_its_page_and_not_its_wwn(tmp_path: Path) -> None:
    place = f"{PCI}/host1/port-1:0/end_device-1:0/target1:0:0/1:0:0:0"
    own = {"device/vendor": "SEAGATE", "device/model": "ST16000NM002G", "device/vpd_pg80": serial_page("ZL2A1B2C0000")}
    bay = {"device/wwid": "naa.5000C500D1234567", "device/enclosure_device:Slot 07": Link("../x")}
    udev = {"run/udev/data/b8:0": "E:ID_SERIAL_SHORT=5000c500d1234567\nE:ID_SCSI_SERIAL=ZL2A1B2C"}
    (disk,) = read(tmp_path, block("sda", place, **own, **bay) | udev)
    assert (disk.serial, disk.wwn, disk.transport) == ("ZL2A1B2C0000", "0x5000c500d1234567", "sas")
    assert (disk.vendor, disk.enclosure_slot, disk.hctl, disk.pci) == ("SEAGATE", "Slot 07", "1:0:0:0", "0000:00:17.0")


def test_without_its_page_udev_gives_the_unit_serial_first(tmp_path: Path) -> None:
    udev = {"run/udev/data/b8:0": "N:sda\nE:ID_SERIAL_SHORT=5000c500d1234567\nE:ID_SCSI_SERIAL=ZL2A1B2C"}
    (disk,) = read(tmp_path, block("sda", f"{PCI}/host1/target1:0:0/1:0:0:0") | udev)
    assert (disk.serial, disk.transport) == ("ZL2A1B2C", "scsi")


def test_an_nvme_drive_is_known_by_its_controller(tmp_path: Path) -> None:
    place = f"{PCI}/nvme/nvme0"
    own = {"device/serial": "S6CKNE0T", "device/model": "SAMSUNG MZQL2", "device/firmware_rev": "GDC5"}
    files = {f"sys/block/nvme0n2": Link(f"../{place}/nvme0n2")}  # noqa: F541
    files |= {f"sys/{place}/nvme0n2/{name}": value for name, value in {**BLOCK, "wwid": "eui.0025"}.items()}
    files |= {f"sys/{place}/{name.removeprefix('device/')}": value for name, value in own.items()}
    files |= {f"sys/{place}/transport": "pcie", f"sys/{place}/nvme0n2/device": Link("..")}
    (disk,) = read(tmp_path, dict(files))
    assert (disk.serial, disk.model, disk.firmware, disk.wwn) == ("S6CKNE0T", "SAMSUNG MZQL2", "GDC5", "eui.0025")
    assert (disk.transport, disk.namespace, disk.controller) == ("nvme", 2, "nvme0")


@pytest.mark.parametrize(("carrier", "transport"), [("pcie", "nvme"), ("tcp", "nvme-of"), ("rdma", "nvme-of")])
def test_an_nvme_drive_with_several_paths_lies_below_its_subsystem(
    tmp_path: Path, carrier: str, transport: str
) -> None:
    place = "devices/virtual/nvme-subsystem/nvme-subsys0"
    files = {"sys/block/nvme0n1": Link(f"../{place}/nvme0n1"), f"sys/{place}/nvme0n1/device": Link("..")}
    files |= {f"sys/{place}/nvme0n1/{name}": value for name, value in BLOCK.items()}
    files |= {f"sys/{place}/serial": "S1", f"sys/{place}/nvme3/transport": carrier}
    (disk,) = read(tmp_path, dict(files))
    assert (disk.serial, disk.transport, disk.is_local) == ("S1", transport, transport == "nvme")


@pytest.mark.parametrize(
    ("place", "name", "transport", "local"),
    [
        ("devices/pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0/host6/target6:0:0/6:0:0:0", "sdb", "usb", False),
        ("devices/platform/host9/session1/target9:0:0/9:0:0:1", "sdb", "iscsi", False),
        (f"{PCI}/host3/rport-3:0-1/target3:0:0/3:0:0:0", "sdb", "fc", False),
        (f"{PCI}/virtio3/host4/target4:0:0/4:0:0:0", "sdb", "virtio", True),
        ("devices/LNXSYSTM:00/VMBUS:00/a-b/host1/target1:0:0/1:0:0:0", "sdb", "hyperv", True),
        ("devices/platform/mmc_host/mmc0/mmc0:0001", "mmcblk0", "mmc", True),
        ("devices/vbd-51712", "xvda", "xen", True),
        ("devices/rbd/0", "rbd0", "rbd", False),
    ],
)
def test_transports(tmp_path: Path, place: str, name: str, transport: str, local: bool) -> None:
    (disk,) = read(tmp_path, block(name, place))
    assert (disk.transport, disk.is_local) == (transport, local)


def test_the_name_of_the_folder_a_machine_is_recorded_in_says_nothing(tmp_path: Path) -> None:
    (disk,) = read(tmp_path / "usb1" / "session2", block("sda", f"{PCI}/host1/target1:0:0/1:0:0:0"))
    assert disk.transport == "scsi"


def test_a_logical_volume_of_a_raid_controller(tmp_path: Path) -> None:
    driver = {"sys/class/scsi_host/host0/proc_name": "megaraid_sas"}
    (disk,) = read(tmp_path, block("sda", f"{PCI}/host0/target0:2:0/0:2:0:0") | driver)
    assert (disk.transport, disk.driver) == ("raid", "megaraid_sas")


def test_a_usb_disk_takes_the_serial_of_its_usb_device(tmp_path: Path) -> None:
    usb = "devices/pci0000:00/0000:00:14.0/usb2/2-1"
    files = block("sdb", f"{usb}/2-1:1.0/host6/target6:0:0/6:0:0:0", removable="1")
    (disk,) = read(tmp_path, files | {f"sys/{usb}/idVendor": "0781", f"sys/{usb}/serial": "4C53"})
    assert (disk.serial, disk.removable) == ("4C53", True)


def test_letters_that_cannot_be_shown_do_not_get_in(tmp_path: Path) -> None:
    page = {"device/vpd_pg80": bytes([0, 0x80, 0, 8]) + b"AB\x1b[2J\x00C", "device/vendor": "ATA"}
    (disk,) = read(tmp_path, block("sda", f"{PCI}/ata1/host0/target0:0:0/0:0:0:0", **page))
    assert disk.serial == "AB [2J C"


@pytest.mark.parametrize("page", [b"", b"\0", b"\0\x80", b"\0\x83\0\4ABCD", b"\0\x80\0\0", b"\0\x80\0\4    "])
def test_a_short_or_wrong_serial_page_has_no_serial(page: bytes) -> None:
    assert inquiry.from_serial_page(page) is None


@pytest.mark.parametrize("page", [b"", ata_page("S", "F", "M")[:-1], b"\0\x80" + ata_page("S", "F", "M")[2:]])
def test_a_short_or_wrong_identity_page_has_no_identity(page: bytes) -> None:
    assert inquiry.from_ata_page(page) == inquiry.Identity()


def test_no_block_devices_folder_is_an_error_and_never_no_disks(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        disks.read(Host(tmp_path), Notes())


async def test_the_disks_of_this_machine_are_those_that_lsblk_lists() -> None:
    host = Host()
    columns = "NAME,SIZE,TYPE,RO,LOG-SEC,PHY-SEC,SERIAL"
    listed = await host.tools.run("lsblk", "--json", "--bytes", "--nodeps", "--output", columns, timeout_s=10)
    rows = [row for row in json.loads(listed.stdout)["blockdevices"] if row["type"] == "disk"]
    expected = {row["name"]: row for row in rows if not row["name"].startswith(("zram", "nbd", "ram"))}
    found = {disk.name: disk for disk in await disks.collect(host, Notes())}
    assert found.keys() == expected.keys()
    for name, disk in found.items():
        row = expected[name]
        assert (disk.size_bytes, disk.read_only) == (row["size"], row["ro"])
        assert (disk.logical_block_size, disk.physical_block_size) == (row["log-sec"], row["phy-sec"])
