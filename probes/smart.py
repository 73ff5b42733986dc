"""The disks that smartctl can reach, and what it says of each.

`smartctl --scan-open` shows disks behind RAID controllers, which the kernel does not; the kernel shows disks that the
scan leaves out. Both lists are merged into targets, one a disk (one a controller for NVMe).
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from probes import pysmart_bridge
from probes.json_paths import dig, rows
from probes.smart_parse import Unreachable, Unreadable, parse_report
from probes.smart_report import SmartReport
from probes.tools import ToolError, ToolMissing, ToolResult, ToolRunner, ToolTimeout

SCAN_LIMIT_S = 60.0
READ_LIMIT_S = 60.0
READS_AT_ONCE = 16
CCISS_DISKS = 128
"""As many as an HP Smart Array can carry; each is tried until one is not there."""

# Transports behind which nothing answers to SMART: the disk is another machine's, or none at all.
WITHOUT_SMART = frozenset({"virtio", "xen", "hyperv", "iscsi", "fc", "nbd", "rbd", "nvme-of", "nvdimm"})
# Transports where SMART is the exception: absence says nothing bad.
SELDOM_SMART = frozenset({"usb", "mmc", "ufs"})


class ListedDisk(Protocol):
    """What is needed of the machine's disk list (`probes.disks.Disk`)."""

    @property
    def name(self) -> str: ...

    @property
    def serial(self) -> str | None: ...

    @property
    def model(self) -> str | None: ...

    @property
    def transport(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Target:
    """One disk as smartctl is told of it. `type` is smartctl's `-d`; None lets smartctl find out."""

    device: str
    type: str | None = None
    disks: tuple[str, ...] = ()
    """Kernel names: "sda"; several for an NVMe controller with several namespaces; none behind a RAID controller."""
    serial: str = ""
    model: str = ""
    transport: str = ""
    """As the kernel's disk list has them; empty behind a RAID controller."""

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("-d", self.type, self.device) if self.type else (self.device,)

    @property
    def pass_through(self) -> bool:
        """Reached through a RAID controller rather than as a disk of the kernel."""
        return not self.disks

    @property
    def name(self) -> str:
        """For messages: "/dev/sda", "/dev/bus/0 megaraid,3"."""
        return f"{self.device} {self.type}" if self.pass_through and self.type else self.device


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of reading one target: a report, or why there is none."""

    target: Target
    report: SmartReport | None
    problem: str = ""
    tool_missing: bool = False
    unreachable: bool = False
    """smartctl ran, and could not open the disk."""

    @property
    def component(self) -> str:
        """`disk:SERIAL`, by the disk's own word first; by its name where it has no serial."""
        serial = (self.report.serial if self.report else "") or self.target.serial
        return f"disk:{serial or (self.target.disks[0] if self.target.disks else self.target.name)}"

    @property
    def model(self) -> str:
        return (self.report.model if self.report else "") or self.target.model


async def scan(tools: ToolRunner) -> list[tuple[str, str | None]]:
    """What `smartctl --scan-open` finds, as (device, type). Raises ToolError and Unreadable."""
    result = await pysmart_bridge.call(
        tools, lambda smartctl: smartctl.generic_call(["--scan-open", "--json"]), timeout_s=SCAN_LIMIT_S
    )
    return parse_scan(result)


def parse_scan(result: ToolResult) -> list[tuple[str, str | None]]:
    """What `smartctl --scan-open --json` printed. Raises Unreadable."""
    try:
        document = json.loads(result.stdout)
    except (ValueError, RecursionError):
        raise Unreadable(f"smartctl --scan-open printed no whole JSON ({result.how_it_ended()})") from None
    if dig(document, "smartctl", "exit_status") != 0 or result.exit_code != 0:
        raise Unreadable(f"smartctl --scan-open failed ({result.how_it_ended()}) {result.last_words()}")
    return [found for row in rows(document, "devices") if (found := _scanned(row)) is not None]


def _scanned(row: object) -> tuple[str, str | None] | None:
    device, kind = dig(row, "name"), dig(row, "type")
    if not isinstance(device, str):
        raise Unreadable(f"smartctl --scan-open lists a device without a name: {row!r:.80}")
    return device, kind if isinstance(kind, str) else None


def merge(scanned: Iterable[tuple[str, str | None]], disks: Sequence[ListedDisk]) -> list[Target]:
    """One target a disk: those that the scan found, with what the kernel knows, then those that it left out."""
    left = {f"/dev/{disk.name}": disk for disk in disks}
    targets = []
    for device, kind in dict.fromkeys(scanned):
        mine = [left.pop(path) for path in list(left) if path == device or _controller(path) == _own(device)]
        targets.append(_target(device, kind, mine))
    by_device: dict[str, list[ListedDisk]] = {}
    for path, disk in left.items():
        by_device.setdefault(_controller(path) or path, []).append(disk)
    return targets + [
        _target(device, "nvme" if _controller(device) else None, mine) for device, mine in by_device.items()
    ]


def _controller(device: str) -> str | None:
    """`/dev/nvme0` for one of its namespaces and for itself; None for anything else."""
    match = re.match(r"/dev/nvme\d+(?=n\d+$|$)", device)
    return match[0] if match else None


def _own(device: str) -> str:
    """The NVMe controller that a device is or belongs to; for anything else something that no disk belongs to."""
    return _controller(device) or device


def _target(device: str, kind: str | None, disks: Sequence[ListedDisk]) -> Target:
    target = Target(device, kind, disks=tuple(disk.name for disk in disks))
    if not disks:
        # A disk that the scan found and the kernel's list lacks is still a disk of the kernel by its name.
        return replace(target, disks=(device.removeprefix("/dev/"),)) if _is_kernel_name(device) else target
    first = disks[0]
    return replace(target, serial=first.serial or "", model=first.model or "", transport=first.transport or "")


def _is_kernel_name(device: str) -> bool:
    return re.fullmatch(r"/dev/(sd[a-z]+|hd[a-z]|nvme\d+(n\d+)?)", device) is not None


async def read_all(tools: ToolRunner, targets: Iterable[Target], *, limit_s: float = READ_LIMIT_S) -> list[Reading]:
    """Every target's report, all at once, each within `limit_s`."""
    gate = asyncio.Semaphore(READS_AT_ONCE)

    async def one(target: Target) -> Reading:
        async with gate:
            return await read(tools, target, limit_s=limit_s)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(target)) for target in targets]
    return [task.result() for task in tasks]


