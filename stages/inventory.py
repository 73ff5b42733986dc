"""Inventory: what the machine is made of, and whether all of it is there.

Reads every section (`probes.inventory`), writes `inventory.json` and `components.json` into the evidence folder, and
judges what needs no load: expected disks, CPUs offline, memory short of its modules, links below their ends.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from probes import inventory as probe
from probes.cpu import Cpu
from probes.disks import Disk
from probes.inventory import Inventory
from probes.memory import Memory
from probes.pci import LinkShortfall, PciDevice, degraded_links
from stages.outcome import Finding, Measurement, Outcome, ReasonCode, Severity, error, info, warning
from stages.stage import ExpectedDisk, Stage, StageContext

INVENTORY_FILE = "inventory.json"
COMPONENTS_FILE = "components.json"
PLANNED_S = 10.0
# Slow down when idle by design; their link speed is judged under load.
_SAVES_POWER = frozenset({"display", "accelerator"})


class LinkSeverity(StrEnum):
    """How much a link that is too narrow weighs. Slots wired narrower exist, hence a warning by default."""

    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Options:
    """Parameters of the stage."""

    section_limit_s: float = field(default=probe.SECTION_LIMIT_S, metadata={"minimum": 0.1, "maximum": 300})
    """How long each section may take."""
    disk_size_tolerance_percent: float = field(default=1.0, metadata={"minimum": 0, "maximum": 100})
    memory_short_modules: float = field(default=0.5, metadata={"minimum": 0.05, "maximum": 100})
    """Memory may be short of its modules' sum by less than this many of the smallest module."""
    pcie_link_severity: LinkSeverity = LinkSeverity.WARNING


@dataclass(frozen=True, slots=True)
class Readings:
    """The whole inventory, and the disks that the claim names."""

    found: Inventory
    expected: tuple[ExpectedDisk, ...]


async def run(context: StageContext, options: Options) -> Readings:
    """Read the machine, and keep what was read."""
    context.info("Reading the inventory")
    found = await probe.collect(context.host, options.section_limit_s)
    _keep(context, INVENTORY_FILE, asdict(found))
    _keep(context, COMPONENTS_FILE, probe.components(found))
    for failure in found.failed:
        context.warn(f"{failure.section} could not be read: {failure.message}")
    context.info(summary(found))
    context.progress(1.0, 0.0)
    return Readings(found, tuple(context.facts.expected_disks or ()))


def judge(readings: Readings, options: Options) -> Outcome:
    """Findings, figures and coverage of an inventory. Pure."""
    found, expected = readings.found, readings.expected
    findings = [
        *_unread_sections(found),
        *(_disk_findings(found.disks, expected, options) if found.disks is not None else ()),
        *(_cpu_findings(found.cpu) if found.cpu else ()),
        *(_memory_findings(found.memory, options) if found.memory else ()),
        *_link_findings(found.pci or (), options),
    ]
    return Outcome(summary(found), tuple(findings), tuple(_measurements(found)), _coverage(found, expected))


def summary(found: Inventory) -> str:
    """The machine in one line."""
    cpu, memory = found.cpu, found.memory
    parts = [
        f"{cpu.sockets or '?'} x {cpu.model or 'unknown CPU'}, {cpu.physical_cores or '?'} cores"
        if cpu
        else "CPU unread",
        f"{memory.total_gib:.1f} GiB RAM{_module_count(memory)}" if memory else "memory unread",
        _counted(found.disks, "disk") + _total_size(found.disks),
        _counted(found.nics, "NIC"),
        _counted(found.gpus, "GPU"),
    ]
    return "; ".join(parts)


def _module_count(memory: Memory) -> str:
    return f" in {_counted(memory.dimms, 'module')}" if memory.dimms else ""


def _counted(things: Sequence[object] | None, name: str) -> str:
    if things is None:
        return f"{name}s unread"
    return f"{len(things) or 'no'} {name}{'' if len(things) == 1 else 's'}"


def _total_size(disks: Sequence[Disk] | None) -> str:
    total = sum(disk.size_gb or 0.0 for disk in disks or ())
    return f" ({total:,.0f} GB)" if total else ""


def _unread_sections(found: Inventory) -> Iterable[Finding]:
    for failure in found.failed:
        text = f"The inventory's section {failure.section} could not be read: {failure.message}"
        yield error(ReasonCode.PROBE_ERROR, failure.section, text, failure.message)


