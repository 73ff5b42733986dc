"""`vetting-agent run` as a process, with one stage replaced by a short one and with shorter pauses between attempts.

Inventory and PSU are the product's. The load in the place of CPUStress takes a tenth of the time that it is asked for:
a process that burns, and one that has left its session and is the hardest to find again.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from stages.cpu_stress_plan import Options
from stages.inventory import STAGE as INVENTORY
from stages.outcome import Outcome, ReasonCode, error
from stages.psu import STAGE as PSU
from stages.stage import Stage, StageContext
from vetting_agent import run
from vetting_agent.client import Backoff

LOAD = "CPUStress"
BROKEN = "CRASH_BROKEN"
"""Names the file in the agent's environment for as long as which the load finds a fault."""
LINES = 40
SCRIPT = "setsid sh -c 'exec sleep 4711' & while :; do :; done"


async def _run(context: StageContext, options: Options) -> Outcome:
    seconds = options.duration_s / 10
    for number in range(LINES):
        context.info(f"line {number} of {LINES} before the load")
    load = f"timeout {seconds} sh -c '{SCRIPT.replace(chr(39), chr(34))}'"
    await context.host.tools.run("sh", "-c", load, timeout_s=seconds + 60, load=True, accept=None)
    (context.evidence / "load.txt").write_text(f"{seconds} s\n")
    if Path(os.environ[BROKEN]).exists():
        text = "the file that breaks this machine is there"
        return Outcome(text, (error(ReasonCode.CPU_MISCOMPUTE, "cpu:0", text),))
    return Outcome("the load ran to its end")


def _as_said(readings: Outcome, _options: Options) -> Outcome:
    return readings


STAND_IN = Stage(
    name=LOAD,
    state=LOAD,
    title="A short load",
    options=Options,
    planned_s=lambda options: options.duration_s / 10,
    run=_run,
    readings=Outcome,
    judge=_as_said,
)


def main() -> int:
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    return run.main(parser.parse_args(), stages=(INVENTORY, STAND_IN, PSU), backoff=Backoff(0.2, 1.0))


if __name__ == "__main__":
    sys.exit(main())
