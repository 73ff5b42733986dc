"""The fault counters of the machine and of its disks at one moment. What they gain during a stage is charged to it.

Reading them never raises and clears nothing; what could not be read is named in `Counters.unreadable`. A counter that
the machine does not have is absent, not zero. Sources: kernel log, interrupts and meminfo of procfs, and in sysfs EDAC
(kernel documentation admin-guide/RAS), PCIe AER (ABI/testing/sysfs-bus-pci-devices-aer_stats), net statistics and
thermal_throttle of x86.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from probes import ipmi, kernel_log
from probes.host import Host, entries_of, int_of, text_of
from probes.ipmi import IpmiError, SelEntry
from probes.kernel_log import KernelLog
from probes.smart import Reading
from probes.tools import ToolError, ToolMissing

NIC_COUNTERS = (
    "rx_errors",
    "rx_crc_errors",
    "rx_frame_errors",
    "rx_length_errors",
    "rx_fifo_errors",
    "rx_over_errors",
    "rx_missed_errors",
    "rx_dropped",
    "tx_errors",
    "tx_carrier_errors",
    "tx_aborted_errors",
    "tx_dropped",
    "collisions",
)
LINK_COUNTERS = ("rx_crc_errors", "rx_frame_errors", "rx_length_errors", "tx_carrier_errors", "tx_aborted_errors")
"""Those that a cable, a transceiver or a port causes; drops and overruns come from load."""
SEL_READ = 25
SEL_LIMIT_S = 10.0
"""Without sensor names (`sel list`): those need the whole sensor repository, which takes many BMCs 20 s to give."""
AER_FILES = ("correctable", "nonfatal", "fatal")


@dataclass(frozen=True, slots=True)
class MemoryErrors:
    """Errors of one DIMM since the driver was loaded: corrected and uncorrected."""

    corrected: int = 0
    uncorrected: int = 0


@dataclass(frozen=True, slots=True)
class AerErrors:
    """PCIe errors of one device since boot."""

    correctable: int = 0
    nonfatal: int = 0
    fatal: int = 0


@dataclass(frozen=True, slots=True)
class Throttle:
    """How often, and for how many milliseconds, a CPU ran slower because it (or its package) was too hot.

    The times are None on kernels before 5.7, which only count.
    """

    count: int = 0
    time_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Counters:
    """One reading of all fault counters."""

    uptime_s: float = 0.0
    kernel_log: KernelLog = field(default_factory=KernelLog)
    memory: Mapping[str, MemoryErrors] = field(default_factory=dict)
    """By DIMM label as the board's maker printed it, else by "mc0/dimm3"."""
    mce_exceptions: int | None = None
    """Machine check exceptions over all CPUs: uncorrected errors."""
    hardware_corrupted_kib: int | None = None
    """Memory that the kernel has taken out of use because it is broken."""
    aer: Mapping[str, AerErrors] = field(default_factory=dict)
    """By PCI address."""
    nics: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By interface name: counter → value, `carrier_changes` included."""
    nic_macs: Mapping[str, str] = field(default_factory=dict)
    """MAC address by interface name, of the interfaces that are hardware."""
    usb_nics: tuple[str, ...] = ()
    """Those of them that hang on USB, as a BMC's own does: they may come and go."""
    throttle: Mapping[str, Throttle] = field(default_factory=dict)
    """By CPU number. Empty on machines without these counters (AMD, ARM, virtual)."""
    sel: tuple[SelEntry, ...] | None = None
    """The newest entries of the BMC's event log; None without a BMC or ipmitool, and where it was not read."""
    sel_unreadable: str | None = None
    """Why a BMC that is there did not give them. No gap of the other counters: a BMC may be slow at any time."""
    disks: tuple[Reading, ...] = ()
    """What the disks said of themselves; empty where nobody asked them."""
    unreadable: tuple[str, ...] = ()

    @property
    def is_blank(self) -> bool:
        """Nothing was read at all, for the reason in `unreadable`: no counter stands at 0."""
        return bool(self.unreadable) and self.uptime_s == 0.0


async def snapshot(host: Host, *, limit_s: float, bmc: bool = True) -> Counters:
    """Read all counters, in at most `limit_s`. Takes milliseconds, unless a device hangs; with a BMC about a second.

    `bmc`: whether its event log is read too.
    """
    if not bmc or not ipmi.present(host):
        return await _kernel_snapshot(host, limit_s)
    counters, (sel, problem) = await asyncio.gather(_kernel_snapshot(host, limit_s), _sel(host, limit_s))
    return replace(counters, sel=sel, sel_unreadable=problem)


