"""What the server remembers, in memory alone, of each run's calls: how they went, and that something new has come.

It costs a call two dictionary entries, and is what the pages wait on instead of asking the database again and again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.clock import now_text
from vetting_agent.run_view import SampleView
from vetting_agent.wire import Sample

AUTH_STATUSES = frozenset({401, 403, 404})
RESULT_VERBS = frozenset({"result", "evidence"})


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that was not answered well. `at`: the monotonic clock."""

    at: float
    ts: str
    verb: str
    code: str
    message: str
    correlation_id: str


@dataclass(frozen=True, slots=True)
class Greeting:
    """A `hello` that was taken: when, from whom, and with which correlation id."""

    ts: str
    who: str
    correlation_id: str


@dataclass(slots=True)
class Pulse:
    """By run: the last failures of each kind, the hottest sensor, and a number that grows with all that comes."""

    auth_failures: dict[int, Failure] = field(default_factory=dict)
    troubles: dict[int, Failure] = field(default_factory=dict)
    result_failures: dict[int, Failure] = field(default_factory=dict)
    greetings: dict[int, Greeting] = field(default_factory=dict)
    hottest: dict[int, SampleView] = field(default_factory=dict)
    changes: dict[int, int] = field(default_factory=dict)
    """Grows with what an operator writes beside the run's record: a waiver, a key taken."""
    _numbers: dict[int, int] = field(default_factory=dict)
    _waiting: dict[int, asyncio.Event] = field(default_factory=dict)

    def went_well(self, run_id: int, verb: str) -> None:
        self.troubles.pop(run_id, None)
        if verb in RESULT_VERBS:
            self.result_failures.pop(run_id, None)

    def went_wrong(self, run_id: int, verb: str, status: int, code: str, message: str, correlation_id: str) -> None:
        """A call about this run was answered with an error."""
        failure = Failure(time.monotonic(), now_text(), verb, code, message, correlation_id)
        if status in AUTH_STATUSES:
            self.auth_failures[run_id] = failure
        elif status >= 500 or code == "disconnected":
            self.troubles[run_id] = failure
        elif verb in RESULT_VERBS and status == 422:
            self.result_failures[run_id] = failure

    def greeted(self, run_id: int, who: str, correlation_id: str) -> None:
        """A host said hello: the last one is remembered."""
        self.greetings[run_id] = Greeting(now_text(), who, correlation_id)

    def sampled(self, run_id: int, samples: Sequence[Sample], now: str) -> None:
        """A batch of samples was kept: the hottest of it, when it has temperatures."""
        hot = max((one for one in samples if one.kind.startswith("temp")), key=lambda one: one.value, default=None)
        if hot is not None:
            self.hottest[run_id] = SampleView(
                ts=hot.ts or now, kind=hot.kind, key=hot.key, value=hot.value, unit=hot.unit
            )
        self.touch(run_id)

    def changed(self, run_id: int) -> None:
        """Something beside the run's record was written."""
        self.changes[run_id] = self.changes.get(run_id, 0) + 1
        self.touch(run_id)

    def touch(self, run_id: int) -> None:
        """Something about this run is new."""
        self._numbers[run_id] = self.number(run_id) + 1
        waiting = self._waiting.pop(run_id, None)
        if waiting is not None:
            waiting.set()

    def number(self, run_id: int) -> int:
        """Grows with everything new about the run."""
        return self._numbers.get(run_id, 0)

    async def newer_than(self, run_id: int, number: int, limit_s: float) -> None:
        """Wait until there is something newer than `number` was, or `limit_s` have passed."""
        if self.number(run_id) != number:
            return
        event = self._waiting.setdefault(run_id, asyncio.Event())
        try:
            async with asyncio.timeout(limit_s):
                await event.wait()
        except TimeoutError:
            return
