"""What the amdgpu driver says of AMD's compute GPUs: by sysfs, and by `amd-smi` where it is installed.

Sources: the kernel's documents "amdgpu thermal", "amdgpu RAS support" and "misc AMDGPU driver information"; `amd-smi`'s
CLI reference (`list`, `static`, `metric`, each with --json). amd-smi is AMD's own example program around the same files
and some of the firmware's: what both tell is taken from sysfs, and error counts from the one that counts more.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probes.apart import apart
from probes.host import Host, entries_of, text_of
from probes.json_paths import dig, parsed, rows
from probes.nvml import GpuFacts
from probes.tools import ToolError, ToolMissing

AMD_SMI_LIMIT_S = 60.0
"""It is a Python program that asks each GPU's firmware."""
NOT_THERE = {errno.ENOENT, errno.EOPNOTSUPP, errno.ENODATA, errno.EINVAL}
"""By these the driver says that this GPU does not have what was asked for."""
COUNTERS = {"ue": "ecc_uncorrected", "ce": "ecc_corrected", "de": "ecc_deferred"}
PAGES = {"R": "pages_retired", "P": "pages_pending", "F": "pages_failed"}
# hwmon's label of a sensor -> the fact, and the fact of its limit.
SENSORS = {
    "junction": ("temperature", "temperature_slowdown"),
    "edge": ("edge_temperature", "edge_temperature_max"),
    "mem": ("memory_temperature", "temperature_memory_max"),
}
Fact = Mapping[str, Any]
LACKING: Fact = {"unsupported": True}


@dataclass(frozen=True, slots=True)
class AmdReading:
    """The GPUs, and what amd-smi did not do: it is needed for nothing, but a driver that hangs shows in it."""

    gpus: tuple[GpuFacts, ...]
    problems: tuple[ToolError, ...] = ()


async def read(host: Host, addresses: Sequence[str], limit_s: float = AMD_SMI_LIMIT_S) -> AmdReading:
    """The facts of the GPUs at these PCI addresses, named as NVML's where they are the same. Raises nothing.

    `limit_s` is how long each GPU and each call of amd-smi may take. A GPU whose files are not read by then has the
    error `handle`, as has one that NVML does not reach.
    """
    by_sysfs = {address: await _in_time(host, address, limit_s) for address in addresses}
    by_tool: dict[str, dict[str, Fact]] = {}
    problems: tuple[ToolError, ...] = ()
    try:
        by_tool = await _of_tool(host, limit_s)
    except ToolMissing:
        pass
    except ToolError as problem:
        problems = (problem,)
    found = (_facts(at, address, by_sysfs[address], by_tool.get(address, {})) for at, address in enumerate(addresses))
    return AmdReading(tuple(found), problems)


def _facts(index: int, address: str, sysfs: Mapping[str, Fact], tool: Mapping[str, Fact]) -> GpuFacts:
    facts: dict[str, Fact] = {**tool, **{name: fact for name, fact in sysfs.items() if "value" in fact}}
    for name in COUNTERS.values():
        told = [fact[name]["value"] for fact in (sysfs, tool) if "value" in fact.get(name, {})]
        if told:
            facts[name] = {"value": max(told)}
    facts = {**sysfs, **facts, "pci": {"value": address}}
    return GpuFacts(
        index=index,
        values={name: fact["value"] for name, fact in facts.items() if "value" in fact},
        unsupported=frozenset(name for name, fact in facts.items() if fact.get("unsupported")),
        errors={name: fact["error"] for name, fact in facts.items() if "error" in fact},
        nvlinks=(),
    )


async def _in_time(host: Host, address: str, limit_s: float) -> dict[str, Fact]:
    try:
        async with asyncio.timeout(limit_s):
            return await apart(lambda: _of_sysfs(host, address), f"amd gpu {address}")
    except TimeoutError:
        return {"handle": {"error": f"the amdgpu driver did not answer within {limit_s:.0f} s"}}


