"""What machine it is, its TPM and how it was booted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from probes import system
from probes.host import Host
from probes.notes import Notes
from tests.support.replay import recorded_host
from tests.support.trees import plant

SECURE_BOOT = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
DMI = "sys/class/dmi/id"


async def test_a_recorded_server() -> None:
    notes = Notes()
    found = await system.collect(recorded_host("huawei-arm"), notes)
    assert (found.vendor, found.product, found.serial) == ("Huawei", "XA320 V2", "2102312MEA10K9000003")
    assert (found.chassis_type, found.bios, found.arch) == ("main server", "0.86", "aarch64")
    assert found.virtual is None  # an Arm CPU does not tell, and the maker is none of virtual machines


async def test_a_virtual_machine_without_smbios_says_what_it_cannot_tell() -> None:
    notes = Notes()
    found = await system.collect(recorded_host("virtual-machine"), notes)
    assert found.virtual is True
    assert (found.vendor, found.serial, found.arch, found.image_version) == (None, None, "x86_64", "0.1")
    assert any(line.startswith("system: serial:") for line in notes.lines)


async def test_a_real_server_is_not_virtual() -> None:
    found = await system.collect(recorded_host("dell-xeon"), Notes())
    assert (found.virtual, found.chassis_type, found.bios_date) == (False, "rack mount", "08/06/2012")


@pytest.mark.parametrize("text", ["To Be Filled By O.E.M.", "Default string", "Not Specified", "00000000", "None", " "])
async def test_what_makers_did_not_fill_in_is_no_serial(tmp_path: Path, text: str) -> None:
    notes = Notes()
    root = plant(tmp_path, {f"{DMI}/product_serial": text, f"{DMI}/sys_vendor": "Maker"})
    found = await system.collect(Host(root), notes)
    assert (found.vendor, found.serial) == ("Maker", None)
    assert "system: serial: not readable, or not filled in by the maker" in notes.lines


async def test_a_device_tree_names_the_machine_where_there_is_no_smbios(tmp_path: Path) -> None:
    root = plant(
        tmp_path, {"proc/device-tree/model": b"Board 5\x00", "proc/device-tree/serial-number": b"10000000a\x00"}
    )
    found = await system.collect(Host(root), Notes())
    assert (found.product, found.serial) == ("Board 5", "10000000a")


@pytest.mark.parametrize(
    ("cmdline", "mac"),
    [
        ("quiet BOOTIF=01-02-FC-00-00-00-01 x", "02:fc:00:00:00:01"),
        ("vetting.mac=AA:BB:CC:00:11:22 BOOTIF=01-02-fc-00-00-00-01", "aa:bb:cc:00:11:22"),
        ("BOOTIF=02:fc:00:00:00:01", "02:fc:00:00:00:01"),
        ("BOOTIF= vetting.mac=nonsense", None),
        ("", None),
    ],
)
async def test_the_mac_that_was_booted_from(tmp_path: Path, cmdline: str, mac: str | None) -> None:
    notes = Notes()
    found = await system.boot(Host(plant(tmp_path, {"proc/cmdline": cmdline})), notes)
    assert found.booted_mac == mac
    assert any("booted_mac" in line for line in notes.lines) == (mac is None)


@pytest.mark.parametrize(("data", "secure"), [(b"\x06\0\0\0\1", True), (b"\x06\0\0\0\0", False), (b"", None)])
async def test_uefi_and_secure_boot(tmp_path: Path, data: bytes, secure: bool | None) -> None:
    root = plant(tmp_path, {SECURE_BOOT: data, "sys/firmware/efi/fw_platform_size": "64"})
    found = await system.boot(Host(root), Notes())
    assert (found.firmware, found.efi_bits, found.secure_boot) == ("uefi", 64, secure)


async def test_firmware_is_not_guessed_on_other_architectures(tmp_path: Path) -> None:
    notes = Notes()
    found = await system.boot(Host(plant(tmp_path, {"proc/sys/kernel/arch": "riscv64"})), notes)
    assert found.firmware is None
    assert any(line.startswith("boot: firmware") for line in notes.lines)


async def test_tpm(tmp_path: Path) -> None:
    notes = Notes()
    assert await system.tpm(Host(tmp_path), notes) is None
    assert notes.lines == ["tpm: the kernel shows none"]
    files = {"sys/class/tpm/tpm0/tpm_version_major": "2", "sys/class/tpm/tpm0/pcr-sha256/0": "00"}
    assert await system.tpm(Host(plant(tmp_path, dict(files))), Notes()) == system.Tpm("2.0", ("sha256",))


async def test_this_machine() -> None:
    found = await system.collect(Host(), Notes())
    assert (found.arch, found.kernel, found.hostname) == (os.uname().machine, os.uname().release, os.uname().nodename)
    booted = await system.boot(Host(), Notes())
    assert booted.firmware in {"uefi", "bios", None}
