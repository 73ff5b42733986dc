"""Judges what CPUStress saw. Pure: readings in, outcome out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from stages import cpu_answers, cpu_opendcdiag, cpu_speed
from stages import cpu_stress_judge as verdicts
from stages.cpu_stress_judge import MIB
from stages.cpu_stress_plan import CHECKS_UNTOLD, CpuReading, Machine, MemoryReading, Options, Plan, Readings
from stages.outcome import Finding, Measurement, Outcome, ReasonCode, error, info, warning

LOAD_VISIBLE_BYTES = 2 << 30
"""A memory load of this size must show in the free memory; smaller ones drown in what else the machine does."""


def judge(reading: Readings, options: Options) -> Outcome:
    """Findings, figures and coverage from all that was seen (pure)."""
    machine, plan = reading.machine, reading.plan
    idle = verdicts.idle_cpus(reading.busy, machine.online)
    cpu_findings = [finding for one in reading.cpu for finding in _cpu_findings(one)]
    memory_findings, tested_mib = _memory_findings(reading.memory, plan, options)
    heat, heat_figures = verdicts.throttle_findings(reading.throttled, options.throttle_limit, machine.model)
    if reading.throttle_unread:
        text = f"How long CPUs were slowed down for heat is not known: {reading.throttle_unread}"
        heat = [*(heat if reading.throttled else ()), error(ReasonCode.OUTPUT_UNREADABLE, "cpu", text)]
    alone = cpu_answers.cpus_tested(reading.answers.alone) & set(machine.online)
    cpu_share = 1 - len(idle) / len(machine.online) if machine.online else 0.0
    memory_share = tested_mib * MIB / machine.available_bytes if machine.available_bytes else 0.0
    return Outcome(
        f"{len(machine.online) - len(idle)} of {len(machine.online)} CPUs tested, {len(alone)} of them alone too, "
        f"and {tested_mib} MiB of memory",
        (
            *cpu_findings,
            *cpu_answers.findings(reading.answers, machine.places),
            *(cpu_opendcdiag.findings(reading.opendcdiag) if reading.opendcdiag else ()),
            *_reach(idle, machine),
            *_loads_left_out(reading),
            *_answers_reach(reading, alone, options),
            *_unchecked(reading),
            *memory_findings,
            *heat,
            *_speeds_left_out(reading),
            *cpu_speed.findings(reading.speeds, reading.slow, options.cpu_slow_fraction),
            *cpu_speed.clock_findings(reading.peak_khz, machine.clocks),
            *cpu_speed.microcode_findings(machine.places),
            *reading.earlier,
        ),
        (*_figures(reading, tested_mib), *_alone_figure(alone, machine, options), *heat_figures),
        {"cpu": round(cpu_share, 4), "cpu_alone": _share(alone, machine), "memory": round(memory_share, 4)},
        tool_versions=reading.tool_versions,
    )


def _cpu_findings(one: CpuReading) -> list[Finding]:
    if one.problem is not None:
        return [one.problem]
    assert one.report is not None, "a phase without a problem has a report"
    return list(verdicts.cpu_findings(one.report, one.pinned))


def _reach(idle: Sequence[int], machine: Machine) -> list[Finding]:
    if not machine.online:
        return [error(ReasonCode.NOTHING_TO_TEST, "cpu", "The kernel does not say which CPUs are online")]
    if not idle:
        return []
    text = f"{len(idle)} of {len(machine.online)} CPUs were idle for more than half of the load, so not tested: "
    text += _listed(idle)
    return [error(ReasonCode.COVERAGE_LOW, "cpu", text)]


def _share(cpus: Collection[int], machine: Machine) -> float:
    return round(len(cpus) / len(machine.online), 4) if machine.online else 0.0


def _answers_reach(reading: Readings, alone: Collection[int], options: Options) -> Iterator[Finding]:
    """Whether the known answers reached enough CPUs: all of them together, and alone as many as the profile wants."""
    machine = reading.machine
    if not machine.online or reading.answers.problems:
        return  # told already
    if _share(alone, machine) < options.alone_coverage_floor:
        left = _listed(sorted(set(machine.online) - set(alone)))
        text = (
            f"{len(alone)} of {len(machine.online)} CPUs were tested alone ({options.alone_coverage_floor:.0%} asked)"
        )
        yield error(ReasonCode.COVERAGE_LOW, "cpu", f"{text}; not: {left}")
    if silent := sorted(set(machine.online) - cpu_answers.cpus_tested(reading.answers.together)):
        text = f"{len(silent)} of {len(machine.online)} CPUs gave no known answers while all worked: {_listed(silent)}"
        yield error(ReasonCode.COVERAGE_LOW, "cpu", text)


def _loads_left_out(reading: Readings) -> Iterator[Finding]:
    ran = {one.report.stressor for one in reading.cpu if one.report is not None}
    left = [phase.stressor for phase in reading.plan.phases if phase.stressor not in ran]
    if left and not any(one.problem for one in reading.cpu):
        text = f"There is no reading of these loads: {', '.join(left)}"
        yield error(ReasonCode.COVERAGE_LOW, "cpu", text)
    if reading.plan.dcdiag_s and reading.opendcdiag is None:
        yield error(ReasonCode.COVERAGE_LOW, "cpu", "OpenDCDiag was to be run, and there is no reading of it")


def _speeds_left_out(reading: Readings) -> Iterator[Finding]:
    """No more than a warning, as for a CPU that is slow."""
    if left := sorted(set(reading.machine.usable) - reading.speeds.keys()):
        text = f"How fast they are beside their like could not be measured of CPU {_listed(left)}"
        yield warning(ReasonCode.TOOL_FAILED, f"cpu:{left[0]}" if len(left) == 1 else "cpu", text)


def _listed(cpus: Sequence[int]) -> str:
    return ", ".join(map(str, cpus[:16])) + (" …" if len(cpus) > 16 else "")


def _unchecked(reading: Readings) -> Iterator[Finding]:
    """What was only load: a pass does not speak of the results of these."""
    if reading.machine.has_amx and reading.opendcdiag is None:
        text = "This CPU's matrix units (AMX) were not tested: only OpenDCDiag does, and it is not installed"
        yield info(ReasonCode.COVERAGE_LOW, "cpu", text)
    if reading.checked is None:
        text = "This stress-ng does not say whose results it checks: what it did may have been load only"
        yield info(ReasonCode.COVERAGE_LOW, "cpu", text)
        return
    ran = {one.report.stressor for one in reading.cpu if one.report is not None}
    if unchecked := sorted(ran - set(reading.checked) - CHECKS_UNTOLD):
        text = f"This version of stress-ng does not check the results of: {', '.join(unchecked)}; they were load only"
        yield info(ReasonCode.COVERAGE_LOW, "cpu", text)


def _alone_figure(alone: Collection[int], machine: Machine, options: Options) -> Iterator[Measurement]:
    if machine.online:
        floor = options.alone_coverage_floor * len(machine.online)
        yield Measurement("cpus_tested_alone", "cpu", len(alone), "CPUs", floor, len(alone) >= floor)


def _memory_findings(memory: MemoryReading, plan: Plan, options: Options) -> tuple[list[Finding], int]:
    """Findings, and how many MiB were really tested."""
    if memory.problem is not None:
        return [memory.problem], 0
    findings: list[Finding] = []
    tested = 0
    if memory.sat is not None:
        findings += verdicts.sat_findings(memory.sat, plan.memory_mib, memory.slots)
        tested = min(plan.memory_mib, memory.sat.started_mib or 0)
    elif memory.vm is not None:
        findings += verdicts.vm_findings(memory.vm)
        resident_kib = (memory.vm.max_rss_kib or 0) * memory.vm_workers
        tested = min(plan.memory_mib, resident_kib // 1024)
    if _load_not_seen(memory, plan):
        taken = (memory.taken_bytes or 0) // MIB
        text = f"The memory test claims {tested} MiB, but free memory went down by {taken} MiB only"
        findings.append(error(ReasonCode.OUTPUT_UNREADABLE, "memory", text))
        tested = min(tested, max(0, taken))
    if any(finding.reason_code is not ReasonCode.MEMORY_MISCOMPUTE for finding in findings):
        tested = 0
    return [*findings, *_coverage(tested, plan, options)], tested


def _load_not_seen(memory: MemoryReading, plan: Plan) -> bool:
    size = plan.memory_mib * MIB
    return size >= LOAD_VISIBLE_BYTES and memory.taken_bytes is not None and memory.taken_bytes < size / 2


def _coverage(tested_mib: int, plan: Plan, options: Options) -> list[Finding]:
    """The floor is of what the load was allowed to take: how much that is, is not the machine's doing."""
    if tested_mib < max(1, options.memory_coverage_floor * plan.memory_mib):
        text = f"{tested_mib} MiB of memory tested, of {plan.memory_mib} MiB that could be taken"
        return [error(ReasonCode.COVERAGE_LOW, "memory", text)]
    if plan.allowed_share < options.memory_coverage_floor:
        text = f"Only {plan.allowed_share:.0%} of the free memory was allowed for the test ({plan.memory_mib} MiB)"
        return [info(ReasonCode.COVERAGE_LOW, "memory", text)]
    return []


def _figures(reading: Readings, tested_mib: int) -> list[Measurement]:
    figures = [
        Measurement(f"bogo_ops_{report.stressor}", "cpu", round(report.operations / report.wall_s, 1), "1/s")
        for one in reading.cpu
        if (report := one.report) is not None and report.operations and report.wall_s
    ]
    sat = reading.memory.sat
    if sat is not None and sat.completed_mib and sat.completed_s:
        figures.append(Measurement("memory_copy", "memory", round(sat.completed_mib / sat.completed_s, 1), "MiB/s"))
    figures.append(Measurement("memory_tested", "memory", tested_mib, "MiB"))
    return figures
