"""One server and one held host for a file's tests; those that end it make their own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.terminal.rig import end, held, started
from tests.walk.rig import Agent, Orchestrator


@dataclass(frozen=True)
class Hold:
    orchestrator: Orchestrator
    agent: Agent

    @property
    def run_id(self) -> int:
        return int(self.agent.run["run_id"])


@pytest.fixture(scope="module")
def orchestrator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orchestrator]:
    server = started(tmp_path_factory.mktemp("server") / "o", "--terminal-timeout", "60")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def hold(orchestrator: Orchestrator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hold]:
    agent = held(tmp_path_factory.mktemp("held"), orchestrator)
    yield Hold(orchestrator, agent)
    end(agent)


@contextlib.asynccontextmanager
async def holding(orchestrator: Orchestrator, folder: Path, **how: Any) -> AsyncIterator[Hold]:
    """A held host of a test's own."""
    agent = await asyncio.to_thread(held, folder, orchestrator, **how)
    try:
        yield Hold(orchestrator, agent)
    finally:
        await asyncio.to_thread(end, agent)
