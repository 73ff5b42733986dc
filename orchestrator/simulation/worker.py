"""One process of a simulation: python -m orchestrator.simulation.worker.

Standard input: a line with the Plan in JSON, and an empty one when all processes have claimed their runs. Standard
output: a line `ready` when this one has, and at the end a line with its Figures. Tokens are in no argument.
"""

from __future__ import annotations

import asyncio
import sys

import msgspec

from orchestrator.cli_text import complain, say
from orchestrator.event_loop import run_fast
from orchestrator.listeners import allow_many_files
from orchestrator.simulation.agents import Plan, simulate
from orchestrator.simulation.line import CallFailed


async def _together() -> None:
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)


def main() -> int:
    """Exit 0, or 1 with the reason on standard error."""
    allow_many_files()
    plan = msgspec.json.decode(sys.stdin.readline(), type=Plan)
    try:
        figures = run_fast(simulate(plan, _together))
    except (CallFailed, OSError) as problem:
        complain(str(problem))
        return 1
    say(msgspec.json.encode(figures).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
