"""The hops into a held host: its SSH port, and whether it takes the hold key, tried for real with `ssh`."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.clock import now_text
from orchestrator.run_record import Run
from orchestrator.store import Store
from probes.host import REAL_PROC
from probes.tools import ToolError, Tools
from vetting_agent.preflight_report import HOP_LIMIT_S, WARNING, Check, Failed, Seen, none_here
from vetting_agent.signals import Hop, Signal

SSH_PORT = 22
BANNER = b"SSH-"
NO_CONNECTION = 255
"""ssh's exit code for trouble of its own; every other one is that of the command over there."""
OPTIONS = (
    "BatchMode=yes",
    "IdentitiesOnly=yes",
    "PreferredAuthentications=publickey",
    "StrictHostKeyChecking=no",
    "UserKnownHostsFile=/dev/null",
    "GlobalKnownHostsFile=/dev/null",
    "ControlPath=none",
    "LogLevel=ERROR",
)
"""Host keys are fresh at each boot: there is none to know. Nothing is said over the connection."""


@dataclass(frozen=True, slots=True)
class HoldHops:
    """`run`: the run as it stands now."""

    store: Store
    run: Callable[[], Run]
    hop_s: float = HOP_LIMIT_S

    def checks(self) -> list[Check]:
        """In the order of the walk."""
        return [
            Check(Hop.HOLD_PORT, self.port, Signal.SSH_FAILED),
            Check(Hop.HOLD_KEY, self.key, Signal.HOLD_KEY_REJECTED, 3),
        ]

    async def port(self) -> Seen:
        run = self.run()
        if not run.is_holding or run.powered_off:
            return none_here(f"the run is {run.state}: nobody is let in")
        if run.hold_ip is None:
            raise Failed(Signal.HOLD_NOT_OPEN, "the host has not asked for the hold key")
        banner = await _banner_of(run.hold_ip, self.hop_s)
        if not banner.startswith(BANNER):
            text = f"{run.hold_ip} port {SSH_PORT} says {banner[:40]!r}, which is no SSH"
            raise Failed(Signal.SSH_FAILED, text)
        return Seen(f"{run.hold_ip} port {SSH_PORT}: {banner.decode('ascii', 'replace').strip()}")

    async def key(self) -> Seen:
        run = self.run()
        key = await self.store.hold_key(run.run_id)
        if not run.is_holding or run.powered_off or run.hold_ip is None or key is None:
            return none_here("there is no hold key")
        tools = Tools.of_environment(REAL_PROC)
        if tools.find("ssh") is None:
            return none_here("this server has no ssh to try it with")
        if key.expires_at <= now_text():
            raise Failed(Signal.HOLD_KEY_REJECTED, f"it has expired at {key.expires_at}")
        with tempfile.TemporaryDirectory(prefix="vetting-preflight-") as folder:
            file = Path(folder) / "key"
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
                handle.write(key.private_key)
            options = [word for option in (*OPTIONS, f"ConnectTimeout={self.hop_s:.0f}") for word in ("-o", option)]
            argv = ["ssh", "-F", "none", *options, "-i", str(file), "-l", "root", "--", run.hold_ip, "true"]
            try:
                result = await tools.run(*argv, timeout_s=3 * self.hop_s, accept=None)
            except ToolError as problem:
                return Seen(f"it could not be tried: {problem}", WARNING)
        if result.exit_code == NO_CONNECTION:
            raise Failed(Signal.HOLD_KEY_REJECTED, f"root@{run.hold_ip}: {result.last_words()}")
        return Seen(f"root@{run.hold_ip} lets it in; valid until {key.expires_at}")


async def _banner_of(address: str, limit_s: float) -> bytes:
    """The first line of what answers at the SSH port. Raises Failed."""
    try:
        async with asyncio.timeout(limit_s):
            reader, writer = await asyncio.open_connection(address, SSH_PORT)
            try:
                return await reader.read(256)
            finally:
                writer.transport.abort()
    except TimeoutError:
        raise Failed(Signal.SSH_FAILED, f"{address} port {SSH_PORT}: no answer within {limit_s:g} s") from None
    except OSError as problem:
        words = os.strerror(problem.errno) if problem.errno and problem.errno > 0 else str(problem)
        raise Failed(Signal.SSH_FAILED, f"{address} port {SSH_PORT}: {words}") from None
