"""What the simulated agents measured: calls, refusals and time by verb."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, field

import msgspec


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


@dataclass(slots=True)
class Figures:
    """Collects while the simulation runs."""

    times: dict[str, list[float]] = field(default_factory=dict)
    failed: dict[str, Counter[str]] = field(default_factory=dict)
    log_lines: int = 0

    def note(self, verb: str, seconds: float, failure: str | None) -> None:
        """One call; `failure` is None for a good answer."""
        self.times.setdefault(verb, []).append(seconds)
        if failure is not None:
            self.failed.setdefault(verb, Counter())[failure] += 1

    @property
    def failures(self) -> int:
        return sum(counter.total() for counter in self.failed.values())

    def clear(self) -> None:
        """Forget what was measured so far: the start is over."""
        self.times.clear()
        self.failed.clear()
        self.log_lines = 0

    def of_verbs(self, duration_s: float) -> list[VerbFigures]:
        """One line for each verb, in the order of their names."""
        return [self._of(verb, times, duration_s) for verb, times in sorted(self.times.items())]

    def _of(self, verb: str, times: list[float], duration_s: float) -> VerbFigures:
        ordered = sorted(times)
        return VerbFigures(
            verb=verb,
            calls=len(times),
            per_s=round(len(times) / duration_s, 1),
            p50_ms=round(1000 * statistics.median(ordered), 2),
            p99_ms=round(1000 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 2),
            max_ms=round(1000 * ordered[-1], 2),
            failed=dict(self.failed.get(verb, {})),
        )
