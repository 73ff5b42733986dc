"""What a stage is, and what it is given to work with.

A stage is one file that ends in `STAGE = Stage(...)`. Its `run` gets a `StageContext` and its options and returns
readings; its `judge` makes an `Outcome` of them. It never sees the orchestrator, a run state, or another stage.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from probes.host import Host

if TYPE_CHECKING:  # the levels below are needed by an agent that has not yet claimed a run; outcomes are not
    from stages.outcome import Outcome


class Level(StrEnum):
    """Log levels of the wire."""

    INFO = "info"
    WARN = "warn"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class ExpectedDisk:
    """A disk that the claim says this host has. `size_gb` is in 10^9 bytes; None: any size."""

    serial: str
    size_gb: float | None = None


@dataclass(frozen=True, slots=True)
class WipeOverride:
    """The operator's word that data on disks may be destroyed, for one execution of one stage."""

    serials: tuple[str, ...] | None = None
    """None: exactly the disks that this run's last Storage result refused for data."""


@dataclass(frozen=True, slots=True)
class IperfPeer:
    """An iperf3 server lent to this host for one test."""

    host: str
    port: int
    more_ports: tuple[int, ...] = ()
    """Further servers on that host, lent as well, for ports faster than one iperf3 process."""


class IperfLender(Protocol):
    """Lends the orchestrator's iperf3 server. Waits in the queue for as long as it takes."""

    def lease(self) -> AbstractAsyncContextManager[IperfPeer | None]:
        """An iperf3 server for this host alone while the block lasts; None when the orchestrator has none."""
        ...


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the claim and the operator say that matters to stages."""

    expected_disks: tuple[ExpectedDisk, ...] | None = None
    """None: the claim does not say. Then no disk may be written."""
    non_destructive: bool = True
    allow_destructive: bool = False
    """True only in the live image or with --allow-destructive."""
    override: WipeOverride | None = None
    refused_serials: tuple[str, ...] = ()
    """Disks that this run's last Storage result refused for data."""
    orchestrator_host: str | None = None
    """The host of the orchestrator's base URL: name or address."""
    boot_mac: str | None = None
    """MAC address of the NIC that the host booted from, lower case with colons."""
    earlier_evidence: Mapping[str, Path] = field(default_factory=dict)
    """The evidence folder of each stage that this agent ran before in this run, by stage name (the newest)."""
    memory_fraction: float = 1.0
    """The part of MemAvailable that a memory load may take: 1 in the live image, 0.5 in `vet`."""


class Listener(Protocol):
    """Takes what a stage reports while it runs. Calls return at once."""

    def log(self, level: Level, text: str) -> None: ...

    def progress(self, fraction: float, eta_s: float | None) -> None: ...

    def sample(self, kind: str, key: str, value: float, unit: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """How long the stage will take, as it knows by now: the time limit is 2 x planned + 60 s."""

    seconds: list[float] = field(default_factory=lambda: [0.0])

    @property
    def planned_s(self) -> float:
        return self.seconds[-1]

    def set(self, planned_s: float) -> None:
        self.seconds.append(planned_s)


@dataclass(frozen=True, slots=True)
class StageContext:
    """All that a stage is given besides its options.

    `evidence` is the stage's own folder; `host.tools` already records every tool's output into it.
    """

    host: Host
    evidence: Path
    facts: RunFacts
    iperf: IperfLender
    listener: Listener
    plan: Plan = field(default_factory=Plan)

    def info(self, text: str) -> None:
        """Log a line: what is being done."""
        self.listener.log(Level.INFO, text)

    def warn(self, text: str) -> None:
        """Log a line that a person should see."""
        self.listener.log(Level.WARN, text)

    def error(self, text: str) -> None:
        """Log a line about a fault."""
        self.listener.log(Level.ERROR, text)

    def progress(self, fraction: float, eta_s: float | None = None) -> None:
        """How far the stage is (0 to 1), and how many seconds it still needs, if known."""
        self.listener.progress(min(1.0, max(0.0, fraction)), eta_s)

    def sample(self, kind: str, key: str, value: float, unit: str) -> None:
        """One live measurement, for instance ("throughput", "disk:SERIAL", 512.3, "MB/s")."""
        self.listener.sample(kind, key, value, unit)


OptionsT = TypeVar("OptionsT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage(Generic[OptionsT]):
    """One stage: its names, what it needs, and how it runs."""

    name: str
    """As in claims, results and logs: "CPUStress"."""
    state: str
    """The state of a run that stands at this stage: "CPUStress", "InventoryCheck"."""
    title: str
    """For people: "CPU and memory under load"."""
    options: type[OptionsT]
    """A frozen dataclass; each field is a parameter of the stage, with a default."""
    planned_s: Callable[[OptionsT], float]
    """Seconds that it takes as far as the options tell; `context.plan.set` corrects it at run time."""
    run: Callable[[StageContext, OptionsT], Awaitable[Any]]
    """Reads and loads the hardware; returns the stage's readings."""
    readings: type[Any]
    """A frozen dataclass of plain values: all that `judge` looks at. It is kept in the evidence as JSON, so that the
    same judgement can be made again later, elsewhere, from the evidence alone."""
    judge: Callable[[Any, OptionsT], Outcome]
    """Pure: readings and options to an outcome."""
    counters_needed: bool = False
    """True when the machine's fault counters are part of what this stage proves: unread, they leave it unknown."""
    tools: tuple[str, ...] = ()
    """Programs that it runs on some machine; the image carries them."""
    destructive: bool = False
    """True when some options make it write to disks."""
    follows_disks: bool = False
    """True when it is about disks: one that leaves is its own finding, and the others are tested to their end."""
    artifact: Callable[[Path], Mapping[str, Any] | None] = lambda _evidence: None
    """What goes beside the outcome on the wire: Inventory's inventory, read from its evidence folder."""
