"""How fast each CPU is: beside its like (the same short load on each, the slow ones measured once more), by its clock
under load, and whether all run the same microcode."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from statistics import median

from probes.cpu import CpuPlace
from probes.host import int_of, text_of
from probes.tools import ToolError
from stages import cpu_stress_judge as verdicts
from stages.cpu_stress_plan import ClockRange
from stages.outcome import Finding, ReasonCode, warning
from stages.stage import StageContext

SECONDS = 1
AT_ONCE = 32
"""CPUs measured together; all at once, the agent would need more memory for it than the load itself."""


async def measure(
    context: StageContext, cpus: Sequence[int], slow_fraction: float
) -> tuple[dict[int, float], dict[int, float]]:
    """Operations per second of CPU time, by CPU; and of those the ones that were slow twice, with their ratio."""
    try:
        first = await _speeds(context, cpus)
        suspects = sorted(slow(first, _kinds(context, cpus), slow_fraction))
        if not suspects:
            return first, {}
        # Other work on the machine can slow a CPU down for a second: what is broken is slow again.
        again = await _speeds(context, suspects)
        second = first | {number: max(first[number], speed) for number, speed in again.items()}
    except ToolError as problem:
        context.warn(f"the speed of each CPU could not be measured: {problem}")
        return {}, {}
    return second, slow(second, _kinds(context, cpus), slow_fraction)


async def _speeds(context: StageContext, cpus: Sequence[int]) -> dict[int, float]:
    found: dict[int, float] = {}
    for start in range(0, len(cpus), AT_ONCE):
        batch = cpus[start : start + AT_ONCE]
        tasks = [asyncio.create_task(_speed(context, number)) for number in batch]
        try:
            speeds = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        found |= {number: speed for number, speed in zip(batch, speeds, strict=True) if speed}
    return found


async def _speed(context: StageContext, number: int) -> float | None:
    """Per second of CPU time, not of wall time: what other processes take away does not count."""
    metrics = context.evidence / f"stress-ng-speed-of-cpu{number}.yaml"
    argv = ["stress-ng", "--cpu", "1", "--cpu-method", "int64", "--taskset", str(number)]
    argv += ["--timeout", f"{SECONDS}s", "--metrics-brief", "--yaml", str(metrics)]
    await context.host.tools.run(*argv, timeout_s=60, accept=None, load=True)
    return verdicts.metrics_of(text_of(metrics) or "", "cpu").get("bogo-ops-per-second-usr-sys-time")


def _kinds(context: StageContext, cpus: Sequence[int]) -> dict[int, int]:
    """What makes CPUs comparable: their highest clock. Efficient and fast cores in one machine are both sound."""
    folder = context.host.sys("devices", "system", "cpu")
    return {number: int_of(folder / f"cpu{number}" / "cpufreq" / "cpuinfo_max_freq") or 0 for number in cpus}


def slow(speeds: Mapping[int, float], kinds: Mapping[int, int], slow_fraction: float) -> dict[int, float]:
    """CPUs slower than that part of the median of their kind, with the part they reach (pure)."""
    found: dict[int, float] = {}
    for kind in set(kinds.values()):
        like = {number: speed for number, speed in speeds.items() if kinds.get(number) == kind}
        if like:
            middle = median(like.values())
            found |= {number: speed / middle for number, speed in like.items() if speed < slow_fraction * middle}
    return found


def findings(speeds: Mapping[int, float], slow_cpus: Mapping[int, float], slow_fraction: float) -> list[Finding]:
    """A warning for each slow CPU (pure)."""
    return [
        warning(
            ReasonCode.CPU_SLOW,
            f"cpu:{number}",
            f"CPU {number} reaches {part:.0%} of the median speed of its like (limit {slow_fraction:.0%}): "
            f"{speeds[number]:.0f} operations a second",
        )
        for number, part in sorted(slow_cpus.items())
    ]


STUCK = 1.05
RANGE = 1.3


def clock_findings(peak_khz: Mapping[int, int], clocks: Mapping[int, ClockRange]) -> list[Finding]:
    """A warning for CPUs that stayed at their lowest clock under full load (pure).

    A whole machine held down so (a power cap, PROCHOT from a failed regulator, a governor) is no slower than its own
    median. Clocks with a narrow range say nothing.
    """
    stuck = sorted(
        cpu
        for cpu, peak in peak_khz.items()
        if (limits := clocks.get(cpu)) and limits.highest >= RANGE * limits.lowest and peak <= STUCK * limits.lowest
    )
    if not stuck:
        return []
    limits = clocks[stuck[0]]
    listed = ", ".join(map(str, stuck[:16])) + (" …" if len(stuck) > 16 else "")
    text = (
        f"CPU {listed} stayed at the lowest clock under full load: {peak_khz[stuck[0]] / 1000:.0f} MHz of "
        f"{limits.highest / 1000:.0f} (governor {limits.governor or 'unknown'})"
    )
    return [warning(ReasonCode.CPU_SLOW, f"cpu:{stuck[0]}" if len(stuck) == 1 else "cpu", text)]


def microcode_findings(places: Mapping[int, CpuPlace]) -> list[Finding]:
    """A warning where CPUs of one family, model and stepping run different microcode (pure)."""
    by_kind: dict[str, dict[str, list[int]]] = {}
    for number, place in places.items():
        if place.microcode and "?" not in place.signature:
            by_kind.setdefault(place.signature, {}).setdefault(place.microcode, []).append(number)
    found = []
    for versions in by_kind.values():
        if len(versions) > 1:
            told = "; ".join(f"{version} on {len(cpus)} CPUs (first {min(cpus)})" for version, cpus in versions.items())
            fewest = min(versions.values(), key=len)
            text = f"CPUs of the same kind run different microcode: {told}"
            found.append(warning(ReasonCode.MICROCODE_MISMATCH, f"cpu:{min(fewest)}", text))
    return found
