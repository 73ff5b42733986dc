"""What CPUStress is told, what it plans, and what it reads: data only, and the pure function that makes the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from probes.counters import Counters
from stages.cpu_stress_judge import MIB, SatReport, StressNgReport
from stages.outcome import Finding

STRESSORS: Mapping[str, float] = {"cpu": 0.4, "cache": 0.15, "vecmath": 0.15, "vecfp": 0.15, "vecshuf": 0.15}
"""stress-ng's tests that check their results, and their parts of the CPU time. `cpu` goes through all its methods."""
FILL_BYTES_PER_S = 1 << 30
"""How fast stressapptest fills memory before its time begins: slow machines reach this."""


@dataclass(frozen=True, slots=True)
class Options:
    """Parameters of the stage."""

    duration_s: float = field(default=120.0, metadata={"minimum": 2.0, "maximum": 30 * 86400.0})
    """CPU and memory load together."""
    memory_share: float = field(default=0.5, metadata={"minimum": 0.05, "maximum": 0.95})
    """The part of that time for memory."""
    memory_coverage_floor: float = field(default=0.95, metadata={"minimum": 0.0, "maximum": 1.0})
    """The least part that must be tested of the memory that the load may take."""
    memory_reserve_mib: int = field(default=512, metadata={"minimum": 0})
    memory_reserve_fraction: float = field(default=0.02, metadata={"minimum": 0.0, "maximum": 0.9})
    """The larger of the two reserves stays free."""
    throttle_limit: float = field(default=0.05, metadata={"minimum": 0.0, "maximum": 1.0})
    """The part of the load for which a CPU may be slowed down for heat."""
    cpu_slow_fraction: float = field(default=0.8, metadata={"minimum": 0.0, "maximum": 1.0})
    """A CPU below this part of the median speed of its like is reported."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the plan is made from. `usable` are the online CPUs that we may run on."""

    online: tuple[int, ...]
    usable: tuple[int, ...]
    available_bytes: int
    model: str


@dataclass(frozen=True, slots=True)
class Phase:
    stressor: str
    seconds: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Which loads, for how long, over how much memory."""

    phases: tuple[Phase, ...]
    memory_s: int
    memory_mib: int
    allowed_share: float
    """The part of the free memory that the load may take."""

    @property
    def seconds(self) -> float:
        fill_s = self.memory_mib * MIB / FILL_BYTES_PER_S
        return sum(phase.seconds + 0.5 for phase in self.phases) + self.memory_s + 3 + fill_s


@dataclass(frozen=True, slots=True)
class CpuReading:
    """One stressor on all CPUs, and after a miscompute on each alone."""

    report: StressNgReport | None
    problem: Finding | None = None
    pinned: Mapping[int, StressNgReport] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """The memory load: one of the reports, or why there is none. `taken_bytes` is how far free memory went down."""

    sat: SatReport | None = None
    vm: StressNgReport | None = None
    vm_workers: int = 1
    problem: Finding | None = None
    taken_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """All that was seen."""

    cpu: tuple[CpuReading, ...]
    busy: Mapping[int, float]
    memory: MemoryReading
    before: Counters
    after: Counters
    speeds: Mapping[int, float] = field(default_factory=dict)
    slow: Mapping[int, float] = field(default_factory=dict)


def make_plan(machine: Machine, options: Options, memory_fraction: float) -> Plan:
    """Split the time, and size the memory load (pure). `memory_fraction` is the part of MemAvailable it may take."""
    memory_s = max(1, round(options.duration_s * options.memory_share))
    cpu_s = options.duration_s - memory_s
    phases = tuple(Phase(name, max(1, round(cpu_s * part))) for name, part in STRESSORS.items())
    free = machine.available_bytes
    reserve = max(options.memory_reserve_mib * MIB, round(free * options.memory_reserve_fraction))
    allowed = max(0, min(round(free * memory_fraction), free - reserve))
    return Plan(phases, memory_s, allowed // MIB, allowed / free if free else 0.0)
