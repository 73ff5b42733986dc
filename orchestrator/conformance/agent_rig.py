"""Where an agent under test plays a scene: its process, the scripted orchestrator, and what was seen of both.

The command runs in a shell that outlives it, so that what it leaves behind can be seen; all of it is killed at the
end of the scene. Stand-ins for every program that could switch this machine off are first on its PATH.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from orchestrator.conformance.clause import NotTested
from orchestrator.conformance.scripted import ScriptedOrchestrator, WaitedInVain
from orchestrator.tls import certificate_in
from probes.host import Host
from probes.tools import Tools

POWER_COMMANDS = ("systemctl", "shutdown", "poweroff", "halt", "reboot", "telinit", "init")
STAND_IN = """#!/bin/sh
echo "$(date +%s.%N) {name} $*" >> {log}
exit {code}
"""
TOKEN = "conformance-Token_of-the.run-7f3a"
BETTER_TOKEN = "the-Better_token.of-the-claim"
"""What the claim gives in its place, in some scenes."""
INTERVAL_S = 0.3
KILL_S = 2.0
"""From an order, or the agent's end, to the last of its processes gone."""
UNKNOWN_STAGE = "Conformance"
"""A stage that no agent knows: its result comes at once."""
OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO2G2GIVc3cTnb15UVxp16m8HfRwzvQbiiS5oK4djj0X somebody"
HOLD_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl run"


@dataclass(frozen=True, slots=True)
class Subject:
    """The agent under test: its command, the stage of it that takes long, and how patient to be with it."""

    command: str
    long_stage: str = "CPUStress"
    long_parameters: dict[str, Any] = field(default_factory=lambda: {"duration_s": 600})
    patience_s: float = 30.0
    slack_s: float = 1.0

    @property
    def may_hold(self) -> bool:
        return "{authorized_keys}" in self.command


@dataclass
class Start:
    """One start of the agent's process."""

    folder: Path
    pid: int = 0
    shell: psutil.Process | None = None
    ended_at: float = 0.0

    @property
    def stderr(self) -> str:
        path = self.folder / "stderr"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def exit_code(self) -> int | None:
        """None while it runs; 128 and more for a signal."""
        with contextlib.suppress(OSError, ValueError):
            return int((self.folder / "exit").read_text())
        return None


