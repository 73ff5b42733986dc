"""CPU and memory under full load: stress-ng with --verify, known answers on each CPU, stressapptest over free memory.

Hardware errors that the kernel reports meanwhile are judged around it (`stages.deltas`); heat and reach, here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from probes import counters, cpu, load, smbios
from probes.counters import Counters
from probes.host import Host, text_of
from probes.notes import Notes
from probes.tools import ToolError, ToolMissing
from stages import cpu_answers, cpu_opendcdiag, cpu_speed, deltas
from stages import cpu_stress_judge as verdicts
from stages.cpu_stress_judge import MIB, StressNgReport
from stages.cpu_stress_outcome import judge
from stages.cpu_stress_plan import (
    FILL_BYTES_PER_S,
    STRESSORS,
    ClockRange,
    CpuReading,
    Machine,
    MemoryReading,
    Options,
    Phase,
    Plan,
    Readings,
    make_plan,
)
from stages.cpu_stress_watch import Watched, watching
from stages.runner import tool_finding
from stages.stage import Stage, StageContext

PINNED_S = 3
PINNED_TOTAL_S = 240
TOOL_EXTRA_S = 60.0
# In fewer seconds than that, a machine that stands still for a moment looks like a tool that ended early.
SHORT_S = 5
SNAPSHOT_S = 10.0


async def run(context: StageContext, options: Options) -> Readings:
    """Load the CPUs, then the memory."""
    machine = await _machine(context.host)
    plan = make_plan(machine, options, context.facts.memory_fraction)
    context.plan.set(plan.seconds)
    context.evidence.mkdir(parents=True, exist_ok=True)
    version, checked = await _version(context.host), await _checked(context.host)
    before = await counters.snapshot(context.host, limit_s=SNAPSHOT_S, bmc=False)
    times = load.cpu_times(context.host)
    async with watching(context, plan.seconds) as watched:
        cpu_readings = [await _cpu_phase(context, machine, plan, phase) for phase in plan.phases]
        dcdiag = await cpu_opendcdiag.run(context, plan.dcdiag_s) if plan.dcdiag_s else None
        busy = load.busy_share(times, load.cpu_times(context.host))
        clocks = dict(watched.peak_khz)
        answers = await cpu_answers.measure(context, alone_order(machine), plan.alone_s, plan.together_s)
        memory = await _memory_phase(context, machine, plan, watched)
    after = await counters.snapshot(context.host, limit_s=SNAPSHOT_S, bmc=False)
    speeds, slow = await cpu_speed.measure(context, machine.usable, options.cpu_slow_fraction)
    versions = {"stress-ng": version, "stressapptest": memory.sat.version if memory.sat else None}
    return Readings(
        machine=machine,
        plan=plan,
        cpu=tuple(cpu_readings),
        answers=answers,
        busy=busy,
        memory=memory,
        throttled=counters.throttled_fraction(before, after, after.uptime_s - before.uptime_s),
        throttle_unread=_throttle_unread(before, after),
        speeds=speeds,
        slow=slow,
        peak_khz=clocks,
        checked=checked,
        opendcdiag=dcdiag,
        earlier=tuple(deltas.earlier(before)),
        tool_versions={name: text for name, text in versions.items() if text},
    )


def _throttle_unread(before: Counters, after: Counters) -> str:
    """Why the throttle counters of one of two readings are not known; "" where the machine has none, or both are."""
    if before.throttle.keys() == after.throttle.keys() and before.uptime_s < after.uptime_s:
        return ""
    lost = sorted(before.throttle.keys() ^ after.throttle.keys(), key=int)
    return "; ".join((*before.unreadable, *after.unreadable)) or f"those of CPU {', '.join(lost)} were read once only"


def alone_order(machine: Machine) -> tuple[int, ...]:
    """The usable CPUs, one of each core first: what the time does not reach are second threads then (pure)."""
    seen: dict[tuple[int, int], int] = {}
    keyed = []
    for number in machine.usable:
        place = machine.places.get(number)
        if place is None or place.package is None or place.core is None:
            keyed.append((0, number))
            continue
        core = (place.package, place.core)
        keyed.append((seen.get(core, 0), number))
        seen[core] = seen.get(core, 0) + 1
    return tuple(number for _, number in sorted(keyed))


async def _machine(host: Host) -> Machine:
    online = cpu.cpu_list(text_of(host.sys("devices", "system", "cpu", "online")))
    usable = tuple(number for number in online if number in os.sched_getaffinity(0))
    try:
        found = await cpu.collect(host, Notes())
        model, has_amx = found.model or "", "amx_tile" in found.flags
    except ValueError:
        model, has_amx = "", False
    places = await cpu.places(host)
    clocks = {number: ClockRange(*limits) for number, limits in load.clock_limits(host).items()}
    has_opendcdiag = host.tools.find(cpu_opendcdiag.TOOL) is not None
    free = load.available_bytes(host) or 0
    return Machine(online, usable, free, model, places, clocks, has_amx, has_opendcdiag)


async def _checked(host: Host) -> tuple[str, ...] | None:
    """Two sentences, "Verification always enabled:" and "… by --verify option:", each before a list of names."""
    try:
        text = (await host.tools.run("stress-ng", "--verifiable", timeout_s=10)).stdout
    except ToolError:
        return None
    words = {word for line in text.splitlines() if not line.rstrip().endswith(":") for word in line.split()}
    return tuple(sorted(words & STRESSORS.keys())) if "Verification" in text else None


async def _version(host: Host) -> str | None:
    """ "0.15.06" of "stress-ng, version 0.15.06 (gcc 12.2.0, …"."""
    try:
        words = (await host.tools.run("stress-ng", "--version", timeout_s=10)).stdout.split()
    except ToolError:
        return None
    return words[2] if len(words) > 2 else None


async def _cpu_phase(context: StageContext, machine: Machine, plan: Plan, phase: Phase) -> CpuReading:
    context.info(f"stress-ng {phase.stressor} on {len(machine.usable)} CPUs for {phase.seconds} s")
    try:
        report = await _stress_ng(context, phase.stressor, len(machine.usable), phase.seconds)
        ended_well = report.exit_code == 0 and not report.miscomputed
        if phase.seconds < SHORT_S and ended_well and (why := verdicts.untested(report)):
            context.warn(f"{why}; once more, for {SHORT_S} s")
            context.plan.set(context.plan.planned_s + SHORT_S + 0.5)
            report = await _stress_ng(context, phase.stressor, len(machine.usable), SHORT_S, again=True)
    except ToolError as problem:
        return CpuReading(None, tool_finding(problem, "cpu"))
    if not report.miscomputed:
        return CpuReading(report)
    context.error(f"stress-ng {phase.stressor}: wrong results; looking for the CPU by running on each alone")
    return CpuReading(report, pinned=await _each_alone(context, machine.usable, plan, phase.stressor))


async def _each_alone(
    context: StageContext, cpus: Sequence[int], plan: Plan, stressor: str
) -> dict[int, StressNgReport]:
    """The same test on one CPU after the other, while they are still hot."""
    seconds = max(1, min(PINNED_S, PINNED_TOTAL_S // max(1, len(cpus))))
    context.plan.set(context.plan.planned_s + len(cpus) * (seconds + 0.5))
    found: dict[int, StressNgReport] = {}
    for number in cpus:
        try:
            found[number] = await _stress_ng(context, stressor, 1, seconds, pinned=number)
        except ToolError as problem:
            context.warn(f"stress-ng {stressor} on CPU {number} alone: {problem}")
    return found


async def _stress_ng(
    context: StageContext,
    stressor: str,
    workers: int,
    seconds: int,
    *extra: str,
    pinned: int | None = None,
    again: bool = False,
    memory_bytes: int = 0,
) -> StressNgReport:
    """One verified run of one stressor. Raises a ToolError when it was missing, killed or did not end."""
    name = stressor if pinned is None else f"{stressor}-on-cpu{pinned}"
    metrics = context.evidence / f"stress-ng-{name}{'-again' if again else ''}.yaml"
    metrics.unlink(missing_ok=True)
    argv = ["stress-ng", f"--{stressor}", str(workers), *extra, "--verify", "--metrics-brief"]
    argv += ["--yaml", str(metrics), "--timeout", f"{seconds}s"]
    argv += ["--cpu-method", "all"] if stressor == "cpu" else []
    argv += ["--taskset", str(pinned)] if pinned is not None else []
    result = await context.host.tools.run(
        *argv, timeout_s=1.5 * seconds + TOOL_EXTRA_S, accept=None, load=True, memory_bytes=memory_bytes
    )
    return verdicts.stress_ng_report(result, text_of(metrics), stressor, seconds)


async def _memory_phase(context: StageContext, machine: Machine, plan: Plan, watched: Watched) -> MemoryReading:
    """stressapptest, or where there is none, stress-ng's vm test."""
    if plan.memory_mib < 1:
        return MemoryReading()
    watched.least_available = None
    free = load.available_bytes(context.host)
    try:
        reading = await _memory_load(context, machine, plan)
        slots = await _slots(context, reading)
    except ToolError as problem:
        return MemoryReading(problem=tool_finding(problem, "memory"))
    taken = None if free is None or watched.least_available is None else free - watched.least_available
    return replace(reading, taken_bytes=taken, slots=slots)


