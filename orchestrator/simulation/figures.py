"""What the simulated agents measured: calls, refusals and time by verb, small enough to be sent between processes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import msgspec

STEP = 1.02
"""From one class of times to the next: a percentile is right to 2 %, however many calls there were."""
SHORTEST_S = 1e-5


class VerbFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Times in milliseconds, from the call's first byte to its answer's last."""

    verb: str
    calls: int
    per_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    failed: dict[str, int]
    """By HTTP status or kind of failure."""


class VerbCounts(msgspec.Struct, kw_only=True):
    """The calls of one verb. `times`: how many took as long as each class of times."""

    calls: int = 0
    times: dict[int, int] = {}
    longest_s: float = 0.0
    failed: dict[str, int] = {}

    def note(self, seconds: float, failure: str | None) -> None:
        self.calls += 1
        place = int(math.log(max(seconds, SHORTEST_S) / SHORTEST_S, STEP))
        self.times[place] = self.times.get(place, 0) + 1
        self.longest_s = max(self.longest_s, seconds)
        if failure is not None:
            self.failed[failure] = self.failed.get(failure, 0) + 1

    def percentile_ms(self, share: float) -> float:
        """The time within which this share of the calls was answered."""
        left = share * self.calls
        for place, count in sorted(self.times.items()):
            left -= count
            if left <= 0:
                return round(1000 * min(SHORTEST_S * STEP ** (place + 1), self.longest_s), 2)
        return round(1000 * self.longest_s, 2)


class Figures(msgspec.Struct, kw_only=True):
    """Collects while the simulation runs. `cpu_s`: what the simulation itself took."""

    verbs: dict[str, VerbCounts] = {}
    log_lines: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0

    def note(self, verb: str, seconds: float, failure: str | None) -> None:
        """One call; `failure` is None for a good answer."""
        counts = self.verbs.get(verb)
        if counts is None:
            counts = self.verbs[verb] = VerbCounts()
        counts.note(seconds, failure)

    @property
    def calls(self) -> int:
        return sum(one.calls for one in self.verbs.values())

    @property
    def failed(self) -> dict[str, dict[str, int]]:
        return {verb: one.failed for verb, one in self.verbs.items() if one.failed}

    @property
    def failures(self) -> int:
        return sum(sum(one.failed.values()) for one in self.verbs.values())

    def clear(self) -> None:
        """Forget what was measured so far: the start is over."""
        self.verbs.clear()
        self.log_lines = 0

    def of_verbs(self) -> list[VerbFigures]:
        """One line for each verb, in the order of their names."""
        return [self._of(verb, counts) for verb, counts in sorted(self.verbs.items())]

    def _of(self, verb: str, counts: VerbCounts) -> VerbFigures:
        return VerbFigures(
            verb=verb,
            calls=counts.calls,
            per_s=round(counts.calls / self.seconds, 1),
            p50_ms=counts.percentile_ms(0.5),
            p99_ms=counts.percentile_ms(0.99),
            max_ms=round(1000 * counts.longest_s, 2),
            failed=counts.failed,
        )


def together(parts: Iterable[Figures]) -> Figures:
    """The figures of several processes that ran at the same time."""
    whole = Figures()
    for part in parts:
        for verb, counts in part.verbs.items():
            _add(whole.verbs.setdefault(verb, VerbCounts()), counts)
        whole.log_lines += part.log_lines
        whole.seconds = max(whole.seconds, part.seconds)
        whole.cpu_s += part.cpu_s
    return whole


def _add(to: VerbCounts, counts: VerbCounts) -> None:
    to.calls += counts.calls
    to.times = dict(Counter(to.times) + Counter(counts.times))
    to.failed = dict(Counter(to.failed) + Counter(counts.failed))
    to.longest_s = max(to.longest_s, counts.longest_s)