async def _sel(host: Host, limit_s: float) -> tuple[tuple[SelEntry, ...] | None, str | None]:
    """The newest entries, or why there are none to be had."""
    limit_s = min(limit_s, SEL_LIMIT_S)
    try:
        async with asyncio.timeout(limit_s):
            text = await ipmi.run(host, "sel", "list", "last", str(SEL_READ), limit_s=limit_s)
        return tuple(ipmi.sel_entries(text)), None
    except ToolMissing:
        return None, None
    except TimeoutError:
        return None, f"The BMC did not give its event log within {limit_s:g} s"
    except (IpmiError, ToolError) as problem:
        return None, str(problem)


async def _kernel_snapshot(host: Host, limit_s: float) -> Counters:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Counters] = loop.create_future()

    def deliver(counters: Counters) -> None:
        if not done.done():
            done.set_result(counters)

    def work() -> None:
        counters = read(host, limit_s=limit_s)
        if not loop.is_closed():
            loop.call_soon_threadsafe(deliver, counters)

    # A daemon thread: a read that hangs in the kernel must hold up neither the stage nor the end of the agent.
    threading.Thread(target=work, name="counters", daemon=True).start()
    try:
        async with asyncio.timeout(limit_s):
            return await done
    except TimeoutError:
        why = f"the fault counters could not be read within {limit_s:g} s: a read hangs in the kernel"
        return Counters(kernel_log=KernelLog(unreadable=why), unreadable=(why,))


def read(host: Host, *, limit_s: float = 5.0) -> Counters:
    """Read all counters, blocking. Never raises."""
    unreadable: list[str] = []
    log = kernel_log.read(host, limit_s=limit_s)
    if log.unreadable:
        unreadable.append(log.unreadable)
    return Counters(
        uptime_s=_uptime(host),
        kernel_log=log,
        memory=_memory(host, unreadable),
        mce_exceptions=_mce_exceptions(host),
        hardware_corrupted_kib=_hardware_corrupted(host),
        aer=_aer(host, unreadable),
        nics=_nics(host),
        nic_macs=_nic_macs(host),
        usb_nics=_usb_nics(host),
        throttle=_throttle(host),
        unreadable=tuple(unreadable),
    )


def uncorrected(host: Host) -> tuple[Mapping[str, MemoryErrors], int | None]:
    """Only what tells of lost data, as `Counters.memory` and `Counters.mce_exceptions`: for a look every few seconds.

    Blocking. Never raises; what cannot be read is left out.
    """
    return _memory(host, []), _mce_exceptions(host)


def _uptime(host: Host) -> float:
    words = (text_of(host.proc("uptime")) or "").split()
    try:
        return float(words[0]) if words else 0.0
    except ValueError:
        return 0.0


def _mce_exceptions(host: Host) -> int | None:
    """The row " MCE:  0  0  Machine check exceptions", one figure a CPU."""
    for line in (text_of(host.proc("interrupts")) or "").splitlines():
        name, _, rest = line.strip().partition(":")
        if name == "MCE":
            return sum(int(word) for word in rest.split() if word.isdigit())
    return None


def _hardware_corrupted(host: Host) -> int | None:
    match = re.search(r"^HardwareCorrupted:\s+(\d+) kB", text_of(host.proc("meminfo")) or "", re.MULTILINE)
    return int(match[1]) if match else None


# --- memory: EDAC ----------------------------------------------------------------------------------------------------


def _memory(host: Host, unreadable: list[str]) -> dict[str, MemoryErrors]:
    found: dict[str, MemoryErrors] = {}
    for controller in entries_of(host.sys("devices", "system", "edac", "mc")):
        if re.fullmatch(r"mc\d+", controller.name):
            _add_controller(found, controller, unreadable)
    return found


def _add_controller(found: dict[str, MemoryErrors], controller: Path, unreadable: list[str]) -> None:
    """Its DIMMs, and as an entry of its own what the controller could not put down to a DIMM."""
    known = MemoryErrors()
    for dimm in entries_of(controller):
        if not re.fullmatch(r"(?:dimm|rank)\d+", dimm.name):
            continue
        errors = _errors(dimm / "dimm_ce_count", dimm / "dimm_ue_count")
        if errors is None:
            unreadable.append(f"the memory error counters of {controller.name}/{dimm.name}")
            continue
        known = MemoryErrors(known.corrected + errors.corrected, known.uncorrected + errors.uncorrected)
        found[_dimm_name(found, dimm)] = errors
    total = _errors(controller / "ce_count", controller / "ue_count")
    if total is None:
        unreadable.append(f"the memory error counters of {controller.name}")
        return
    found[controller.name] = MemoryErrors(
        max(0, total.corrected - known.corrected), max(0, total.uncorrected - known.uncorrected)
    )


