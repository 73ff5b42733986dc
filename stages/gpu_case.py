"""One NVIDIA GPU before its judges: its facts as they stand at the end, what they were before, and what it is called.

Also what is told of its settings. Nothing here touches the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from probes.nvml import GpuFacts, NvLink, XidEvent
from probes.pci import PciDevice
from stages.outcome import Finding, ReasonCode, error, info, warning

LOADED_PERCENT = 50
"""From so much of NVML's utilization on a GPU counts as loaded, and has to run its PCIe link at full speed."""
# What a driver may say and still be believed, by fact; anything else was not read.
BELIEVABLE = {
    "temperature": (-40, 150),
    "memory_temperature": (-40, 150),
    "temperature_slowdown": (40, 150),
    "temperature_memory_max": (40, 150),
    "temperature_margin": (-100, 150),
    "pcie_width": (1, 32),
    "pcie_width_max": (1, 32),
    "pcie_generation": (1, 8),
    "pcie_generation_max": (1, 8),
}
COMPUTE_MODES = {0: "default", 1: "exclusive thread", 2: "prohibited", 3: "exclusive process"}


@dataclass(frozen=True, slots=True)
class Limits:
    retired_pages: int
    throttled_percent: float
    nvlink_expected: bool
    pcie_replays_per_minute: float = 8.0


@dataclass(frozen=True, slots=True)
class Path:
    """What the port right above a GPU can do: lanes and GT/s. None: not known."""

    address: str
    max_width: int | None
    max_speed_gts: float | None = None


def path_of(device: PciDevice, everything: Sequence[PciDevice]) -> Path:
    """By the port right above: wider ports further up do not help, narrower ones have links of their own."""
    port = next((one for one in everything if one.address == device.upstream), None)
    link = port.link if port else None
    return Path(device.address, link.max_width if link else None, link.max_speed_gts if link else None)


@dataclass(frozen=True, slots=True)
class Case:
    """One GPU: its newest facts, all its samples, over how many seconds they were taken, and what befell it."""

    gpu: GpuFacts
    """By `newest`."""
    history: Sequence[GpuFacts]
    seconds: float
    path: Path
    limits: Limits
    events: Sequence[XidEvent] = ()
    switched: bool = False
    """NVSwitches join the GPUs of this machine, so that all links have to be active."""

    @property
    def name(self) -> str:
        return f"{self.gpu.text('name') or 'GPU'} ({self.gpu.pci or f'index {self.gpu.index}'})"

    @property
    def component(self) -> str:
        return component_of(self.gpu)

    def error(self, code: ReasonCode, message: str, evidence: str = "") -> Finding:
        return error(code, self.component, f"{self.name}: {message}", evidence)

    def warning(self, code: ReasonCode, message: str, evidence: str = "") -> Finding:
        return warning(code, self.component, f"{self.name}: {message}", evidence)

    def info(self, code: ReasonCode, message: str) -> Finding:
        return info(code, self.component, f"{self.name}: {message}")

    def amount(self, fact: str) -> float | None:
        """The newest figure that can be believed."""
        return believed(self.gpu, fact)

    def all(self, fact: str) -> list[float]:
        """The figures of all samples that tell the fact, oldest first."""
        return [value for one in self.history if (value := believed(one, fact)) is not None]

    def highest(self, fact: str) -> float | None:
        return max(self.all(fact), default=None)

    def gained(self, fact: str) -> float | None:
        """By how much a counter grew. A counter that was set back counts from 0 again."""
        values = self.all(fact)
        if len(values) < 2:
            return None
        return values[-1] - values[0] if values[-1] >= values[0] else values[-1]

    def loaded(self, fact: str) -> list[float]:
        """As `all`, of those samples in which the GPU was busy."""
        return [value for one in self.history if is_busy(one) and (value := believed(one, fact)) is not None]


def is_busy(gpu: GpuFacts) -> bool:
    return (gpu.amount("utilization") or 0) >= LOADED_PERCENT


def believed(gpu: GpuFacts, fact: str) -> float | None:
    """A figure, unless it is one that no GPU can have."""
    value = gpu.amount(fact)
    low, high = BELIEVABLE.get(fact, (-1e300, 1e300))
    return value if value is not None and low <= value <= high else None


def sustained(values: Sequence[float]) -> float | None:
    """The least that was held in two samples running: one that falls into a change of speed says little."""
    return min((max(pair) for pair in pairwise(values)), default=values[0] if values else None)


def component_of(gpu: GpuFacts) -> str:
    return f"gpu:{gpu.uuid or gpu.pci or gpu.index}"


def same(one: GpuFacts, other: GpuFacts) -> bool:
    """Whether both are of one GPU. One that is lost tells no UUID any more."""
    return one.uuid == other.uuid if one.uuid and other.uuid else one.index == other.index


def newest(history: Sequence[GpuFacts]) -> GpuFacts:
    """Each fact as the last sample that speaks of it has it: samples in the midst of a stage tell only some."""
    values: dict[str, object] = {}
    errors: dict[str, str] = {}
    unsupported: set[str] = set()
    links: tuple[NvLink, ...] = ()
    for gpu in history:
        for name in (*gpu.values, *gpu.errors, *gpu.unsupported):
            values.pop(name, None)
            errors.pop(name, None)
            unsupported.discard(name)
        values |= gpu.values
        errors |= gpu.errors
        unsupported |= gpu.unsupported
        links = gpu.nvlinks or links
    lost, reset = (any(getattr(gpu, name) for gpu in history) for name in ("lost", "reset_required"))
    return GpuFacts(history[-1].index, values, frozenset(unsupported), errors, links, lost, reset)


def settings(gpu: GpuFacts) -> str:
    """The modes that a GPU is in, in words; a mode that it does not have is left out."""

    def mode(fact: str, word: Callable[[float], str]) -> str | None:
        value = gpu.amount(fact)
        return None if value is None else word(value)

    limit, usual = gpu.amount("power_limit"), gpu.amount("power_limit_default")
    words = (
        mode("persistence_mode", lambda value: f"persistence mode {'on' if value else 'off'}"),
        mode("mig_mode", lambda value: f"MIG {'on' if value else 'off'}"),
        mode("compute_mode", lambda value: f"compute mode {COMPUTE_MODES.get(int(value), f'{value:.0f}')}"),
        f"power limit {limit:.0f} W of {usual:.0f} W" if limit is not None and usual else None,
    )
    return ", ".join(word for word in words if word) or "it tells of no settings"
