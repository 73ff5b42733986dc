"""A StageContext for tests, whose listener remembers what the stage reported."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from probes.host import Host
from stages.outcome import Outcome
from stages.stage import IperfPeer, Level, RunFacts, StageContext


@dataclass
class Remembering:
    """A listener that keeps everything."""

    lines: list[tuple[Level, str]] = field(default_factory=list)
    fractions: list[float] = field(default_factory=list)
    samples: list[tuple[str, str, float, str]] = field(default_factory=list)

    def log(self, level: Level, text: str) -> None:
        self.lines.append((level, text))

    def progress(self, fraction: float, eta_s: float | None) -> None:
        self.fractions.append(fraction)

    def sample(self, kind: str, key: str, value: float, unit: str) -> None:
        self.samples.append((kind, key, value, unit))


@dataclass
class FixedLender:
    """Lends always the same iperf3 server, or none."""

    peer: IperfPeer | None = None

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[IperfPeer | None]:
        yield self.peer


def as_said(said: Outcome, _options: object) -> Outcome:
    """The judge of a made stage whose readings are its outcome."""
    return said


def stage_context(
    evidence: Path,
    host: Host,
    *,
    facts: RunFacts | None = None,
    peer: IperfPeer | None = None,
) -> tuple[StageContext, Remembering]:
    """A context over `host`, whose tools record into `evidence`/tools, and its listener."""
    listener = Remembering()
    recorded = host.with_tools(host.tools.recording(evidence / "tools"))
    context = StageContext(
        host=recorded, evidence=evidence, facts=facts or RunFacts(), iperf=FixedLender(peer), listener=listener
    )
    return context, listener