def _errors(corrected: Path, uncorrected: Path) -> MemoryErrors | None:
    counts = int_of(corrected), int_of(uncorrected)
    return None if counts[0] is None or counts[1] is None else MemoryErrors(counts[0], counts[1])


def _dimm_name(taken: Mapping[str, MemoryErrors], dimm: Path) -> str:
    """The label, if there is one and it is unique (drivers give some boards the same label many times)."""
    place = f"{dimm.parent.name}/{dimm.name}"
    label = text_of(dimm / "dimm_label")
    if not label:
        return place
    return label if label not in taken else f"{label} ({place})"


# --- PCIe, NICs, CPUs ------------------------------------------------------------------------------------------------


def _aer(host: Host, unreadable: list[str]) -> dict[str, AerErrors]:
    found: dict[str, AerErrors] = {}
    for device in entries_of(host.sys("bus", "pci", "devices")):
        if not (device / "aer_dev_fatal").exists():
            continue
        totals = [_aer_total(device / f"aer_dev_{name}") for name in AER_FILES]
        if None in totals:
            unreadable.append(f"the PCIe error counters of {device.name}")
            continue
        found[device.name] = AerErrors(*(total or 0 for total in totals))
    return found


def _aer_total(path: Path) -> int | None:
    """The figure after TOTAL_ERR_COR, TOTAL_ERR_NONFATAL or TOTAL_ERR_FATAL, the file's last line."""
    match = re.search(r"^TOTAL_ERR_\w+ (\d+)", text_of(path) or "", re.MULTILINE)
    return int(match[1]) if match else None


def _nics(host: Host) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for nic in entries_of(host.sys("class", "net")):
        values = {name: int_of(nic / "statistics" / name) for name in NIC_COUNTERS}
        values["carrier_changes"] = int_of(nic / "carrier_changes")
        found[nic.name] = {name: value for name, value in values.items() if value is not None}
    return found


def _nic_macs(host: Host) -> dict[str, str]:
    """Bridges, tunnels and other software have no device behind them."""
    nics = (nic for nic in entries_of(host.sys("class", "net")) if (nic / "device").exists())
    return {nic.name: mac for nic in nics if (mac := text_of(nic / "address"))}


def _usb_nics(host: Host) -> tuple[str, ...]:
    devices = {nic.name: os.path.realpath(nic / "device") for nic in entries_of(host.sys("class", "net"))}
    return tuple(sorted(name for name, path in devices.items() if "/usb" in path))


def _throttle(host: Host) -> dict[str, Throttle]:
    found: dict[str, Throttle] = {}
    for cpu in entries_of(host.sys("devices", "system", "cpu")):
        folder = cpu / "thermal_throttle"
        if not re.fullmatch(r"cpu\d+", cpu.name) or not folder.is_dir():
            continue
        counts = [int_of(folder / f"{part}_throttle_count") for part in ("core", "package")]
        times = [int_of(folder / f"{part}_throttle_total_time_ms") for part in ("core", "package")]
        # The package's time runs on all its CPUs, the core's on its own: the longer one is how long this CPU was slow.
        known = [value for value in times if value is not None]
        found[cpu.name[3:]] = Throttle(max(value or 0 for value in counts), max(known) if known else None)
    return found


# --- what was gained -------------------------------------------------------------------------------------------------


def nic_errors(before: Counters, after: Counters, name: str) -> dict[str, int]:
    """What the error counters of one interface gained: counter → increase, without those that stood still."""
    old, new = before.nics.get(name, {}), after.nics.get(name, {})
    gains = {counter: value - old.get(counter, 0) for counter, value in new.items()}
    return {counter: gain for counter, gain in gains.items() if gain > 0}


def throttled_fraction(before: Counters, after: Counters, duration_s: float) -> dict[str, float]:
    """The part of `duration_s` that each CPU was slowed down for its heat, 0 to 1, by CPU number.

    Empty where the machine does not count the time: then throttling cannot be judged.
    """
    found: dict[str, float] = {}
    for cpu, throttle in after.throttle.items():
        old = before.throttle.get(cpu, Throttle())
        if throttle.time_ms is not None and duration_s > 0:
            gained_s = max(0, throttle.time_ms - (old.time_ms or 0)) / 1000
            found[cpu] = min(1.0, gained_s / duration_s)
    return found
