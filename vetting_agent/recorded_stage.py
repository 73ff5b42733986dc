"""`vetting-agent stage NAME --root DIR`: what a stage makes of a recorded machine.

A recording can show a fault, and for some stages it holds all that a verdict needs. A stage whose proof is a load on
the living hardware is not run on it at all, and says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from stages.outcome import Outcome, ReasonCode, error
from stages.stage import IperfPeer, Level, Stage

AT_REST = frozenset({"Inventory", "SMART", "GPU", "PSU"})
"""Stages that read facts. What they lack without a load (PSU, GPU) they say themselves."""
WITHOUT_LOAD: Mapping[str, Mapping[str, Any]] = {"GPU": {"load": False}}
"""Parameters with which they only read: a recording cannot be put under load, and a capture must not load anything."""


def refusal(stage: Stage[Any]) -> Outcome | None:
    """Why this stage has nothing to say of a recording; None where it has."""
    if stage.name in AT_REST:
        return None
    text = f"{stage.name} proves hardware by putting it under load; a recorded machine cannot be put under load"
    return Outcome(text, (error(ReasonCode.COVERAGE_LOW, stage.name, text),))


class Quiet:
    """Nobody listens, and there is no orchestrator to lend an iperf3 server."""

    def log(self, level: Level, text: str) -> None: ...

    def progress(self, fraction: float, eta_s: float | None) -> None: ...

    def sample(self, kind: str, key: str, value: float, unit: str) -> None: ...

    @contextlib.asynccontextmanager
    async def lease(self) -> AsyncIterator[IperfPeer | None]:
        yield None