def _disk_findings(disks: Sequence[Disk], expected: Sequence[ExpectedDisk], options: Options) -> Iterable[Finding]:
    for wanted in expected:
        yield from _expected_disk(wanted, disks, options)
    yield from _ambiguous_serials(disks)
    for disk in disks:
        if disk.size_bytes == 0:
            text = f"Disk {disk.name} ({disk.model or 'unknown model'}) answers, but says that its size is 0"
            yield warning(ReasonCode.DISK_SIZE_MISMATCH, disk.component, text)


def _expected_disk(wanted: ExpectedDisk, disks: Sequence[Disk], options: Options) -> Iterable[Finding]:
    component = f"disk:{wanted.serial}"
    same = [disk for disk in disks if disk.serial == wanted.serial.strip()]
    if not same:
        there = ", ".join(sorted(disk.serial or f"{disk.name} without serial" for disk in disks)) or "none"
        size = f" of {wanted.size_gb:g} GB" if wanted.size_gb is not None else ""
        text = f"Expected disk {wanted.serial}{size} is not there; found: {there}"
        yield error(ReasonCode.DISK_MISSING, component, text)
    elif wanted.size_gb is not None and not any(_size_fits(disk, wanted.size_gb, options) for disk in same):
        sizes = ", ".join("an unknown size" if disk.size_gb is None else f"{disk.size_gb:g} GB" for disk in same)
        text = (
            f"Disk {wanted.serial} ({same[0].name}) should have {wanted.size_gb:g} GB "
            f"within {options.disk_size_tolerance_percent:g} %, but has {sizes}"
        )
        yield error(ReasonCode.DISK_SIZE_MISMATCH, component, text)


def _size_fits(disk: Disk, size_gb: float, options: Options) -> bool:
    if disk.size_gb is None:
        return False
    return abs(disk.size_gb - size_gb) <= size_gb * options.disk_size_tolerance_percent / 100


def _ambiguous_serials(disks: Sequence[Disk]) -> Iterable[Finding]:
    code = ReasonCode.DISK_SERIAL_AMBIGUOUS
    by_serial: dict[str, list[str]] = {}
    for disk in disks:
        if disk.serial is None:
            text = f"Disk {disk.name} ({disk.model or disk.transport or 'unknown kind'}) has no serial number"
            yield warning(code, disk.component, f"{text}: it cannot be told from another one")
        else:
            by_serial.setdefault(disk.serial, []).append(disk.name)
    for serial, names in by_serial.items():
        if len(names) > 1:
            text = f"The disks {' and '.join(names)} have the same serial number {serial}"
            yield warning(code, f"disk:{serial}", f"{text}: two paths or namespaces of one disk, or a false serial")


def _cpu_findings(cpu: Cpu) -> Iterable[Finding]:
    if cpu.present is None:
        text = "The kernel does not say which CPUs are present, so it cannot be checked that all are online"
        yield error(ReasonCode.PROBE_ERROR, "cpu", text)
    if not cpu.offline:
        if (cpu.present or 0) > (cpu.logical_cores or 0):
            text = f"{cpu.present} CPUs are present, and of {cpu.logical_cores or 0} it is known that they are online"
            yield error(ReasonCode.PROBE_ERROR, "cpu", text)
        return
    numbers = ", ".join(map(str, cpu.offline[:16])) + (" ..." if len(cpu.offline) > 16 else "")
    text = f"{len(cpu.offline)} of {cpu.present} CPUs are present but offline: {numbers}"
    component = f"cpu:{cpu.offline[0]}" if len(cpu.offline) == 1 else "cpu"
    if cpu.smt in {"off", "forceoff"} and 2 * len(cpu.offline) <= (cpu.present or 0):
        yield warning(ReasonCode.CPU_OFFLINE, component, f"{text} (simultaneous multithreading is switched off)")
    else:
        yield error(ReasonCode.CPU_OFFLINE, component, text)


