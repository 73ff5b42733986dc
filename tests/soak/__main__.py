"""Two hours of heartbeats, samples, logs and a hold in ten minutes, and whether server and agent grow on it.

    python -m tests.soak [--minutes 10] [--pace 12] [--agents 4] [--write FILE]

A real `vetting-orchestrator serve` has simulated agents that call `--pace` times as often as they would, and one real
agent that holds. What is kept of logs and samples is kept for a twelfth of the time too, so that the retention works.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.operator_messages import RunCreated
from orchestrator.simulation.agents import Load, Plan, simulate
from orchestrator.simulation.figures import Figures
from tests.crash.subject import BROKEN, LOAD
from tests.soak.trend import Trend, Watch, trends
from tests.walk.rig import Agent, Orchestrator, wait_for

KEPT_S = 60
"""Logs and samples, in real seconds."""
WARM_UP_S = 5.0
LEAST_SHARE = 0.7
"""Of the calls that the pace asks for: with fewer the machine was too busy, and nothing is said of growth."""
CALLS_PER_S = 1 / 10 + 1 / 5 + 1 / 2
"""Of one agent at its own pace: heartbeat, samples, log."""


class Counted(Orchestrator):
    """Says how many tasks it has."""

    program = ("tests.soak.counted", "orchestrator.__main__")


@dataclass(frozen=True, slots=True)
class Soaked:
    """What a soak showed."""

    minutes: float
    pace: float
    agents: int
    figures: Figures
    of: dict[str, list[Trend]]
    """By process."""
    held: bool
    """Whether the real agent still held at the end, and had been heard all the time."""

    @property
    def share(self) -> float:
        """The part of the calls asked for that were made."""
        asked = self.minutes * 60 * self.agents * self.pace * CALLS_PER_S
        return self.figures.calls / asked

    @property
    def complaints(self) -> list[str]:
        if self.share < LEAST_SHARE:
            return [f"only {self.share:.0%} of the calls were made: this machine was too busy to say anything"]
        grown = [
            f"{who}: {one.limit.name} grows by {one.text(one.rise)} of {one.text(one.allowed)} allowed"
            for who, found in self.of.items()
            for one in found
            if one.grows
        ]
        return grown if self.held else [*grown, "the agent in the hold was lost"]


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Orchestrator]:
    """The server under watch."""
    os.environ["SOAK_TASKS"] = str(folder / "server.tasks")
    server = Counted(folder / "data", "--keep-logs", f"{KEPT_S}s", "--keep-samples", f"{KEPT_S}s")
    try:
        server.start()
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.stop()


@contextlib.contextmanager
def holding(folder: Path, server: Orchestrator, pace: float) -> Iterator[tuple[Agent, int]]:
    """A real agent whose load found a fault, and the number of its run."""
    intervals = {"heartbeat_s": 10 / pace, "sensor_s": 5 / pace, "log_s": 2 / pace}
    run = server.create_run(["Inventory", LOAD], parameters={LOAD: {"duration_s": 2}}, intervals=intervals)
    folder.mkdir()
    (folder / "broken").touch()
    environment = {BROKEN: str(folder / "broken"), "SOAK_TASKS": str(folder.parent / "agent.tasks")}
    agent = Agent(folder, server.url, server.fingerprint, run, environment=environment)
    agent.program = ("tests.soak.counted", "tests.crash.subject")
    agent.arguments = ["--state-dir", str(folder / "state")]
    try:
        agent.start()
        wait_for(lambda: server.run(run["run_id"])["state"] == "FailedHolding", "the hold", 120)
        wait_for(lambda: server.run(run["run_id"])["hold"], "the hold key", 120)
        yield agent, int(run["run_id"])
    finally:
        if agent.process is not None and agent.process.poll() is None:
            agent.process.terminate()
            agent.process.wait()


def soak(folder: Path, minutes: float, pace: float, agents: int, every_s: float = 1.0) -> Soaked:
    """Raises CallFailed when a simulated agent cannot claim."""
    with serving(folder) as server, holding(folder / "agent", server, pace) as (agent, run_id):
        made = [server.create_run(["Inventory"], host=f"simulated-{number}", intervals={}) for number in range(agents)]
        runs = [RunCreated(**one) for one in made]
        time.sleep(WARM_UP_S)
        assert server.process is not None
        assert agent.process is not None
        watches = {
            "server": Watch(server.process.pid, server.data, folder / "server.tasks", every_s),
            "agent in a hold": Watch(agent.process.pid, agent.folder, folder / "agent.tasks", every_s),
        }
        with contextlib.ExitStack() as stack:
            for watch in watches.values():
                stack.enter_context(watch)
            load, seconds = Load(pace=pace), minutes * 60
            plan = Plan(url=server.url, fingerprint=server.fingerprint, runs=runs, load=load, seconds=seconds)
            figures = asyncio.run(simulate(plan))
        view: dict[str, Any] = server.run(run_id)
        held = view["state"] == "FailedHolding" and not view["stalled"] and agent.process.poll() is None
    found = {who: trends(watch.samples) for who, watch in watches.items()}
    return Soaked(minutes, pace, agents, figures, found, held)


def page_of(soaked: Soaked) -> str:
    """Markdown."""
    calls = f"{soaked.figures.calls} calls of simulated agents ({soaked.share:.0%} of those asked for)"
    rows = ["| process | figure | mean | rise | allowed | |", "|---|---|---|---|---|---|"]
    for who, found in soaked.of.items():
        for one in found:
            word = "**grows**" if one.grows else "steady"
            texts = (one.limit.name, one.text(one.mean), one.text(one.rise), one.text(one.allowed), word)
            rows.append(f"| {who} | {' | '.join(texts)} |")
    some = next(iter(soaked.of.values()))
    reasons = [f"* {one.limit.name}: {one.text(one.limit.most)}: {one.limit.why}." for one in some]
    hours = soaked.minutes * soaked.pace / 60
    return f"""# Two hours in ten minutes

Written by `make soak`. A real `vetting-orchestrator serve` with {soaked.agents} simulated agents that call
{soaked.pace:g} times as often as real ones (heartbeats, samples, logs), and one real agent in a hold that does the
same: {hours:.1f} h in {soaked.minutes:g} min. {calls}, {soaked.figures.failures} failed;
{soaked.figures.log_lines} log lines. Logs and samples are kept for {KEPT_S} s.

**{"Nothing grows" if not soaked.complaints else "; ".join(soaked.complaints)}.** A straight line is fitted to the
second half, one sample a second; `rise` is how much it rises over that half.

{chr(10).join(rows)}

What is allowed, and why; a disk may also grow by 5 % of its mean:

{chr(10).join(reasons)}

`tests/soak/test_soak.py` shows that the same lines find a process that leaks memory, threads, descriptors or disk, and
leave one alone that does not.
"""


def main(argv: list[str] | None = None) -> int:
    """Exit 0 when nothing grows."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--pace", type=float, default=12.0, help="how many times as often agents call")
    parser.add_argument("--agents", type=int, default=4, help="simulated ones")
    parser.add_argument("--write", metavar="FILE", help="write the table of results")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        soaked = soak(Path(folder), arguments.minutes, arguments.pace, arguments.agents)
    page = page_of(soaked)
    print(page)
    if arguments.write:
        Path(arguments.write).write_text(page)
    return 1 if soaked.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
