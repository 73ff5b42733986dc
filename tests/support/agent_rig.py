"""Agents for tests: in this process or as processes of their own, over the fake orchestrator, with stages for tests.

The stages are small but real: they run real processes through the one door, as the product's do.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from probes.host import REAL_ROOT, Host
from probes.tools import Isolation
from stages.outcome import Outcome, ReasonCode, error
from stages.stage import Stage, StageContext
from tests.support.fake_orchestrator import FakeOrchestrator
from tests.support.stage_context import as_said
from tests.support.stand_ins import StandIns
from vetting_agent import run
from vetting_agent.agent import Agent, Settings
from vetting_agent.client import Backoff
from vetting_agent.local import Local
from vetting_agent.lock import prepare_state_dir
from vetting_agent.params import BootParams, Token
from vetting_agent.pinning import way_to
from vetting_agent.wire import LogLine

TOKEN = "t0ken-of-the-run"
SHORT = Backoff(0.05, 0.2)
NO_PREFLIGHT = Local(preflight_after_s=0)
"""On a busy machine one would come between the calls that a test counts; test_self_preflight.py is about it."""
ISOLATION = Isolation.best(os.environ["PATH"])


@dataclass(frozen=True, slots=True)
class Options:
    fail: bool = False
    unknown: bool = False
    crash: bool = False
    seconds: float = 0.0
    spin: bool = False
    say: str = ""


async def _run(context: StageContext, options: Options) -> Outcome:
    context.info("at work")
    context.progress(0.5, 60.0)
    context.sample("throughput", "disk:S", 1.0, "MB/s")
    (context.evidence / "facts.txt").write_text(
        f"override={context.facts.override!r} refused={context.facts.refused_serials!r} "
        f"earlier={sorted(context.facts.earlier_evidence)} boot_mac={context.facts.boot_mac} said={options.say}\n"
    )
    if options.crash:
        raise RuntimeError("a fault of the stage")
    if options.seconds:
        # A grandchild that leaves the session: what is hardest to kill.
        burn = "while :; do :; done" if options.spin else "exec sleep 3217"
        script = f"setsid sh -c 'exec sleep 3217' & setsid sh -c '{burn}' & {burn}"
        await context.host.tools.run("sh", "-c", script, timeout_s=options.seconds, load=True, accept=None)
    if options.fail:
        text = f"disk S is broken {options.say}"
        return Outcome(text, (error(ReasonCode.WIPE_REFUSED_DATA_PRESENT, "disk:S", text),))
    if options.unknown:
        return Outcome("?", (error(ReasonCode.TOOL_MISSING, "x", "x is missing"),))
    return Outcome("all is well")


async def _inventory(context: StageContext, options: Options) -> Outcome:
    (context.evidence / "components.json").write_text('["disk:S", "nic:M"]')
    return await _run(context, options)


def _artifact(_: Path) -> Mapping[str, Any]:
    return {"system": {"vendor": "test"}}


def _stage(name: str, **more: Any) -> Stage[Options]:
    fields = {"state": name, "run": _run, "readings": Outcome, "judge": as_said, **more}
    return Stage(name=name, title=name, options=Options, planned_s=lambda one: one.seconds, **fields)


STAGES: tuple[Stage[Any], ...] = (
    _stage("Inventory", state="InventoryCheck", run=_inventory, artifact=_artifact),
    _stage("SMART"),
    _stage("CPUStress"),
    _stage("Storage"),
)


class AgentPlace:
    """Where an agent's things are."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.stand_ins = StandIns(folder / "bin")
        for name in ("systemctl", "shutdown"):
            if not (self.stand_ins.folder / name).exists():
                self.stand_ins.says(name)

    @property
    def keys(self) -> Path:
        return self.folder / "ssh" / "authorized_keys"

    @property
    def evidence(self) -> Path:
        return self.folder / "evidence"

    @property
    def power_calls(self) -> list[list[str]]:
        return [call for call in self.stand_ins.calls() if call[0] in {"systemctl", "shutdown"}]


