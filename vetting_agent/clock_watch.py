"""Says when the clocks of host and orchestrator part, and when they agree again, by the `Date` of its answers.

Log lines of both can't be put in order then, and the key of a hold expires by the host's clock. Nothing else depends
on it: all waiting is by the monotonic clock.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from vetting_agent.http_date import http_date

SKEW_S = 60.0
"""A call may take 30 s, and `Date` is in whole seconds."""
CHANGE_S = 600.0
HOUR_S, MINUTE_S = 3600.0, 60.0


class ClockWatch:
    """Looks at each answer. Tells of a skew once, and again when it changes much."""

    def __init__(self, tell: Callable[[str], None], now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._tell = tell
        self._now = now
        self._told_s = 0.0

    def look(self, date: str) -> None:
        """`date`: the header; what can't be read is let go."""
        theirs = http_date(date)
        if theirs is None:
            return
        skew_s = (self._now() - theirs).total_seconds()
        if abs(skew_s) <= SKEW_S:
            if self._told_s:
                self._told_s = 0.0
                self._tell("the clocks of this host and the orchestrator agree again")
        elif not self._told_s or abs(skew_s - self._told_s) > CHANGE_S:
            self._told_s = skew_s
            side = "ahead of" if skew_s > 0 else "behind"
            self._tell(f"the clock of this host is {_span(abs(skew_s))} {side} the orchestrator's")


def _span(seconds: float) -> str:
    return f"{seconds / HOUR_S:.1f} h" if seconds >= HOUR_S else f"{seconds / MINUTE_S:.0f} min"