# --- sysfs -----------------------------------------------------------------------------------------------------------


def _of_sysfs(host: Host, address: str) -> dict[str, Fact]:
    folder = host.sys("bus", "pci", "devices", address)
    facts = {
        "name": _fact(folder / "product_name", str),
        "uuid": _fact(folder / "unique_id", str),
        "serial": _fact(folder / "serial_number", str),
        "vbios": _fact(folder / "vbios_version", str),
        "memory_bytes": _fact(folder / "mem_info_vram_total", int),
        "utilization": _fact(folder / "gpu_busy_percent", int),
        "pcie_replays": _fact(folder / "pcie_replay_count", int),
    }
    return {**facts, **_errors(folder / "ras"), **_pages(folder / "ras"), **_sensors(folder / "hwmon")}


def _each(names: Iterable[str], fact: Fact) -> dict[str, Fact]:
    return dict.fromkeys(names, fact)


def _fact(path: Path, convert: Callable[[str], Any], *, may_be_empty: bool = False) -> Fact:
    try:
        text = path.read_text(encoding="utf-8", errors="replace").strip("\x00 \t\r\n")
    except OSError as problem:
        return LACKING if problem.errno in NOT_THERE else {"error": str(problem.strerror)}
    try:
        return {"value": convert(text)} if text or may_be_empty else LACKING
    except ValueError:
        return {"error": f"the driver says {text[:40]!r}"}


def _errors(ras: Path) -> dict[str, Fact]:
    """Errors of all blocks together; each block has a file with "ue: 0" and "ce: 0" (from MI300 on aca_BLOCK)."""
    blocks = [file for file in entries_of(ras) if file.name.endswith("_err_count") or file.name.startswith("aca_")]
    read = {file.name: _fact(file, counts_of) for file in blocks}
    if not read:
        return _each(COUNTERS.values(), LACKING)
    broken = [f"{name}: {fact['error']}" for name, fact in read.items() if "error" in fact]
    if broken:
        return _each(COUNTERS.values(), {"error": "; ".join(broken)})
    counts = [fact["value"] for fact in read.values() if "value" in fact]
    return {
        name: {"value": sum(told)} if (told := [one[mark] for one in counts if mark in one]) else LACKING
        for mark, name in COUNTERS.items()
    }


def counts_of(text: str) -> dict[str, int]:
    """{"ue": 0, "ce": 0} of "ue: 0\\nce: 0". Raises ValueError."""
    pairs = (line.split(":") for line in text.splitlines() if line.strip())
    counts = {name.strip(): int(number) for name, number in pairs}
    if "ue" not in counts or min(counts.values()) < 0:
        raise ValueError(text)
    return counts


def _pages(ras: Path) -> dict[str, Fact]:
    """How many bad pages of its memory are retired, will be, and could not be."""
    told = _fact(ras / "gpu_vram_bad_pages", bad_pages_of, may_be_empty=True)
    if "value" not in told:
        return _each(PAGES.values(), told)
    return {name: {"value": told["value"].get(flag, 0)} for flag, name in PAGES.items()}


def bad_pages_of(text: str) -> dict[str, int]:
    """How often each flag stands in lines like "0x027f5d43 : 0x00001000 : R". Raises ValueError."""
    counts: dict[str, int] = {}
    for line in text.splitlines():
        _, _, flag = (part.strip() for part in line.split(":"))
        if flag not in PAGES:
            raise ValueError(line)
        counts[flag] = counts.get(flag, 0) + 1
    return counts


def _sensors(folder: Path) -> dict[str, Fact]:
    facts: dict[str, Fact] = {}
    for chip in entries_of(folder):
        for label in chip.glob("temp*_label"):
            names = SENSORS.get(text_of(label) or "")
            if names:
                stem = label.name.removesuffix("_label")
                facts[names[0]] = _fact(chip / f"{stem}_input", _thousandths)
                facts[names[1]] = _fact(chip / f"{stem}_crit", _thousandths)
        power = _fact(chip / "power1_average", _millionths)
        facts["power"] = power if "value" in power else _fact(chip / "power1_input", _millionths)
        facts["power_limit"] = _fact(chip / "power1_cap", _millionths)
    missing = ("temperature", "edge_temperature", "memory_temperature", "power")
    return {**_each(missing, LACKING), **facts}


