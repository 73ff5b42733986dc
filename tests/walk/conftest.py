"""Fixtures of the walk: one orchestrator a test, and agents that are ended with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.walk.rig import Agent, Orchestrator


@pytest.fixture
def orchestrator(tmp_path: Path) -> Iterator[Orchestrator]:
    server = Orchestrator(tmp_path / "o")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def new_agent(tmp_path: Path, orchestrator: Orchestrator) -> Iterator[Callable[..., Agent]]:
    """Makes agents for a run; `url` puts something between agent and orchestrator."""
    made: list[Agent] = []

    def make(
        run: dict[str, Any],
        *arguments: str,
        url: str | None = None,
        folder: str = "agent",
        shown: dict[str, Path] | None = None,
    ) -> Agent:
        way = (url or orchestrator.url, orchestrator.fingerprint)
        agent = Agent(tmp_path / folder, *way, run, arguments=list(arguments), shown=shown or {})
        made.append(agent)
        return agent.start()

    yield make
    for agent in made:
        if agent.process is not None and agent.process.poll() is None:
            agent.process.kill()
            agent.process.wait()
