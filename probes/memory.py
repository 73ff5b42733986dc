"""Main memory: how much the kernel has, which modules are installed, what EDAC says of them.

Sources: meminfo and iomem of proc; SMBIOS types 16 and 17 through dmidecode; the kernel's EDAC folders
(Documentation/admin-guide/RAS). Sizes are in GiB, speeds in MT/s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from probes.apart import apart
from probes.host import Host, entries_of, int_of, text_of
from probes.notes import Notes
from probes.smbios import MEMORY_ARRAY, MEMORY_DEVICE, Structure

GIB = 2**30
_UNITS = {"bytes": 1, "kb": 2**10, "mb": 2**20, "gb": 2**30, "tb": 2**40}
# Type 17 also lists the firmware's own flash chips.
_NOT_MAIN_MEMORY = frozenset({"flash", "eeprom", "rom", "feprom", "eprom"})


@dataclass(frozen=True, slots=True)
class Dimm:
    """One installed memory module."""

    slot: str
    bank: str | None
    size: float | None
    """GiB of main memory (the persistent part of a non-volatile module is not counted)."""
    speed: int | None
    """MT/s that the module can do."""
    configured_speed: int | None
    """MT/s that it runs at."""
    part: str | None
    serial: str | None
    manufacturer: str | None
    kind: str | None
    """For instance DDR4."""
    form_factor: str | None
    technology: str | None
    rank: int | None
    ecc: bool | None
    voltage: str | None
    asset_tag: str | None
    source: str
    """`smbios` or `edac`."""

    @property
    def component(self) -> str:
        """How findings name this module."""
        return f"dimm:{self.slot}"


@dataclass(frozen=True, slots=True)
class EdacDimm:
    """One module as the memory controller's driver sees it, with its error counts since boot."""

    label: str
    location: str | None
    size_gib: float | None
    kind: str | None
    mode: str | None
    corrected: int | None
    uncorrected: int | None


@dataclass(frozen=True, slots=True)
class Memory:
    """Main memory. `dimms` is None where neither SMBIOS nor EDAC tells of modules."""

    total_gib: float
    """What the kernel can use (MemTotal)."""
    firmware_gib: float | None
    """What the firmware gave to the kernel, its own tables included."""
    dimms: tuple[Dimm, ...] | None
    installed_gib: float | None
    """The sum of the modules."""
    slots: int | None
    empty_slots: tuple[str, ...]
    max_capacity_gib: float | None
    error_correction: str | None
    """As SMBIOS says, for instance "Multi-bit ECC"."""
    edac: tuple[EdacDimm, ...]
    edac_driver: str | None
    swap_gib: float | None
    hardware_corrupted_kib: int | None
    """Pages that the kernel took out of use after memory errors."""

    @property
    def usable_gib(self) -> float:
        """What reached the operating system: the kernel's own page tables are not missing memory."""
        return max(self.total_gib, self.firmware_gib or 0.0)


async def collect(host: Host, notes: Notes, tables: Sequence[Structure] | None = None) -> Memory:
    """Main memory; the modules from SMBIOS `tables` (`smbios.read`), without them from EDAC.

    Raises ValueError without a readable MemTotal.
    """
    return await apart(lambda: read(host, notes, tables), "memory")


def read(host: Host, notes: Notes, tables: Sequence[Structure] | None = None) -> Memory:
    """As `collect`, blocking."""
    info = _meminfo(text_of(host.proc("meminfo")) or "")
    if not info.get("MemTotal"):
        raise ValueError("meminfo has no readable MemTotal")
    edac = _edac(host)
    dimms, empty = _modules(tables or (), notes) if tables else (None, ())
    if not dimms:
        dimms = _from_edac(edac)
        notes.add("memory: dimms", _why_no_modules(tables, dimms))
    sizes = [dimm.size for dimm in dimms or () if dimm.size is not None]
    arrays = [one for one in tables or () if one.kind == MEMORY_ARRAY and _is_main_array(one)]
    swap = info.get("SwapTotal")
    return Memory(
        total_gib=round(info["MemTotal"] / 2**20, 3),
        firmware_gib=_firmware_gib(host),
        dimms=dimms,
        installed_gib=round(sum(sizes), 3) if sizes else None,
        slots=len(dimms or ()) + len(empty) if tables else None,
        empty_slots=empty,
        max_capacity_gib=_sum(_gib(array.text("Maximum Capacity")) for array in arrays),
        error_correction=next((kind for one in arrays if (kind := one.values.get("Error Correction Type"))), None),
        edac=edac,
        edac_driver=text_of(host.sys("devices", "system", "edac", "mc", "mc0", "mc_name")),
        swap_gib=None if swap is None else round(swap / 2**20, 3),
        hardware_corrupted_kib=info.get("HardwareCorrupted"),
    )


def _why_no_modules(tables: Sequence[Structure] | None, dimms: Sequence[Dimm] | None) -> str:
    why = "there are no readable SMBIOS tables" if tables is None else "SMBIOS lists no installed module"
    return f"{why}; taken from EDAC: slots and sizes only" if dimms else f"{why}, and EDAC shows none"


def _meminfo(text: str) -> dict[str, int]:
    """kB by name."""
    return {match[1]: int(match[2]) for match in re.finditer(r"^(\w+):\s+(\d{1,15}) kB", text, re.MULTILINE)}


