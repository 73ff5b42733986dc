"""One run on this machine: an orchestrator and an agent as two processes, watched over the operator's socket.

Both are started through the door to processes, so that they, and all that they start, are gone when the block is
left, and also when this process is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from probes.tools import Process, Tools, signal_name
from vetting_agent.operator_client import CreatedRun, Listening, NewRun, OperatorClient, OperatorError, operator_client
from vetting_agent.report import now
from vetting_agent.run_view import LogView, RunView, SampleView
from vetting_agent.vet_table import Watching
from vetting_agent.wire import COMPLETED, FAILED_HOLDING

START_LIMIT_S = 30.0
POLL_S = 1.0
SILENCE_LIMIT_S = 30.0
AGENT_GRACE_S = 8.0
LAST_LINES = 8
INTERVALS = {"heartbeat_s": 1.0, "sensor_s": 2.0, "log_s": 1.0}
LONG_INTERVALS = {"heartbeat_s": 5.0, "sensor_s": 10.0, "log_s": 2.0}
ENDED_STATES = frozenset({COMPLETED, FAILED_HOLDING, "Cancelled", "Aborted", "Released"})


class Trouble(Exception):
    """The run cannot go on. `str()` says which of the two processes ended or failed, with its last words."""


@dataclass(frozen=True, slots=True)
class VetPlan:
    """What the command line asked for. `folder` is this run's own report folder, which exists."""

    host: str
    profile: str
    stages: tuple[str, ...] | None
    parameters: dict[str, dict[str, Any]]
    folder: Path
    memory_fraction: float = 0.5

    @property
    def evidence(self) -> Path:
        return self.folder / "evidence"


@dataclass(slots=True)
class Seen:
    """What was seen of the run so far; what the report is built from, however the run ends."""

    started_at: str = field(default_factory=now)
    run: RunView | None = None
    samples: list[SampleView] = field(default_factory=list)
    logs: list[LogView] = field(default_factory=list)
    last_sample: int = 0


@dataclass(slots=True)
class Child:
    """One of the two processes. Its output goes to a file, and its last lines are kept."""

    name: str
    process: Process
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_LINES))

    async def last_words(self) -> str:
        """How it ended and what it said last."""
        ended = await self.process.wait()
        how = f"exit code {ended.exit_code}" if ended.signal is None else f"killed by {signal_name(ended.signal)}"
        said = "; ".join(self.tail)
        return f"the {self.name} ended unexpectedly ({how})" + (f"; its last lines: {said}" if said else "")


@contextlib.asynccontextmanager
async def child(tools: Tools, name: str, folder: Path, *argv: str) -> AsyncIterator[Child]:
    """Start `python -m ARGV` and keep what it says in FOLDER/NAME.log."""
    # -P: a folder of the user's that happens to be called like a package of ours must not be run as root.
    async with tools.start(sys.executable, "-P", "-m", *argv) as process:
        made = Child(name, process)
        with (folder / f"{name}.log").open("a", encoding="utf-8") as file:
            reader = asyncio.create_task(_keep(process.stderr, made, file.write))
            try:
                yield made
            finally:
                await process.stop(AGENT_GRACE_S)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader, 2.0)


async def _keep(stream: asyncio.StreamReader, made: Child, write: Callable[[str], object]) -> None:
    with contextlib.suppress(ValueError):  # a line over the reader's limit: the rest is not worth a crash
        async for raw in stream:
            line = raw.decode(errors="replace").rstrip("\r\n")
            made.tail.append(line[:300])
            write(line + "\n")


@contextlib.asynccontextmanager
async def orchestrator(tools: Tools, plan: VetPlan, data: Path) -> AsyncIterator[tuple[Child, Listening]]:
    """An orchestrator on loopback with a throw-away database. Raises Trouble."""
    argv = ("orchestrator", "serve", "--data", str(data), "--listen", "127.0.0.1:0", "--console", "off", "--json")
    async with child(tools, "orchestrator", plan.folder, *argv) as made:
        listening = await _listening(made)
        drain = asyncio.create_task(_discard(made.process.stdout))
        try:
            yield made, listening
        finally:
            drain.cancel()
            await asyncio.gather(drain, return_exceptions=True)