def _thousandths(text: str) -> float:
    return int(text) / 1000


def _millionths(text: str) -> float:
    return int(text) / 1_000_000


# --- amd-smi ---------------------------------------------------------------------------------------------------------

# Fact -> where `amd-smi static` and `amd-smi metric` have it.
TOLD: Mapping[str, tuple[str, ...]] = {
    "name": ("asic", "market_name"),
    "serial": ("asic", "asic_serial"),
    "vbios": ("vbios", "version"),
    "bad_page_limit": ("ras", "bad_page_threshold"),
    "temperature": ("temperature", "hotspot"),
    "temperature_slowdown": ("limit", "slowdown_hotspot_temperature"),
    "memory_temperature": ("temperature", "mem"),
    "temperature_memory_max": ("limit", "slowdown_vram_temperature"),
    "edge_temperature": ("temperature", "edge"),
    "edge_temperature_max": ("limit", "slowdown_edge_temperature"),
    "power": ("power", "socket_power"),
    "power_limit": ("limit", "socket_power"),
    "utilization": ("usage", "gfx_activity"),
    "pcie_replays": ("pcie", "replay_count"),
    "ecc_uncorrected": ("ecc", "total_uncorrectable_count"),
    "ecc_corrected": ("ecc", "total_correctable_count"),
    "ecc_deferred": ("ecc", "total_deferred_count"),
}
TEXTS = {"name", "serial", "vbios"}
MEBIBYTE = 2**20


async def _of_tool(host: Host, limit_s: float) -> dict[str, dict[str, Fact]]:
    """Facts by PCI address. Raises ToolError."""
    found: dict[int, dict[str, Any]] = {}
    for part in ("list", "static", "metric"):
        result = await host.tools.run("amd-smi", part, "--json", timeout_s=limit_s)
        try:
            told = [*rows_of(parsed(result.stdout))]
        except ValueError as problem:
            raise ToolError("amd-smi", f"amd-smi {part} printed no list of GPUs: {problem}", result) from problem
        for index, row in told:
            found.setdefault(index, {}).update(row)
    return {address: facts_of(row) for row in found.values() if (address := _address(row)) is not None}


def rows_of(document: object) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(index, row) of each GPU: a list, or from ROCm 6.4 on a list under `gpu_data`. Raises ValueError."""
    listed = document if isinstance(document, list) else rows(document, "gpu_data")
    if not listed:
        raise ValueError("there is no GPU in it")
    for row in listed:
        index = dig(row, "gpu")
        if type(index) is not int or not isinstance(row, Mapping):
            raise ValueError("a GPU without its number")
        yield index, row


def facts_of(row: Mapping[str, Any]) -> dict[str, Fact]:
    """The facts in what `list`, `static` and `metric` say of one GPU; "N/A" is what it does not have."""
    facts = {name: _told(dig(row, *path), text=name in TEXTS) for name, path in TOLD.items()}
    size = _told(dig(row, "vram", "size"), text=False)
    if "value" in size:
        facts["memory_bytes"] = {"value": size["value"] * MEBIBYTE}
    return facts


def _told(value: Any, *, text: bool) -> Fact:
    """A plain value, or one with its unit: {"value": 36, "unit": "C"}."""
    value = value.get("value") if isinstance(value, Mapping) else value
    if text and isinstance(value, str) and value != "N/A":
        return {"value": value}
    if not text and isinstance(value, int | float) and not isinstance(value, bool):
        return {"value": value}
    return LACKING


def _address(row: Mapping[str, Any]) -> str | None:
    value = dig(row, "bdf") or dig(row, "bus", "bdf")
    return value.lower() if isinstance(value, str) else None
