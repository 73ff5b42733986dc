"""Judges what the machine's fault counters gained while a stage ran. What stood there before is not charged to it.

Left to the stages that know the device, while they run: NIC error counters to Network, throttling to CPUStress, power
events of the BMC to PSU; and always: disk lines of the kernel log to Storage (by `kernel_log.disk_events`). What the
disks say of themselves is judged in `stages.disk_health`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from probes.counters import LINK_COUNTERS, AerErrors, Counters, MemoryErrors, nic_errors, throttled_fraction
from probes.kernel_log import KernelEvent, Kind, events
from stages import deltas_gaps, deltas_sel
from stages.outcome import Finding, Measurement, ReasonCode, error, info, warning

CORRECTED_LIMIT = 50
"""So many corrected errors in one stage fail it; fewer are a warning."""
PAGES_QUOTED = 4
LOAD_NAMES = ("stress-ng", "stressapptest", "fio", "iperf3", "memtester")
AGENT_NAME = "vetting-agent"
FATAL_XIDS = frozenset({48, *range(56, 59), 62, 65, 68, 69, 73, 74, *range(79, 82), 92, 95, 119, 120, 140})
"""XIDs that mean broken hardware; 63, 64 and 94 are judged by the GPU's remap and containment state."""

_FAULTS = {
    Kind.SOFT_LOCKUP: "CPU {subject} was stuck in the kernel (soft lockup)",
    Kind.HARD_LOCKUP: "CPU {subject} stopped taking interrupts (hard lockup)",
    Kind.HUNG_TASK: "the process {subject} hung in the kernel",
    Kind.RCU_STALL: "a CPU stopped reporting to the kernel ({subject} stall)",
    Kind.OOPS: "the kernel hit a fault of its own",
}


THROTTLE_LIMIT = 0.05
"""The part of a stage for which a CPU may be slowed down for heat before it is told of."""


def judge(
    before: Counters, after: Counters, *, needed: bool = False, stage: str = ""
) -> tuple[list[Finding], list[Measurement]]:
    """Findings and figures for what was gained between two readings, while `stage` ran.

    What could not be read is a warning; where the stage needs the counters for its verdict, it is an error, and
    leaves the stage unknown. Without a reading from before, nothing that stands there now can be told to be new.
    """
    gaps = list(_gaps(before, after, error if needed else warning))
    if before.is_blank:
        return [*gaps, *deltas_sel.findings(before, after, power=stage != "PSU")], []
    new = [] if before.kernel_log.unreadable else events(after.kernel_log.since(before.kernel_log))
    memory, measurements = _memory(before, after)
    findings = [
        *gaps,
        *_machine_checks(before, after, new),
        *(memory or _memory_lines(new)),
        *_corrupted_memory(before, after, new),
        *_aer(before, after, new),
        *_kernel_faults(new),
        *_oom_kills(new),
        *_xids(new),
        *_vanished_ports(before, after),
        *([] if stage == "Network" else _links(before, after)),
        *([] if stage == "CPUStress" else _heat(before, after)),
        *deltas_sel.findings(before, after, power=stage != "PSU"),
    ]
    return findings, measurements


def earlier(before: Counters) -> list[Finding]:
    """What the counters already held, for information: it is charged to nobody."""
    found = [
        f"{name}: {errors.corrected} corrected, {errors.uncorrected} uncorrected memory errors"
        for name, errors in before.memory.items()
        if errors.corrected or errors.uncorrected
    ]
    lines = events(line.text for line in before.kernel_log.lines)
    kinds = Counter(event.kind.value for event in lines)
    found += [f"kernel log: {count} × {kind}" for kind, count in sorted(kinds.items())]
    if not found:
        return []
    text = f"Faults from before this run, not charged to it: {'; '.join(found)}"
    return [info(ReasonCode.EARLIER_EVENTS, "host", text, lines[-1].line if lines else "")]


def _gaps(before: Counters, after: Counters, severity: Callable[..., Finding]) -> Iterator[Finding]:
    for component, text in deltas_gaps.gaps(before, after):
        yield severity(ReasonCode.OUTPUT_UNREADABLE, component, text)


# --- CPU and memory --------------------------------------------------------------------------------------------------


def _machine_checks(before: Counters, after: Counters, new: list[KernelEvent]) -> Iterator[Finding]:
    seen = False
    for cpu, lines in _by_subject(new, Kind.MCE_UNCORRECTED).items():
        seen = True
        name = f"cpu:{cpu}" if cpu else "host"
        text = f"{_times(len(lines), 'uncorrected hardware error')} reported by {name} (machine check)"
        yield error(ReasonCode.MCE_UNCORRECTED, name, text, lines[-1].line)
    gained = _gain(before.mce_exceptions, after.mce_exceptions)
    if gained > 0 and not seen:
        text = f"{_times(gained, 'machine check exception')} counted: an uncorrected hardware error"
        yield error(ReasonCode.MCE_UNCORRECTED, "host", text)
    for cpu, lines in _by_subject(new, Kind.MCE_CORRECTED).items():
        name = f"cpu:{cpu}" if cpu else "host"
        text = f"{_times(len(lines), 'corrected hardware error')} reported by {name} (machine check)"
        yield _corrected(ReasonCode.MCE_CORRECTED, name, len(lines), text, lines[-1].line)
    yield from _untold(new)