def _firmware_gib(host: Host) -> float | None:
    """The "System RAM" of iomem, which shows addresses only to root; None where it does not."""
    total = 0
    for match in re.finditer(
        r"^([0-9a-f]{1,16})-([0-9a-f]{1,16}) : System RAM$", text_of(host.proc("iomem")) or "", re.MULTILINE
    ):
        total += max(0, int(match[2], 16) - int(match[1], 16))
    return round(total / GIB, 3) or None


def _modules(tables: Sequence[Structure], notes: Notes) -> tuple[tuple[Dimm, ...], tuple[str, ...]]:
    """The installed modules, and the names of the empty slots."""
    devices = [one for one in tables if one.kind == MEMORY_DEVICE and _is_main_memory(one)]
    names = _slot_names(devices)
    dimms, empty = [], []
    for name, device in zip(names, devices, strict=True):
        if (device.values.get("Size") or "").lower() == "no module installed":
            empty.append(name)
            continue
        dimm = _dimm(name, device)
        for what in ("size", "serial", "part"):
            if getattr(dimm, what) is None:
                notes.add(f"memory: dimm {name}: {what}", "SMBIOS does not tell")
        dimms.append(dimm)
    return tuple(dimms), tuple(empty)


def _is_main_memory(device: Structure) -> bool:
    return (device.values.get("Type") or "").lower() not in _NOT_MAIN_MEMORY


def _is_main_array(array: Structure) -> bool:
    return (array.values.get("Use") or "System Memory") == "System Memory"


def _slot_names(devices: Sequence[Structure]) -> list[str]:
    """The locators; with the bank before them where boards print the same locator for each channel."""
    locators = [device.text("Locator") or f"handle {device.handle:#06x}" for device in devices]
    names = []
    for device, locator in zip(devices, locators, strict=True):
        bank = device.text("Bank Locator")
        names.append(f"{bank}/{locator}" if locators.count(locator) > 1 and bank else locator)
    return names


def _dimm(slot: str, device: Structure) -> Dimm:
    return Dimm(
        slot=slot,
        bank=device.text("Bank Locator"),
        size=_module_gib(device),
        speed=_first_number(device.text("Speed")),
        configured_speed=_first_number(device.text("Configured Memory Speed") or device.text("Configured Clock Speed")),
        part=device.text("Part Number"),
        serial=device.text("Serial Number"),
        manufacturer=device.text("Manufacturer"),
        kind=device.text("Type"),
        form_factor=device.text("Form Factor"),
        technology=device.text("Memory Technology"),
        rank=_first_number(device.text("Rank")),
        ecc=_has_ecc(device),
        voltage=device.text("Configured Voltage"),
        asset_tag=device.text("Asset Tag"),
        source="smbios",
    )


def _module_gib(device: Structure) -> float | None:
    """GiB of main memory: `Size`, without the persistent part of a non-volatile module where it is told."""
    size = _gib(device.values.get("Size"))
    persistent = _gib(device.values.get("Non-Volatile Size"))
    if size is None or not persistent:
        return size
    return _gib(device.values.get("Volatile Size")) or 0.0


def _has_ecc(device: Structure) -> bool | None:
    """More wires than data bits carry check bits."""
    total, data = _first_number(device.text("Total Width")), _first_number(device.text("Data Width"))
    return None if not total or not data else total > data


def _first_number(text: str | None) -> int | None:
    match = re.match(r"(\d{1,9})\b", text or "")
    return int(match[1]) if match else None


def _gib(text: str | None) -> float | None:
    """16.0 for "16 GB", 0.5 for "512 MB"; None for anything else. SMBIOS means powers of two."""
    match = re.fullmatch(r"(\d{1,9})\s*(bytes|kB|MB|GB|TB)", text or "", re.IGNORECASE)
    return round(int(match[1]) * _UNITS[match[2].lower()] / GIB, 3) if match else None


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _edac(host: Host) -> tuple[EdacDimm, ...]:
    found = []
    for controller in entries_of(host.sys("devices", "system", "edac", "mc")):
        for folder in entries_of(controller):
            if re.fullmatch(r"dimm\d+", folder.name):
                found.append(_edac_dimm(controller.name, folder))
    return tuple(found)


def _edac_dimm(controller: str, folder: Path) -> EdacDimm:
    size_mib = int_of(folder / "size")
    return EdacDimm(
        label=text_of(folder / "dimm_label") or f"{controller}/{folder.name}",
        location=text_of(folder / "dimm_location"),
        size_gib=None if size_mib is None else round(size_mib / 1024, 3),
        kind=text_of(folder / "dimm_mem_type"),
        mode=text_of(folder / "dimm_edac_mode"),
        corrected=int_of(folder / "dimm_ce_count"),
        uncorrected=int_of(folder / "dimm_ue_count"),
    )


def _from_edac(edac: Sequence[EdacDimm]) -> tuple[Dimm, ...] | None:
    """What EDAC knows, for machines without SMBIOS; None where it knows of no module."""
    dimms = []
    for one in edac:
        if not one.size_gib:
            continue
        nothing = dict.fromkeys(("bank", "speed", "configured_speed", "part", "serial", "manufacturer", "form_factor"))
        rest = dict.fromkeys(("technology", "rank", "voltage", "asset_tag"))
        has_ecc = None if one.mode is None else "ECD" in one.mode
        dimms.append(
            Dimm(slot=one.label, size=one.size_gib, kind=one.kind, ecc=has_ecc, source="edac", **nothing, **rest)
        )
    return tuple(dimms) or None
