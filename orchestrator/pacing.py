"""How often hosts call: as the operator said, else so that all of them together stay within what the server can take.

The claim tells each host its intervals. Up to some 2,000 hosts these are the usual ones; from there on the ones that
nobody chose grow with the number of hosts. Thresholds of silence follow the intervals that the run's host was told.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from msgspec.structs import replace

from orchestrator.run_record import Intervals, Run

CALLS_PER_S = 1600.0
"""What all hosts together may make of heartbeats, sensors and logs, unless `serve --calls-per-second` says more."""
LONGEST_FACTOR = 6.0
"""A heartbeat a minute: a host that died is told after six of them."""
COUNT_AGAIN_S = 1.0
USUAL = Intervals()


def calls_of(intervals: Intervals) -> float:
    """Calls a second of one host."""
    return 1 / intervals.heartbeat_s + 1 / intervals.sensor_s + 1 / intervals.log_s


def factor_for(hosts: int, calls_per_s: float) -> float:
    """How much longer than usual the intervals of so many hosts have to be."""
    return min(LONGEST_FACTOR, max(1.0, hosts * calls_of(USUAL) / calls_per_s))


def paced(run: Run, factor: float) -> Run:
    """The run with the intervals that its host is told. What the operator chose stays."""
    told = {
        name: round(usual * factor, 1)
        for name, usual in ((name, getattr(USUAL, name)) for name in USUAL.__struct_fields__)
        if name not in run.chosen_intervals and getattr(run.intervals, name) == usual
    }
    intervals = replace(run.intervals, **told) if factor > 1 else run.intervals
    given = None if intervals == run.intervals else intervals
    return run if run.given_intervals == given else replace(run, given_intervals=given)


@dataclass(slots=True)
class Pacer:
    """Counts the hosts, at most once a second."""

    calls_per_s: float = CALLS_PER_S
    _factor: float = 1.0
    _counted_at: float = -math.inf

    def factor(self, runs: Iterable[Run], now: float) -> float:
        """By the runs that are not over, also those that no host has claimed yet: they will be. `now`: monotonic."""
        if now - self._counted_at >= COUNT_AGAIN_S:
            hosts = sum(not one.is_over and not one.powered_off for one in runs)
            self._factor, self._counted_at = factor_for(hosts, self.calls_per_s), now
        return self._factor
