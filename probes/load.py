"""How hard the machine works right now: CPU time, clocks, free memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from probes.host import Host, entries_of, int_of, text_of


@dataclass(frozen=True, slots=True)
class CpuTime:
    """Clock ticks of one CPU since boot: all, and those in which it was not idle."""

    total: int
    busy: int


def cpu_times(host: Host) -> dict[int, CpuTime]:
    """Of each online CPU, by number. Time that a hypervisor took away counts as busy: the CPU had work."""
    found: dict[int, CpuTime] = {}
    for line in (text_of(host.proc("stat")) or "").splitlines():
        if match := re.match(r"cpu(\d+) ([\d ]+)", line):
            # user nice system idle iowait irq softirq steal; guest time is part of user.
            ticks = [int(word) for word in match[2].split()][:8]
            found[int(match[1])] = CpuTime(sum(ticks), sum(ticks) - sum(ticks[3:5]))
    return found


def busy_share(before: Mapping[int, CpuTime], after: Mapping[int, CpuTime]) -> dict[int, float]:
    """The part of the time between two readings in which each CPU was busy, 0 to 1."""
    return {
        cpu: (now.busy - before[cpu].busy) / (now.total - before[cpu].total)
        for cpu, now in after.items()
        if cpu in before and now.total > before[cpu].total
    }


def cpu_meter(host: Host) -> Callable[[], float | None]:
    """A function that gives the load of all CPUs since its last call, in percent; None where nothing can be told."""
    last = cpu_times(host)

    def percent() -> float | None:
        nonlocal last
        before, last = last, cpu_times(host)
        shares = busy_share(before, last)
        return 100 * sum(shares.values()) / len(shares) if shares else None

    return percent


def available_bytes(host: Host) -> int | None:
    """MemAvailable: what can be had without swapping. None when the kernel does not say."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB", text_of(host.proc("meminfo")) or "", re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def mean_mhz(host: Host) -> float | None:
    """The mean clock of the CPUs, from cpufreq, else from cpuinfo; None where neither tells (virtual machines, ARM)."""
    folders = entries_of(host.sys("devices", "system", "cpu", "cpufreq"))
    khz = [value for folder in folders if (value := int_of(folder / "scaling_cur_freq")) is not None]
    if khz:
        return sum(khz) / len(khz) / 1000
    found = re.findall(r"^cpu MHz\s*: ([\d.]+)", text_of(host.proc("cpuinfo")) or "", re.MULTILINE)
    mhz = [float(value) for value in found]
    return sum(mhz) / len(mhz) if mhz else None


def clocks(host: Host) -> dict[int, int]:
    """The clock of each CPU right now in kHz, as far as cpufreq tells."""
    return {cpu: khz for cpu, folder in _policies(host) if (khz := int_of(folder / "scaling_cur_freq")) is not None}


def clock_limits(host: Host) -> dict[int, tuple[int, int, str]]:
    """Of each CPU: the lowest and highest clock that it can have, in kHz, and the governor that sets it."""
    found: dict[int, tuple[int, int, str]] = {}
    for cpu, folder in _policies(host):
        low, high = int_of(folder / "cpuinfo_min_freq"), int_of(folder / "cpuinfo_max_freq")
        if low and high:
            found[cpu] = (low, high, text_of(folder / "scaling_governor") or "")
    return found


def _policies(host: Host) -> list[tuple[int, Path]]:
    """The first CPU of each clock domain, and the folder of the domain."""
    folders = entries_of(host.sys("devices", "system", "cpu", "cpufreq"))
    return [(int(match[1]), folder) for folder in folders if (match := re.fullmatch(r"policy(\d+)", folder.name))]
