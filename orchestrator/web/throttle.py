"""How often a login may fail: a few times a name and address, more often an address, then a pause."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

WINDOW_S = 300.0
FAILURES_OF_NAME = 5
"""From one address: another address may still log in with that name, so that nobody locks an admin out."""
FAILURES_OF_ADDRESS = 20
MOST_KEYS = 10_000


@dataclass(slots=True)
class Throttle:
    clock: Callable[[], float] = time.monotonic
    _failures: dict[tuple[str, str], deque[float]] = field(default_factory=dict)

    def wait_s(self, name: str, address: str) -> float:
        """How long this login has to wait; 0 when it may be tried now."""
        pauses = (self._pause(("", address), FAILURES_OF_ADDRESS), self._pause((name, address), FAILURES_OF_NAME))
        return max(pauses)

    def failed(self, name: str, address: str) -> None:
        now = self.clock()
        for key in (("", address), (name, address)):
            self._failures.setdefault(key, deque(maxlen=FAILURES_OF_ADDRESS)).append(now)
        if len(self._failures) > MOST_KEYS:
            recent = {key: times for key, times in self._failures.items() if times[-1] > now - WINDOW_S}
            self._failures = recent if len(recent) <= MOST_KEYS else {}

    def succeeded(self, name: str, address: str) -> None:
        self._failures.pop((name, address), None)

    def _pause(self, key: tuple[str, str], most: int) -> float:
        times = self._failures.get(key)
        if times is None or len(times) < most:
            return 0.0
        return max(0.0, times[-most] + WINDOW_S - self.clock())