def _untold(new: list[KernelEvent]) -> Iterator[Finding]:
    """The kernel took in hardware errors and told no more of them: memory errors that it corrected."""
    untold = [event for event in new if event.kind is Kind.MCE_UNTOLD]
    if untold and not any(event.kind in _TOLD for event in new):
        text = "The hardware reported errors, and the kernel keeps to itself which: corrected memory errors, as a rule"
        hint = "start it with ras=cec_disable to have them counted"
        yield warning(ReasonCode.MCE_CORRECTED, "host", f"{text}; {hint}", untold[-1].line)


_TOLD = frozenset(
    {
        Kind.MCE_UNCORRECTED,
        Kind.MCE_CORRECTED,
        Kind.MEMORY_UNCORRECTED,
        Kind.MEMORY_CORRECTED,
        Kind.PAGE_POISONED,
    }
)


def _memory(before: Counters, after: Counters) -> tuple[list[Finding], list[Measurement]]:
    findings: list[Finding] = []
    measurements: list[Measurement] = []
    for name, now in after.memory.items():
        old = before.memory.get(name)
        if old is None and before.unreadable:
            continue  # it may have counted this long ago
        old = old or MemoryErrors()
        uncorrected, corrected = now.uncorrected - old.uncorrected, now.corrected - old.corrected
        if uncorrected > 0:
            text = f"{_times(uncorrected, 'uncorrected memory error')} on {name}: data was lost; replace it"
            findings.append(error(ReasonCode.ECC_UNCORRECTED, f"dimm:{name}", text))
        if corrected > 0:
            text = f"{_times(corrected, 'corrected memory error')} on {name} during this stage"
            findings.append(_corrected(ReasonCode.ECC_CORRECTED, f"dimm:{name}", corrected, text, ""))
            ok = corrected < CORRECTED_LIMIT
            measurements.append(
                Measurement("ecc_corrected", f"dimm:{name}", corrected, "errors", float(CORRECTED_LIMIT), ok)
            )
    return findings, measurements


def _memory_lines(new: list[KernelEvent]) -> Iterator[Finding]:
    """EDAC's lines of the log, for machines whose counters were not seen to move."""
    for name, lines in _by_subject(new, Kind.MEMORY_UNCORRECTED).items():
        text = f"The kernel reported an uncorrected memory error at {name}: data was lost"
        yield error(ReasonCode.ECC_UNCORRECTED, f"dimm:{name}", text, lines[-1].line)
    for name, lines in _by_subject(new, Kind.MEMORY_CORRECTED).items():
        count = sum(max(1, event.number) for event in lines)
        text = f"{_times(count, 'corrected memory error')} on {name} during this stage"
        yield _corrected(ReasonCode.ECC_CORRECTED, f"dimm:{name}", count, text, lines[-1].line)


def _corrupted_memory(before: Counters, after: Counters, new: list[KernelEvent]) -> Iterator[Finding]:
    """A page is no DIMM: which one it lies on, only EDAC tells."""
    gained = _gain(before.hardware_corrupted_kib, after.hardware_corrupted_kib)
    pages = _by_subject(new, Kind.PAGE_POISONED)
    if gained > 0 or pages:
        text = f"The kernel took {max(gained, 0)} KiB of memory out of use because it is broken (HardwareCorrupted)"
        listed = f"; pages {', '.join(list(pages)[:PAGES_QUOTED])}" if pages else ""
        line = next(reversed(pages.values()))[-1].line if pages else ""
        yield error(ReasonCode.ECC_UNCORRECTED, "memory", text + listed, line)


def _gain(before: int | None, after: int | None) -> int:
    """What a count gained; nothing where one of the two was not read, which is told as a gap."""
    return 0 if before is None or after is None else after - before


def _corrected(code: ReasonCode, component: str, count: int, text: str, line: str) -> Finding:
    return (error if count >= CORRECTED_LIMIT else warning)(code, component, text, line)


# --- PCIe ------------------------------------------------------------------------------------------------------------


def _aer(before: Counters, after: Counters, new: list[KernelEvent]) -> Iterator[Finding]:
    counted: set[str] = set()
    for address, now in after.aer.items():
        old = before.aer.get(address)
        if old is None and before.unreadable:
            continue
        old = old or AerErrors()
        gains = (now.fatal - old.fatal, now.nonfatal - old.nonfatal, now.correctable - old.correctable)
        if any(gain > 0 for gain in gains):
            counted.add(address)
            yield from _aer_findings(address, *gains, "")
    for address in sorted({event.subject for event in new if event.kind in _AER_KINDS} - counted):
        lines = [event for event in new if event.subject == address and event.kind in _AER_KINDS]
        fatal, nonfatal, correctable = (sum(event.kind is kind for event in lines) for kind in _AER_KINDS)
        yield from _aer_findings(address, fatal, nonfatal, correctable, lines[-1].line)


