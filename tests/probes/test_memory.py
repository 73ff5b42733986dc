"""Main memory: what meminfo, SMBIOS and EDAC say, together and each alone."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probes import memory, smbios
from probes.host import Host
from probes.notes import Notes
from tests.support.replay import HOSTS, recorded_host
from tests.support.trees import plant

RECORDINGS = HOSTS.parent / "tools" / "dmidecode"
MEMINFO = "MemTotal:       32836008 kB\nSwapTotal:    4194300 kB\nHardwareCorrupted:    8 kB"
DEVICE = """Handle 0x0011, DMI type 17, 84 bytes
Memory Device
	Total Width: {total} bits
	Data Width: 64 bits
	Size: {size}
	Locator: {locator}
	Bank Locator: {bank}
	Type: {kind}
	Serial Number: {serial}
"""


def device(size: str = "8 GB", *, locator: str = "A1", bank: str = "B0", kind: str = "DDR4", total: int = 64) -> str:
    return DEVICE.format(size=size, locator=locator, bank=bank, kind=kind, total=total, serial="S1")


def read(root: Path, text: str | None, notes: Notes | None = None) -> memory.Memory:
    """Memory of a machine with 31.3 GiB whose dmidecode printed `text`."""
    tables = None if text is None else smbios.parse(text)
    return memory.read(Host(plant(root, {"proc/meminfo": MEMINFO})), notes or Notes(), tables)


async def test_a_recorded_server_has_its_modules() -> None:
    host, notes = recorded_host("dell-xeon"), Notes()
    found = await memory.collect(host, notes, await smbios.read(host))
    assert found.dimms is not None
    assert [dimm.slot for dimm in found.dimms] == [f"DIMM_{bank}{slot}" for bank in "AB" for slot in range(1, 5)]
    assert (found.installed_gib, found.total_gib, found.slots, len(found.empty_slots)) == (32.0, 31.315, 24, 16)
    first = found.dimms[0]
    assert (first.size, first.speed, first.configured_speed, first.rank) == (4.0, 1600, 1600, 2)
    assert (first.part, first.serial, first.kind, first.ecc) == ("HMT351R7CFR8C-PB", "48AAE639", "DDR3", True)
    assert notes.lines == []


def test_newer_dmidecode_tells_more(tmp_path: Path) -> None:
    found = read(tmp_path, (RECORDINGS / "dell-ddr4.out").read_text())
    assert found.dimms is not None
    assert [(dimm.slot, dimm.size, dimm.speed, dimm.configured_speed) for dimm in found.dimms] == [
        ("A1", 32.0, 3200, 2666),
        ("A2", 32.0, 3200, 2666),
    ]
    assert (found.empty_slots, found.dimms[0].technology, found.dimms[0].voltage) == (("A3",), "DRAM", "1.2 V")


def test_a_machine_without_smbios_is_told_by_edac(tmp_path: Path) -> None:
    mc = "sys/devices/system/edac/mc"
    one = {"size": "16384", "dimm_label": "CPU0_DIMM_A1", "dimm_mem_type": "Registered-DDR4", "dimm_ce_count": "3"}
    plant(tmp_path, {f"{mc}/mc0/dimm0/{name}": text for name, text in {**one, "dimm_edac_mode": "S4ECD4ED"}.items()})
    plant(tmp_path, {f"{mc}/mc0/mc_name": "skx_edac", f"{mc}/mc0/dimm1/size": "0", f"{mc}/power/control": "auto"})
    notes = Notes()
    found = read(tmp_path, None, notes)
    assert found.dimms is not None
    assert [(dimm.slot, dimm.size, dimm.source, dimm.ecc) for dimm in found.dimms] == [
        ("CPU0_DIMM_A1", 16.0, "edac", True)
    ]
    assert (found.edac[0].corrected, found.edac_driver, found.slots) == (3, "skx_edac", None)
    assert "memory: dimms: there are no readable SMBIOS tables; taken from EDAC: slots and sizes only" in notes.lines


def test_nothing_is_made_up_where_nothing_tells(tmp_path: Path) -> None:
    notes = Notes()
    found = read(tmp_path, None, notes)
    assert (found.dimms, found.installed_gib, found.error_correction) == (None, None, None)
    assert (found.total_gib, found.swap_gib, found.hardware_corrupted_kib) == (31.315, 4.0, 8)
    assert notes.lines == ["memory: dimms: there are no readable SMBIOS tables, and EDAC shows none"]


def test_what_the_firmware_gave_counts_more_than_what_the_kernel_kept(tmp_path: Path) -> None:
    ram = "00001000-0009ffff : System RAM\n00100000-7fffffff : System RAM\n  01000000-01ffffff : Kernel code\n"
    plant(tmp_path, {"proc/iomem": f"{ram}100000000-87fffffff : System RAM\n80000000-8fffffff : PCI MMCONFIG"})
    found = read(tmp_path, None)
    assert found.firmware_gib == pytest.approx(32.0, abs=0.001)
    assert found.usable_gib == found.firmware_gib


def test_iomem_without_addresses_is_not_believed(tmp_path: Path) -> None:
    """To anyone but root the kernel prints zeros."""
    plant(tmp_path, {"proc/iomem": "00000000-00000000 : System RAM\n00000000-00000000 : System RAM"})
    found = read(tmp_path, None)
    assert (found.firmware_gib, found.usable_gib) == (None, found.total_gib)


def test_slots_with_one_name_on_each_channel_are_told_apart(tmp_path: Path) -> None:
    text = "\n".join(device(locator="DIMM 0", bank=f"P0 CHANNEL {letter}") for letter in "AB")
    found = read(tmp_path, text)
    assert [dimm.slot for dimm in found.dimms or ()] == ["P0 CHANNEL A/DIMM 0", "P0 CHANNEL B/DIMM 0"]


def test_firmware_flash_and_persistent_memory_are_no_main_memory(tmp_path: Path) -> None:
    optane = device("128 GB", locator="A2") + "\tNon-Volatile Size: 128 GB\n\tVolatile Size: None\n"
    found = read(tmp_path, "\n".join([device(), device("16 MB", kind="Flash"), optane]))
    assert [(dimm.slot, dimm.size) for dimm in found.dimms or ()] == [("A1", 8.0), ("A2", 0.0)]
    assert found.installed_gib == 8.0


@pytest.mark.parametrize(("total", "ecc"), [(72, True), (80, True), (64, False)])
def test_ecc_is_seen_by_the_width(tmp_path: Path, total: int, ecc: bool) -> None:
    found = read(tmp_path, device(total=total))
    assert [dimm.ecc for dimm in found.dimms or ()] == [ecc]


@pytest.mark.parametrize(("size", "gib"), [("512 MB", 0.5), ("1 TB", 1024.0), ("16 GB", 16.0), ("Unknown", None)])
def test_sizes(tmp_path: Path, size: str, gib: float | None) -> None:
    notes = Notes()
    found = read(tmp_path, device(size), notes)
    assert [dimm.size for dimm in found.dimms or ()] == [gib]
    assert any("A1: size" in line for line in notes.lines) == (gib is None)


def test_no_memtotal_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="MemTotal"):
        memory.read(Host(plant(tmp_path, {"proc/meminfo": "MemTotal: lots"})), Notes())


def test_dmidecode_on_a_machine_without_smbios_is_no_empty_list() -> None:
    with pytest.raises(smbios.UnreadableTables, match="Scanning"):
        smbios.parse((RECORDINGS / "no-smbios.out").read_text())


async def test_this_machine() -> None:
    found = await memory.collect(Host(), Notes())
    assert found.total_gib == pytest.approx(psutil.virtual_memory().total / 2**30, abs=0.01)
    assert found.usable_gib >= found.total_gib


@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet=st.sampled_from("Handle 0x12,DMItype17: \t\nSizeLocator8GB\x00\x1b"), max_size=300))
def test_no_text_breaks_the_reading_of_tables(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    root = tmp_path_factory.mktemp("machine")
    for printed in (text, device() + text, device().replace("8 GB", text)):
        try:
            tables = smbios.parse(printed)
        except smbios.UnreadableTables:
            continue
        memory.read(Host(plant(root, {"proc/meminfo": MEMINFO})), Notes(), tables)