async def _slots(context: StageContext, reading: MemoryReading) -> dict[str, tuple[str, ...]]:
    """The DIMM slots at the addresses that read wrong, by the firmware's own table."""
    addresses = verdicts.physical_addresses(reading.sat.miscompares if reading.sat else ())
    if not addresses or not smbios.present(context.host):
        return {}
    try:
        tables = await smbios.read(context.host, smbios.MAPPED)
    except (ToolError, smbios.UnreadableTables) as problem:
        context.warn(f"which DIMM it was cannot be told: {problem}")
        return {}
    return {address: smbios.slots_at(tables, int(address, 16)) for address in addresses}


async def _memory_load(context: StageContext, machine: Machine, plan: Plan) -> MemoryReading:
    # Address space is more than memory: the C library reserves an arena of 128 MiB for each thread, and stacks.
    headroom = (1024 + 256 * max(1, len(machine.usable))) * MIB
    limit = plan.memory_mib * MIB + headroom
    argv = ("stressapptest", "-s", str(plan.memory_s), "-M", str(plan.memory_mib), "-W")
    timeout_s = 1.5 * plan.memory_s + TOOL_EXTRA_S + 2 * plan.memory_mib * MIB / FILL_BYTES_PER_S
    context.info(f"memory test over {plan.memory_mib} MiB for {plan.memory_s} s")
    try:
        result = await context.host.tools.run(*argv, timeout_s=timeout_s, accept=None, load=True, memory_bytes=limit)
        return MemoryReading(sat=verdicts.sat_report(result, plan.memory_s))
    except ToolMissing:
        context.info("stressapptest is not installed: stress-ng's vm test takes its place")
    workers = max(1, len(machine.usable))
    # The workers share the size out among them; what they really took is judged by the resident size reported.
    extra = ("--vm-bytes", f"{plan.memory_mib}m", "--vm-method", "all", "--vm-keep", "--oomable")
    report = await _stress_ng(context, "vm", workers, plan.memory_s, *extra, memory_bytes=limit)
    return MemoryReading(vm=report, vm_workers=workers)


STAGE = Stage(
    name="CPUStress",
    state="CPUStress",
    title="CPU and memory under load",
    options=Options,
    planned_s=lambda options: options.duration_s + 15.0,
    run=run,
    readings=Readings,
    judge=judge,
    counters_needed=True,
    tools=("stress-ng", "stressapptest"),
)
