"""`vetting-agent run`: from flags to an agent, and from its end to an exit code."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from probes.host import Host
from stages.stage import Stage
from vetting_agent import params
from vetting_agent.agent import Agent, Settings
from vetting_agent.client import Backoff
from vetting_agent.errors import EXIT_REFUSED, EXIT_USAGE, AlreadyRunning, BadBootParameter
from vetting_agent.hold import default_key_file
from vetting_agent.local import add_arguments as add_local_arguments
from vetting_agent.local import local_of
from vetting_agent.lock import default_state_dir, prepare_state_dir, run_lock
from vetting_agent.params import read_params
from vetting_agent.pinning import way_to

OOM_SCORE_ADJ = -900


Recollect = Callable[[Host], Awaitable[list[str]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `vetting-agent run`."""
    params.add_arguments(parser)
    add_local_arguments(parser)


async def components_of(host: Host) -> list[str]:
    """Every part of the machine that matters, as kind:serial, read now."""
    from probes import inventory

    return inventory.components(await inventory.collect(host))


def main(
    args: argparse.Namespace,
    stages: tuple[Stage[Any], ...] | None = None,
    backoff: Backoff | None = None,
    recollect: Recollect = components_of,
) -> int:
    """`vetting-agent run`; the exit code."""
    host = Host()
    try:
        boot = read_params(args, os.environ, host.proc("cmdline"))
        state_dir = prepare_state_dir(args.state_dir or default_state_dir(host))
    except BadBootParameter as problem:
        print(f"vetting-agent: {problem}", file=sys.stderr)  # noqa: T201 a command line speaks
        return EXIT_USAGE
    os.environ.pop("VETTING_TOKEN", None)
    local = local_of(args, state_dir)
    _protect(host)

    async def run() -> int:
        settings = Settings(
            params=boot,
            host=host,
            stages=stages,
            state_dir=state_dir,
            evidence=args.evidence or default_evidence(host, state_dir),
            authorized_keys=args.authorized_keys or default_key_file(),
            way=way_to(boot.orchestrator, boot.fingerprints),
            allow_destructive=args.allow_destructive,
            may_power_off=not args.no_power,
            may_hold=not args.no_hold,
            memory_fraction=args.memory_fraction,
            backoff=backoff or Backoff(),
            recollect=recollect,
            local=local,
        )
        return await Agent(settings).run()

    try:
        with run_lock(state_dir, boot):
            return asyncio.run(run())
    except AlreadyRunning as problem:
        print(f"vetting-agent: {problem}", file=sys.stderr)  # noqa: T201 a command line speaks
        return EXIT_REFUSED


def default_evidence(host: Host, state_dir: Path) -> Path:
    """Where evidence goes unless told otherwise."""
    if os.geteuid() == 0:
        return host.root / "var" / "lib" / "vetting-agent" / "evidence"
    return state_dir / "evidence"


def _protect(host: Host) -> None:
    """When memory runs out the kernel takes the load, which offers itself, and not the agent."""
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):
            host.proc("self", "oom_score_adj").write_text(str(OOM_SCORE_ADJ))