async def read(tools: ToolRunner, target: Target, *, limit_s: float = READ_LIMIT_S) -> Reading:
    """The report of one target. A tool that is missing, killed or prints garbage is a Reading without a report."""
    try:
        result = await tools.run("smartctl", "--json", "-x", *target.arguments, timeout_s=limit_s, accept=None)
        if result.truncated:
            raise Unreadable("smartctl printed more than was kept")  # noqa: TRY301
        return Reading(target, parse_report(result.stdout, result.exit_code))
    except ToolTimeout:
        return Reading(target, None, f"smartctl did not answer within {limit_s:.0f} s")
    except ToolMissing as problem:
        return Reading(target, None, str(problem), tool_missing=True)
    except (ToolError, Unreadable) as problem:
        return Reading(target, None, str(problem), unreachable=isinstance(problem, Unreachable))


async def read_cciss(tools: ToolRunner, volume: Target, *, limit_s: float = READ_LIMIT_S) -> list[Reading]:
    """The disks behind an HP Smart Array, which no scan lists: asked for one by one until there is none."""
    found: list[Reading] = []
    for index in range(CCISS_DISKS):
        reading = await read(tools, Target(volume.device, f"cciss,{index}"), limit_s=limit_s)
        if reading.report is None:
            break
        found.append(reading)
    return found


def without_twins(readings: Sequence[Reading]) -> list[Reading]:
    """Without the pass-through view of a disk that the kernel shows too (a RAID controller's JBOD disks).

    Disks of the kernel are never dropped: two with one serial are two disks until somebody looks at them.
    """
    plain = {reading.report.serial for reading in readings if reading.report and not reading.target.pass_through}
    kept, seen = [], set(plain - {""})
    for reading in readings:
        serial = reading.report.serial if reading.report else ""
        if reading.target.pass_through and serial:
            if serial in seen:
                continue
            seen.add(serial)
        kept.append(reading)
    return kept