async def _listening(made: Child) -> Listening:
    try:
        line = await asyncio.wait_for(made.process.stdout.readline(), START_LIMIT_S)
    except TimeoutError:
        raise Trouble(f"the orchestrator did not begin to listen within {START_LIMIT_S:.0f} s") from None
    try:
        return msgspec.json.decode(line, type=Listening)
    except msgspec.MsgspecError:
        if line:
            raise Trouble(f"the orchestrator's first line is not understood: {line[:200]!r}") from None
        raise Trouble(await made.last_words()) from None


@contextlib.asynccontextmanager
async def agent(tools: Tools, plan: VetPlan, argv: tuple[str, ...]) -> AsyncIterator[Child]:
    """The agent, as it would run in the live image."""
    async with child(tools, "agent", plan.folder, *argv) as made:
        drain = asyncio.create_task(_discard(made.process.stdout))
        try:
            yield made
        finally:
            drain.cancel()
            await asyncio.gather(drain, return_exceptions=True)


async def _discard(stream: asyncio.StreamReader) -> None:
    while await stream.read(65536):
        pass


def agent_argv(plan: VetPlan, listening: Listening, run: CreatedRun, scratch: Path) -> tuple[str, ...]:
    """The agent's command line. It cannot power off, hold, or see this machine's own boot parameters and keys."""
    token_file, empty = scratch / "token", scratch / "empty"
    handle = os.open(token_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(run.token + "\n")
    empty.touch(mode=0o600)
    return (
        *("vetting_agent", "run", "--orchestrator", listening.url, "--run-id", str(run.run_id)),
        *("--token-file", str(token_file), "--tls-fpr", listening.fingerprint, "--cmdline", str(empty)),
        *("--no-power", "--no-hold", "--authorized-keys", str(scratch / "authorized_keys")),
        *("--memory-fraction", f"{plan.memory_fraction:g}", "--evidence", str(plan.evidence)),
        *("--state-dir", str(scratch / "state")),
    )


def new_run(plan: VetPlan) -> NewRun:
    """The run that is asked for: non-destructive, and a failed stage does not end the walk."""
    return NewRun(
        host=plan.host,
        profile=plan.profile,
        stages=None if plan.stages is None else list(plan.stages),
        parameters=plan.parameters,
        on_failure="continue",
        intervals=LONG_INTERVALS if plan.profile == "burnin" else INTERVALS,
    )


async def walk(plan: VetPlan, tools: Tools, scratch: Path, watching: Watching, seen: Seen) -> None:
    """Run to the end, filling `seen`. Raises Trouble. A cancel stops both processes before it is let through."""
    async with (
        orchestrator(tools, plan, scratch / "data") as (server, listening),
        operator_client(Path(listening.operator_socket)) as client,
    ):
        try:
            created = await client.create_run(new_run(plan))
        except OperatorError as problem:
            raise Trouble(f"the run could not be made: {problem}") from problem
        try:
            async with agent(tools, plan, agent_argv(plan, listening, created, scratch)) as made:
                await _watch(client, created.run_id, (server, made), watching, seen)
        finally:
            # The agent has ended by now and has flushed its log: what it said last is worth having.
            with contextlib.suppress(OperatorError):
                await _gather(client, created.run_id, seen)
                await client.release(created.run_id)


async def _watch(
    client: OperatorClient, run_id: int, children: tuple[Child, Child], watching: Watching, seen: Seen
) -> None:
    answered = time.monotonic()
    while True:
        try:
            seen.run = await client.run(run_id)
            await _gather(client, run_id, seen)
            answered = time.monotonic()
        except OperatorError as problem:
            if time.monotonic() - answered > SILENCE_LIMIT_S:
                raise Trouble(str(problem)) from problem
        if seen.run is not None:
            watching.show(seen.run, now())
            if seen.run.state in ENDED_STATES:
                return
            if seen.run.agent.activity == "parked":
                raise Trouble(f"the agent cannot go on: {seen.run.last_log.text if seen.run.last_log else 'parked'}")
        for made in children:
            if not made.process.running:
                raise Trouble(await made.last_words())
        await asyncio.sleep(POLL_S)


async def _gather(client: OperatorClient, run_id: int, seen: Seen) -> None:
    """Fetch the log lines and samples that are new."""
    while lines := await client.logs(run_id, seen.logs[-1].id if seen.logs else 0):
        seen.logs += lines
    while (page := await client.samples(run_id, seen.last_sample)).samples:
        seen.samples += page.samples
        if page.last is None or page.last <= seen.last_sample:
            return
        seen.last_sample = page.last