@dataclass
class Rig:
    """One scene. Afterwards it is the trace of it, which the clauses judge."""

    subject: Subject
    folder: Path
    host: Host
    server: ScriptedOrchestrator = field(default_factory=ScriptedOrchestrator)
    run_id: int = 7
    fingerprint: str = ""
    starts: list[Start] = field(default_factory=list)
    marks: dict[str, Any] = field(default_factory=dict)
    failing: str = ""
    """The stand-in that ends with 1."""
    vain: str = ""
    """What the scene waited for in vain, and so ended early."""

    # --- for clauses --------------------------------------------------------------------------------------------------

    def reached(self, mark: str) -> Any:
        """What the scene noted. Raises NotTested when it did not get there."""
        if mark not in self.marks:
            raise NotTested(f"the scene did not get to `{mark}`: {self.vain}")
        return self.marks[mark]

    @property
    def exit_code(self) -> int | None:
        return self.starts[-1].exit_code if self.starts else None

    @property
    def stderr(self) -> str:
        return "".join(one.stderr for one in self.starts)

    @property
    def power_calls(self) -> list[tuple[float, list[str]]]:
        """(time of day, argv) of every call of a stand-in."""
        log = self.folder / "power.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [(float(words[0]), words[1:]) for words in (line.split() for line in lines)]

    @property
    def power_offs(self) -> list[list[str]]:
        return [argv for _, argv in self.power_calls if argv[:2] == ["systemctl", "poweroff"] or argv[0] != "systemctl"]

    @property
    def keys(self) -> Path:
        return self.folder / "ssh" / "authorized_keys"

    # --- for scenes ---------------------------------------------------------------------------------------------------

    def script(self, *states: str, parameters: dict[str, Any] | None = None, **claim: Any) -> None:
        """The run walks these states; `claim` goes into the claim's answer."""
        own = {"heartbeat_interval_s": INTERVAL_S, "sensor_interval_s": INTERVAL_S, "log_interval_s": INTERVAL_S}
        stages = ["Inventory", UNKNOWN_STAGE, self.subject.long_stage]
        self.server.states = list(states)
        self.server.state = states[0] if states else ""
        self.server.stages = stages
        self.server.follow = {UNKNOWN_STAGE: "Completed"}
        self.server.hold_key = {"authorized_key": HOLD_KEY}
        self.server.claim_extra = own | {"parameters": parameters or {}, "features": []} | claim

    def script_long(self) -> None:
        """The run stands at the stage that takes long."""
        self.script(self.subject.long_stage, parameters={self.subject.long_stage: self.subject.long_parameters})

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """The scripted orchestrator listens, with a certificate made for this scene."""
        context, self.fingerprint = certificate_of(self.folder / "tls")
        async with self.server.serve(context):
            yield

    @contextlib.asynccontextmanager
    async def agent(self, **placeholders: str) -> AsyncIterator[Start]:
        """The agent runs while the block lasts; what is left of it at the end is killed."""
        start = Start(self.folder / f"start-{len(self.starts) + 1}")
        start.folder.mkdir(parents=True)
        self.starts.append(start)
        script = f": {shlex.quote(str(start.folder))}; (exec {self._command(placeholders)}) </dev/null >out 2>stderr; "
        script += "echo $? >exit.new; mv exit.new exit; exec sleep 86400"
        tools = self.host.tools
        assert isinstance(tools, Tools)
        async with tools.start("sh", "-c", script, environment=self._environment(), folder=start.folder):
            await self.until(lambda: self._find(start), "the agent's process", every_s=0.05)
            yield start

    def _command(self, given: dict[str, str]) -> str:
        token_file = self.folder / "token"
        token_file.write_text(TOKEN + "\n")
        token_file.chmod(0o600)
        values = {
            "url": self.server.url,
            "run_id": str(self.run_id),
            "token_file": str(token_file),
            "fpr": self.fingerprint,
            "evidence": str(self.folder / "evidence"),
            "state": str(self.folder / "state"),
            "authorized_keys": str(self.keys),
        } | given
        command = self.subject.command
        for name, value in values.items():
            command = command.replace("{" + name + "}", shlex.quote(value))
        return command

    def _environment(self) -> dict[str, str]:
        bin_folder = self.folder / "bin"
        bin_folder.mkdir(exist_ok=True)
        for name in POWER_COMMANDS:
            program = bin_folder / name
            program.write_text(
                STAND_IN.format(name=name, log=self.folder / "power.log", code=int(name == self.failing))
            )
            program.chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("VETTING_")}
        return kept | {"PATH": f"{bin_folder}:{os.environ.get('PATH', os.defpath)}"}

    def _find(self, start: Start) -> bool:
        """Whether the agent's process was found, or has ended already."""
        for one in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                argv = one.cmdline()
                if (
                    len(argv) > 2
                    and Path(argv[0]).name == "sh"
                    and argv[2].startswith(f": {shlex.quote(str(start.folder))};")
                ):
                    inner = [child for child in one.children() if child.cmdline()[:1] != argv[:1]]
                    start.shell = one
                    start.pid = inner[0].pid if inner else 0
        return start.pid > 0 or start.exit_code is not None

    def below(self) -> list[psutil.Process]:
        """What the agent has started and is still alive, orphans included."""
        start = self.starts[-1]
        if start.shell is None:
            return []
        with contextlib.suppress(psutil.Error):
            init = start.shell.parent()
            found = init.children(recursive=True) if init else []
            return [one for one in found if one.pid not in {start.shell.pid, start.pid} and is_alive(one)]
        return []

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.starts[-1].pid, number)

    async def until(self, holds: Callable[[], Any], what: str, *, limit_s: float = 0.0, every_s: float = 0.1) -> Any:
        """Wait for it. Raises WaitedInVain."""
        return await self.server.until(holds, what, limit_s or self.subject.patience_s, every_s)

    async def activity(self, name: str) -> None:
        """Wait for a heartbeat that tells of it, and note it by its name."""
        heard = len(self.server.calls)

        def told() -> bool:
            beats = [call for call in self.server.calls[heard:] if call.verb == "heartbeat"]
            return any(call.body.get("activity") == name for call in beats)

        await self.until(told, f"a heartbeat with the activity {name}")
        self.marks[name] = time.monotonic()

    async def beats(self, count: int) -> None:
        """Wait for so many further heartbeats."""
        wanted = len(self.server.of("heartbeat")) + count
        await self.until(lambda: len(self.server.of("heartbeat")) >= wanted, f"{count} further heartbeats")

    async def loaded(self) -> None:
        """Wait until the long stage runs and has processes of its own; those are noted as `load`."""
        await self.activity("running")
        seen: list[psutil.Process] = []

        def lasting() -> list[psutil.Process]:
            """Those that were there at the last look: no passing helper of the agent's."""
            nonlocal seen
            before, seen = seen, self.below()
            return [one for one in seen if one in before]

        self.marks["load"] = []
        with contextlib.suppress(WaitedInVain):
            self.marks["load"] = await self.until(lasting, "the long stage's processes")

    async def unloaded(self, since: float) -> None:
        """Note as `unloaded_s` how long after `since` the last process of the load was gone, if that was soon."""
        load, limit_s = self.marks["load"], 2.0 * KILL_S + self.subject.slack_s
        with contextlib.suppress(WaitedInVain):
            await self.until(lambda: not any(map(is_alive, load)), "", limit_s=limit_s, every_s=0.02)
            self.marks["unloaded_s"] = time.monotonic() - since

    async def ended(self) -> None:
        """Wait for the agent's end, and a moment for what it left."""
        await self.until(lambda: self.starts[-1].exit_code is not None, "the agent's end", every_s=0.05)
        self.starts[-1].ended_at = time.monotonic()
        self.marks["ended"] = self.starts[-1].ended_at
        with contextlib.suppress(WaitedInVain):
            await self.until(lambda: not self.below(), "", limit_s=KILL_S + self.subject.slack_s, every_s=0.05)
        self.marks["left"] = [" ".join(one.cmdline())[:80] for one in self.below() if is_alive(one)]

    async def order(self, cmd: str, cmd_id: str, how: str = "done", **more: Any) -> None:
        """Give an order and wait for its acknowledgement, which is noted by the cmd_id."""
        self.server.direct(cmd, cmd_id, **more)
        await self.acked(cmd_id, how)

    async def acked(self, cmd_id: str, how: str) -> None:
        await self.until(lambda: (cmd_id, how) in self.server.acks, f"{cmd_id} to be acknowledged as {how}")
        self.marks[cmd_id] = time.monotonic()


def is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def certificate_of(folder: Path) -> tuple[ssl.SSLContext, str]:
    """A server's TLS context with a new self-signed certificate, and its fingerprint."""
    folder.mkdir(parents=True)
    made = certificate_in(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    return context, made.fingerprint


def long_stage_of(text: str) -> tuple[str, dict[str, Any]]:
    """The value of --long-stage. Raises ValueError."""
    name, equals, parameters = text.partition("=")
    value = json.loads(parameters) if equals else {}
    if not name or not isinstance(value, dict):
        raise ValueError(f"--long-stage takes NAME={{JSON object}}, not {text!r}")
    return name, value


async def play(scene: Callable[[Rig], Any], rig: Rig) -> Rig:
    """The rig after the scene; what it waited for in vain is noted."""
    rig.folder.mkdir(parents=True)
    try:
        await scene(rig)
    except WaitedInVain as problem:
        rig.vain = str(problem)
    await asyncio.sleep(0)
    return rig