def _memory_findings(memory: Memory, options: Options) -> Iterable[Finding]:
    for dimm in memory.dimms or ():
        if dimm.size is None:
            text = (
                f"The firmware does not say how large the module {dimm.slot} is: whether all of it is used is not known"
            )
            yield warning(ReasonCode.PROBE_ERROR, dimm.component, text)
    sizes = [dimm.size for dimm in memory.dimms or () if dimm.size]
    if not sizes:
        return
    short = sum(sizes) - memory.usable_gib
    if short >= options.memory_short_modules * min(sizes):
        text = (
            f"{memory.usable_gib:.1f} GiB of memory are usable, but the {len(sizes)} modules add up to "
            f"{sum(sizes):g} GiB: {short:.1f} GiB are missing, with modules of {min(sizes):g} GiB and more. A module "
            "is not used, or the firmware keeps memory for itself (mirroring, sparing, integrated graphics)"
        )
        yield error(ReasonCode.MEMORY_MISSING, "memory", text)
    if memory.hardware_corrupted_kib:
        text = f"The kernel has taken {memory.hardware_corrupted_kib} KiB out of use after memory errors since boot"
        yield info(ReasonCode.EARLIER_EVENTS, "memory", text)


def _link_findings(devices: Sequence[PciDevice], options: Options) -> Iterable[Finding]:
    for link in degraded_links(devices):
        what = f"{link.kind or 'device'} at {link.address}"
        if link.narrow:
            text = (
                f"The PCIe link of the {what} runs with {link.width} lanes; "
                f"it and port {link.upstream} have {link.expected_width}"
            )
            severity = Severity(options.pcie_link_severity.value)
            yield Finding(ReasonCode.PCIE_LINK_DEGRADED, severity, f"pci:{link.address}", text)
        if link.slow:
            yield _slow_link(link, what)


def _slow_link(link: LinkShortfall, what: str) -> Finding:
    """Never an error here: at rest a low speed may be power saving."""
    text = (
        f"The PCIe link of the {what} runs at {link.speed_gts:g} GT/s; it and port {link.upstream} can do "
        f"{link.expected_speed_gts:g}. At rest this may be power saving"
    )
    tell = info if link.kind in _SAVES_POWER else warning
    return tell(ReasonCode.PCIE_LINK_DEGRADED, f"pci:{link.address}", text)


def _measurements(found: Inventory) -> Iterable[Measurement]:
    if cpu := found.cpu:
        counts = {"sockets": cpu.sockets, "physical_cores": cpu.physical_cores, "logical_cores": cpu.logical_cores}
        yield from (Measurement(name, "cpu", float(value), "count") for name, value in counts.items() if value)
    if memory := found.memory:
        yield Measurement("memory_usable", "memory", memory.usable_gib, "GiB")
        if memory.installed_gib is not None:
            yield Measurement("memory_installed", "memory", memory.installed_gib, "GiB")
    for disk in found.disks or ():
        if disk.size_gb is not None:
            yield Measurement("size", disk.component, disk.size_gb, "GB")
    for nic in found.nics or ():
        if nic.speed_mbps is not None:
            yield Measurement("link_speed", nic.component, float(nic.speed_mbps), "Mb/s")


def _coverage(found: Inventory, expected: Sequence[ExpectedDisk]) -> dict[str, float]:
    """1 for each section and expected disk that was read, 0 for each that was not."""
    failed = {failure.section for failure in found.failed}
    sections = ("system", "cpu", "memory", "disks", "nics", "gpus", "psus", "bmc", "tpm", "boot", "pci")
    serials = {disk.serial for disk in found.disks or ()}
    return {
        **{name: float(name not in failed) for name in (*sections, *sorted(failed))},
        **{f"disk:{wanted.serial}": float(wanted.serial.strip() in serials) for wanted in expected},
    }


def _keep(context: StageContext, file_name: str, content: object) -> None:
    # A NUL in a hardware's answer would be refused by databases that take the text later.
    text = json.dumps(content, indent=1).replace("\\u0000", "\\ufffd")
    try:
        (context.evidence / file_name).write_text(text + "\n", encoding="utf-8")
    except OSError as problem:
        context.warn(f"evidence file {file_name} could not be written: {problem}")


def artifact(evidence: Path) -> Mapping[str, Any] | None:
    """The inventory that the stage left in its evidence folder; None when it did not come so far."""
    content = _kept(evidence / INVENTORY_FILE)
    return content if isinstance(content, dict) else None


def components(evidence: Path) -> list[str]:
    """The components that the stage left in its evidence folder; empty when it did not come so far."""
    content = _kept(evidence / COMPONENTS_FILE)
    return [str(one) for one in content] if isinstance(content, list) else []


def _kept(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


STAGE: Stage[Options] = Stage(
    name="Inventory",
    state="InventoryCheck",
    title="Inventory",
    options=Options,
    planned_s=lambda _: PLANNED_S,
    run=run,
    readings=Readings,
    judge=judge,
    tools=("dmidecode",),
    artifact=artifact,
)
