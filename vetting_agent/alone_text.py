"""An inventory and an outcome as text for a person at a terminal. Pure.

Whatever hardware says about itself goes through `printable`: a serial number must not move the cursor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from probes.disks import Disk
from probes.gpus import Gpu
from probes.inventory import Inventory
from probes.memory import Dimm
from probes.nics import Nic
from probes.psus import Psu
from stages.outcome import Finding, Outcome, Severity
from vetting_agent.printable import printable

T = TypeVar("T")
MARKS = {Severity.ERROR: "ERROR", Severity.WARNING: "warning", Severity.INFO: "info"}


def table(rows: Sequence[Sequence[object]], indent: str = "  ") -> list[str]:
    """Rows with aligned columns; None is shown as a dash."""
    cells = [["-" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)] if cells else []
    return [(indent + "  ".join(map(str.ljust, row, widths))).rstrip() for row in cells]


def inventory(found: Inventory) -> str:
    """The machine, section by section."""
    lines: list[str] = []
    sections = {
        "System": _facts(found.system, ("vendor", "product", "serial", "uuid", "bios", "arch", "kernel", "os")),
        "Boot": _facts(found.boot, ("firmware", "secure_boot", "booted_mac")),
        "CPU": _facts(found.cpu, ("model", "sockets", "physical_cores", "logical_cores", "offline", "microcode")),
        "Memory": _memory(found),
        "Disks": _list(found.disks, ("name", "serial", "model", "size", "transport", "firmware", "pci"), _disk_row),
        "NICs": _list(found.nics, ("name", "mac", "link", "speed", "driver", "firmware", "pci"), _nic_row),
        "GPUs": _list(found.gpus, ("index", "model", "uuid", "memory", "driver"), _gpu_row),
        "PSUs": _list(found.psus, ("name", "serial", "present", "watts"), _psu_row),
        "BMC": _facts(found.bmc, ("address", "firmware")),
        "TPM": _facts(found.tpm, ("version",)),
        "PCI": [f"  {len(found.pci)} functions"] if found.pci is not None else ["  not read"],
        "Notes": [f"  {printable(line)}" for line in found.notes] or ["  none"],
    }
    for title, body in sections.items():
        lines += [title, *body, ""]
    return "\n".join(lines[:-1])


def _facts(section: object, names: Iterable[str]) -> list[str]:
    if section is None:
        return ["  none, or not read (see the notes)"]
    return table([(name.replace("_", " "), _value(getattr(section, name, None))) for name in names])


def _value(value: object) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return value


def _memory(found: Inventory) -> list[str]:
    memory = found.memory
    if memory is None:
        return ["  not read (see the notes)"]
    head = table([("usable", f"{memory.usable_gib:.1f} GiB"), ("ECC", memory.error_correction)])
    if not memory.dimms:
        return head
    names = ("slot", "size", "speed", "manufacturer", "part", "serial")
    return [*head, *table([names, *map(_dimm_row, memory.dimms)])]


def _list(things: Sequence[T] | None, names: Sequence[str], row: Callable[[T], Sequence[object]]) -> list[str]:
    if things is None:
        return ["  not read (see the notes)"]
    return table([names, *map(row, things)]) if things else ["  none"]


def _dimm_row(dimm: Dimm) -> Sequence[object]:
    size, speed = _unit(dimm.size, "GiB"), _unit(dimm.configured_speed or dimm.speed, "MT/s")
    return (dimm.slot, size, speed, dimm.manufacturer, dimm.part, dimm.serial)


def _disk_row(disk: Disk) -> Sequence[object]:
    return (disk.name, disk.serial, disk.model, _unit(disk.size_gb, "GB"), disk.transport, disk.firmware, disk.pci)


def _nic_row(nic: Nic) -> Sequence[object]:
    link = {True: "up", False: "down"}.get(bool(nic.link)) if nic.link is not None else None
    return (nic.name, nic.mac, link, _unit(nic.speed_mbps, "Mb/s"), nic.driver, nic.firmware, nic.pci)


def _gpu_row(gpu: Gpu) -> Sequence[object]:
    return (gpu.index, gpu.model, gpu.uuid, _unit(gpu.memory_gib, "GiB"), gpu.driver)


def _psu_row(psu: Psu) -> Sequence[object]:
    return (psu.name, psu.serial, _value(psu.present), _unit(psu.watts, "W"))


def _unit(value: float | None, unit: str) -> str | None:
    return None if value is None else f"{value:g} {unit}"


def outcome(title: str, result: Outcome) -> str:
    """Findings, figures, coverage and the verdict of one stage."""
    lines = [printable(title), f"  {printable(result.headline)}"]
    if result.findings:
        lines += ["", "Findings", *(line for finding in result.findings for line in _finding(finding))]
    if result.measurements:
        rows = [(one.component, one.name, f"{one.value:g} {one.unit}") for one in result.measurements]
        lines += ["", "Measured", *table(rows)]
    if result.coverage:
        lines += ["", "Tested", *table([(name, f"{part:.0%}") for name, part in result.coverage.items()])]
    verdict = result.verdict.value.replace("_", " ").upper()
    return "\n".join([*lines, "", f"Verdict: {verdict} after {result.duration_s:.1f} s: {printable(result.message)}"])


def _finding(finding: Finding) -> list[str]:
    head = f"  {MARKS[finding.severity]:<7}  {printable(finding.component)}  [{finding.reason_code.value}]"
    return [head, f"           {printable(finding.message)}"]