_AER_KINDS = (Kind.AER_FATAL, Kind.AER_NONFATAL, Kind.AER_CORRECTED)


def _aer_findings(address: str, fatal: int, nonfatal: int, correctable: int, line: str) -> Iterator[Finding]:
    component = f"pci:{address}"
    if fatal > 0:
        text = f"{_times(fatal, 'fatal PCIe error')} on the link of {address}"
        yield error(ReasonCode.PCIE_AER_FATAL, component, text, line)
    if nonfatal > 0 or correctable > 0:
        text = (
            f"PCIe errors on the link of {address} during this stage: "
            f"{max(0, nonfatal)} uncorrected but not fatal, {max(0, correctable)} corrected"
        )
        yield warning(ReasonCode.PCIE_AER_ERRORS, component, text, line)


# --- links and heat ---------------------------------------------------------------------------------------------------


def _vanished_ports(before: Counters, after: Counters) -> Iterator[Finding]:
    """Ports that fell off their bus: whether they carry a cable or not, the machine has lost them."""
    if after.is_blank:
        return
    there = set(after.nic_macs.values())
    for name, mac in before.nic_macs.items():
        if mac not in there:
            make = warning if name in before.usb_nics else error
            text = f"{name} was there before this stage, and was gone when it ended"
            yield make(ReasonCode.NET_LINK_DOWN, f"nic:{mac}", text)


def _links(before: Counters, after: Counters) -> Iterator[Finding]:
    """A warning: how many are too many depends on the traffic, which only the Network stage knows."""
    for name, mac in after.nic_macs.items():
        gains = {counter: n for counter, n in nic_errors(before, after, name).items() if counter in LINK_COUNTERS}
        if name in before.nics and gains:
            listed = ", ".join(f"{counter} +{gain}" for counter, gain in sorted(gains.items()))
            yield warning(ReasonCode.NET_ERRORS, f"nic:{mac}", f"Link errors on {name} during this stage: {listed}")


def _heat(before: Counters, after: Counters) -> Iterator[Finding]:
    fractions = throttled_fraction(before, after, after.uptime_s - before.uptime_s)
    over = {cpu: part for cpu, part in fractions.items() if part > THROTTLE_LIMIT}
    if over:
        worst = max(over, key=lambda cpu: over[cpu])
        text = f"CPU {worst} was slowed down for heat for {over[worst]:.0%} of this stage ({len(over)} CPUs were)"
        yield warning(ReasonCode.THERMAL_THROTTLED, f"cpu:{worst}", text)


# --- kernel ----------------------------------------------------------------------------------------------------------


def _kernel_faults(new: list[KernelEvent]) -> Iterator[Finding]:
    for kind, sentence in _FAULTS.items():
        for subject, lines in _by_subject(new, kind).items():
            component = f"cpu:{subject}" if kind in {Kind.SOFT_LOCKUP, Kind.HARD_LOCKUP} else "kernel"
            text = f"During this stage {sentence.format(subject=subject)}, {_times(len(lines), 'time')}"
            yield error(ReasonCode.KERNEL_FAULT, component, text, lines[0].line)


def _oom_kills(new: list[KernelEvent]) -> Iterator[Finding]:
    for event in new:
        if event.kind not in {Kind.OOM_KILL, Kind.CGROUP_OOM_KILL}:
            continue
        victim = f"{event.subject} (process {event.number})"
        if event.subject.startswith(LOAD_NAMES):
            text = f"The kernel ran out of memory and killed the load itself, {victim}: this stage proves nothing"
            yield error(ReasonCode.LOAD_OOM_KILLED, "memory", text, event.line)
        elif event.subject == AGENT_NAME:
            text = f"The kernel ran out of memory and killed the agent itself, {victim}; its successor took over"
            yield warning(ReasonCode.KERNEL_FAULT, "kernel", text, event.line)
        elif event.kind is Kind.CGROUP_OOM_KILL:
            text = f"{victim} was killed at the memory limit of its own container"
            yield warning(ReasonCode.KERNEL_FAULT, "kernel", text, event.line)
        else:
            text = f"The kernel ran out of memory and killed {victim}, which is no part of the load"
            yield error(ReasonCode.KERNEL_FAULT, "kernel", text, event.line)


def _xids(new: list[KernelEvent]) -> Iterator[Finding]:
    for address, lines in _by_subject(new, Kind.GPU_XID).items():
        numbers = sorted({event.number for event in lines} & FATAL_XIDS)
        if numbers:
            listed = ", ".join(str(number) for number in numbers)
            text = f"The NVIDIA driver reported a hardware fault of the GPU at {address}: XID {listed}"
            line = next(event.line for event in lines if event.number in FATAL_XIDS)
            yield error(ReasonCode.GPU_XID, f"pci:{address}", text, line)


def _by_subject(new: Iterable[KernelEvent], kind: Kind) -> dict[str, list[KernelEvent]]:
    found: dict[str, list[KernelEvent]] = {}
    for event in new:
        if event.kind is kind:
            found.setdefault(event.subject, []).append(event)
    return found


def _times(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
