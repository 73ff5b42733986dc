"""Two of the three crossing points of the agent: what control says of itself, and what it is told.

`StatusBoard` holds one frozen snapshot that control replaces and the heartbeat reads. `Directives` is the queue into
control: directives from the heartbeat, alarms from the thermal sidecar. (The third is the log queue, `logs.py`.)
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from vetting_agent.wire import IdentifyOrder, OverrideFlags, TerminalOrder

if TYPE_CHECKING:
    from stages.outcome import Finding

ACKS_KEPT = 64


class Activity(StrEnum):
    """What the agent is at, in the words of the heartbeat."""

    RUNNING = "running"
    BETWEEN = "between"
    HOLDING = "holding"
    PARKED = "parked"
    COMPLETED = "completed"


class AckStatus(StrEnum):
    DONE = "done"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Ack:
    """An acknowledgement. `number` counts up, so that a repeated one is told from the first."""

    number: int
    cmd_id: str
    status: AckStatus
    message: str | None = None
    """Why it is refused, where the agent can say."""


@dataclass(frozen=True, slots=True)
class Status:
    """The agent at one moment. Times are of the monotonic clock."""

    activity: Activity = Activity.BETWEEN
    stage: str | None = None
    stage_since: float | None = None
    progress: float | None = None
    eta_s: float | None = None
    eta_since: float = 0.0
    acks: tuple[Ack, ...] = ()
    acks_made: int = 0

    def elapsed_s(self, now: float) -> float | None:
        """Seconds since the stage began."""
        return None if self.stage_since is None else round(now - self.stage_since, 3)

    def eta_now_s(self, now: float) -> float | None:
        """Seconds that the stage still needs, as it said, counted down since."""
        return None if self.eta_s is None else round(max(0.0, self.eta_s - (now - self.eta_since)), 3)


@dataclass(slots=True)
class StatusBoard:
    """Where the snapshot hangs. Control writes it, the heartbeat reads it."""

    now: Status = field(default_factory=Status)
    results: dict[str, tuple[str, str]] = field(default_factory=dict)
    """{stage: (verdict, message)} of what has run here, in the order of its end."""
    clock: Callable[[], float] = time.monotonic

    def at(self, activity: Activity, stage: str | None = None) -> None:
        """A new moment of the walk begins."""
        self.now = Status(
            activity=activity,
            stage=stage,
            stage_since=None if stage is None else self.clock(),
            acks=self.now.acks,
            acks_made=self.now.acks_made,
        )

    def ended(self, stage: str, verdict: str, message: str) -> None:
        """A stage has its outcome."""
        self.results.pop(stage, None)
        self.results[stage] = (verdict, message)

    def progress(self, fraction: float, eta_s: float | None) -> None:
        """How far the running stage is."""
        self.now = replace(self.now, progress=fraction, eta_s=eta_s, eta_since=self.clock())

    def acknowledge(self, cmd_id: str, status: AckStatus, message: str | None = None) -> None:
        """Have the heartbeat carry this until it is heard."""
        number = self.now.acks_made + 1
        acks = (*self.now.acks, Ack(number, cmd_id, status, message))[-ACKS_KEPT:]
        self.now = replace(self.now, acks=acks, acks_made=number)


@dataclass(frozen=True, slots=True)
class Directive:
    """What the orchestrator wants. `cmd_id` None: a server that sends no ids."""

    cmd: str
    stage: str | None = None
    override_flags: OverrideFlags | None = None
    cmd_id: str | None = None
    terminal: TerminalOrder | None = None
    identify: IdentifyOrder | None = None

    def __str__(self) -> str:
        return f"{self.cmd} {self.stage}" if self.stage else self.cmd


@dataclass(frozen=True, slots=True)
class Alarm:
    """Going on would do harm: the running stage must end with this finding."""

    finding: Finding


class Directives:
    """The queue into control. Putting never blocks; there is one reader."""

    def __init__(self) -> None:
        self._waiting: deque[Directive | Alarm] = deque()
        self._arrived = asyncio.Event()

    def put(self, item: Directive | Alarm) -> None:
        self._waiting.append(item)
        self._arrived.set()

    def take(self) -> Directive | Alarm | None:
        """The next one, or None when there is none now."""
        if self._waiting:
            return self._waiting.popleft()
        self._arrived.clear()
        return None

    async def arrival(self) -> None:
        """Wait until `take` has something to give."""
        await self._arrived.wait()