class AgentTask(AgentPlace):
    """An agent in this process: quick to start."""

    def __init__(self, folder: Path, server_url: str, host: Host | None = None, **settings: Any) -> None:
        super().__init__(folder)
        tools = self.stand_ins.tools(ISOLATION)
        self.pid = os.getpid()
        self.lines: list[LogLine] = []
        params = BootParams(server_url, 7, Token(TOKEN))
        state = prepare_state_dir(folder / "state")
        settings.setdefault("local", NO_PREFLIGHT)
        self.agent = Agent(
            Settings(
                params=params,
                host=replace(host or Host(root=REAL_ROOT), tools=tools),
                stages=STAGES,
                state_dir=state,
                evidence=self.evidence,
                authorized_keys=self.keys,
                way=way_to(server_url, ()),
                backoff=SHORT,
                recollect=_components,
                echo=self.lines.append,
                **settings,
            )
        )
        self._task = asyncio.create_task(self.agent.run())

    @property
    def errors(self) -> str:
        return "\n".join(line.text for line in self.lines)

    @property
    def running(self) -> bool:
        return not self._task.done()

    async def ended(self, limit_s: float = 20.0) -> int:
        done, _ = await asyncio.wait({self._task}, timeout=limit_s)
        assert done, f"the agent did not end:\n{self.errors[-3000:]}"
        return self._task.result()


@contextlib.asynccontextmanager
async def agent_task(folder: Path, server: FakeOrchestrator, **settings: Any) -> AsyncIterator[AgentTask]:
    """An agent on the fake orchestrator; ended, as by a signal, when the block is left."""
    agent = AgentTask(folder, server.url, **settings)
    await asyncio.sleep(0)
    try:
        yield agent
    finally:
        if agent.running:
            agent.agent.stop("the test is over")
        await agent.ended()


class AgentProcess(AgentPlace):
    """An agent process."""

    def __init__(self, folder: Path, process: asyncio.subprocess.Process) -> None:
        super().__init__(folder)
        self.process = process
        self.pid = process.pid

    @property
    def errors(self) -> str:
        return (self.folder / "stderr").read_text()

    async def ended(self, limit_s: float = 20.0) -> int:
        try:
            async with asyncio.timeout(limit_s):
                return await self.process.wait()
        except TimeoutError:
            raise AssertionError(f"the agent did not end:\n{self.errors[-3000:]}") from None

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


@contextlib.asynccontextmanager
async def agent_process(
    folder: Path, server: FakeOrchestrator, *arguments: str, pin: str | None = None, module: str | None = None
) -> AsyncIterator[AgentProcess]:
    """A real agent process on the fake orchestrator, with the stages of this file (or the product's, by `module`)."""
    place = AgentPlace(folder)
    (folder / "token").write_text(TOKEN + "\n")
    argv = [sys.executable, "-m", module or "tests.support.agent_rig", "run", "--orchestrator", server.url]
    argv += ["--run-id", "7", "--token-file", str(folder / "token"), "--state-dir", str(folder / "state")]
    argv += ["--authorized-keys", str(place.keys), "--evidence", str(place.evidence)]
    argv += ["--tls-fpr", pin] if pin else []
    argv += ["--preflight-after", "0"]
    with (folder / "stderr").open("ab") as stderr:
        process = await asyncio.create_subprocess_exec(
            *argv, *arguments, stderr=stderr, env={**os.environ, "PATH": place.stand_ins.path}
        )
    try:
        yield AgentProcess(folder, process)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _components(_: Host) -> list[str]:
    return ["disk:S", "nic:NEW"]


def main() -> int:
    """As `vetting-agent run`, with these stages and short waits."""
    parser = argparse.ArgumentParser()
    parser.add_argument("command")
    run.add_arguments(parser)
    return run.main(parser.parse_args(), STAGES, SHORT, _components)


if __name__ == "__main__":
    sys.exit(main())
