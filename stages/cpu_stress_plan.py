"""What CPUStress is told, what it plans, and what it reads: data only, and the pure function that makes the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from probes.cpu import CpuPlace
from stages.cpu_answers import AnswersReading
from stages.cpu_opendcdiag import DcdiagReading
from stages.cpu_stress_judge import MIB, SatReport, StressNgReport
from stages.outcome import Finding

# fmt: off
STRESSORS: Mapping[str, float] = {
    "cpu": 0.3, "vecshuf": 0.15, "hash": 0.15, "vecmath": 0.1, "vecfp": 0.1, "zlib": 0.1, "cache": 0.1,
}
# fmt: on
"""stress-ng's tests, and their parts of its time. `cpu` goes through all its methods.

Which of them check their results depends on the version: `stress-ng --verifiable` tells. 0.15.06 (Debian 12) checks
cpu, hash and zlib, and vecshuf without saying so; vecmath and vecfp are only load there, and check their results in
newer ones; cache is load in all of them.
"""
CHECKS_UNTOLD = frozenset({"vecshuf"})
DCDIAG_PART = 0.3
"""Of stress-ng's time, the part that OpenDCDiag gets where it is installed."""
TOGETHER_PART = 1 / 3
"""Of the time for known answers, the part with all CPUs at once; in the rest each is alone."""
SMALL_RESERVE = 0.5
"""The most that `memory_reserve_mib` keeps of the free memory: a machine of 768 MiB has less than that free."""
FILL_BYTES_PER_S = 1 << 30
"""How fast stressapptest fills memory before its time begins: slow machines reach this."""


@dataclass(frozen=True, slots=True)
class Options:
    """Parameters of the stage."""

    duration_s: float = field(default=120.0, metadata={"minimum": 2.0, "maximum": 30 * 86400.0})
    """CPU and memory load together."""
    answers_share: float = field(default=0.3, metadata={"minimum": 0.0, "maximum": 0.95})
    """The part of the CPU time for known answers on each CPU alone and on all together; stress-ng has the rest."""
    alone_coverage_floor: float = field(default=1.0, metadata={"minimum": 0.0, "maximum": 1.0})
    """The least part of the CPUs that must have been tested alone."""
    memory_share: float = field(default=0.5, metadata={"minimum": 0.05, "maximum": 0.95})
    """The part of that time for memory."""
    memory_coverage_floor: float = field(default=0.95, metadata={"minimum": 0.0, "maximum": 1.0})
    """The least part that must be tested of the memory that the load may take."""
    memory_reserve_mib: int = field(default=512, metadata={"minimum": 0})
    memory_reserve_fraction: float = field(default=0.02, metadata={"minimum": 0.0, "maximum": 0.9})
    """The larger of the two reserves stays free; of the fixed one no more than half of what is free at all."""
    throttle_limit: float = field(default=0.05, metadata={"minimum": 0.0, "maximum": 1.0})
    """The part of the load for which a CPU may be slowed down for heat."""
    cpu_slow_fraction: float = field(default=0.8, metadata={"minimum": 0.0, "maximum": 1.0})
    """A CPU below this part of the median speed of its like is reported."""


@dataclass(frozen=True, slots=True)
class ClockRange:
    """What a CPU's clock can be, in kHz, and who sets it ("schedutil", "powersave")."""

    lowest: int
    highest: int
    governor: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the plan is made from. `usable` are the online CPUs that we may run on."""

    online: tuple[int, ...]
    usable: tuple[int, ...]
    available_bytes: int
    model: str
    places: dict[int, CpuPlace] = field(default_factory=dict)
    clocks: dict[int, ClockRange] = field(default_factory=dict)
    """By CPU; empty where the kernel does not set clocks (virtual machines)."""
    has_amx: bool = False
    has_opendcdiag: bool = False


@dataclass(frozen=True, slots=True)
class Phase:
    stressor: str
    seconds: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Which loads, for how long, over how much memory."""

    phases: tuple[Phase, ...]
    alone_s: float
    together_s: float
    dcdiag_s: float
    memory_s: int
    memory_mib: int
    allowed_share: float
    """The part of the free memory that the load may take."""

    @property
    def seconds(self) -> float:
        fill_s = self.memory_mib * MIB / FILL_BYTES_PER_S
        answers_s = self.alone_s + self.together_s + self.dcdiag_s + 2
        return sum(phase.seconds + 0.5 for phase in self.phases) + answers_s + self.memory_s + 3 + fill_s


@dataclass(frozen=True, slots=True)
class CpuReading:
    """One stressor on all CPUs, and after a miscompute on each alone."""

    report: StressNgReport | None
    problem: Finding | None = None
    pinned: dict[int, StressNgReport] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """The memory load: one of the reports, or why there is none. `taken_bytes` is how far free memory went down."""

    sat: SatReport | None = None
    vm: StressNgReport | None = None
    vm_workers: int = 1
    problem: Finding | None = None
    taken_bytes: int | None = None
    slots: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By physical address of a miscompare ("0x1cbf46705"): the DIMM slots that SMBIOS maps there."""


@dataclass(frozen=True, slots=True)
class Readings:
    """All that was seen, and of what machine, under which plan."""

    machine: Machine
    plan: Plan
    cpu: tuple[CpuReading, ...]
    answers: AnswersReading
    busy: dict[int, float]
    memory: MemoryReading
    throttled: dict[str, float]
    """The part of the load for which each CPU was slowed down for heat; empty where the machine does not count it."""
    throttle_unread: str = ""
    """Why that is not known of a machine that may well count it."""
    speeds: dict[int, float] = field(default_factory=dict)
    slow: dict[int, float] = field(default_factory=dict)
    peak_khz: dict[int, int] = field(default_factory=dict)
    """The highest clock seen on each CPU under load."""
    checked: tuple[str, ...] | None = None
    """The stressors that this stress-ng checks the results of; None: it does not say."""
    opendcdiag: DcdiagReading | None = None
    earlier: tuple[Finding, ...] = ()
    """Faults from before the stage, for information."""
    tool_versions: dict[str, str] = field(default_factory=dict)


def make_plan(machine: Machine, options: Options, memory_fraction: float) -> Plan:
    """Split the time, and size the memory load (pure). `memory_fraction` is the part of MemAvailable it may take."""
    memory_s = max(1, round(options.duration_s * options.memory_share))
    cpu_s = options.duration_s - memory_s
    answers_s = cpu_s * options.answers_share
    together_s = answers_s * TOGETHER_PART
    dcdiag_s = (cpu_s - answers_s) * DCDIAG_PART if machine.has_opendcdiag else 0.0
    load_s = cpu_s - answers_s - dcdiag_s
    phases = tuple(Phase(name, max(1, round(load_s * part))) for name, part in STRESSORS.items())
    free = machine.available_bytes
    kept = min(options.memory_reserve_mib * MIB, round(free * SMALL_RESERVE))
    reserve = max(kept, round(free * options.memory_reserve_fraction))
    allowed = max(0, min(round(free * memory_fraction), free - reserve))
    return Plan(
        phases, answers_s - together_s, together_s, dcdiag_s, memory_s, allowed // MIB, allowed / free if free else 0.0
    )
