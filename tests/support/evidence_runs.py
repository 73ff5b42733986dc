"""Evidence as a real run leaves it: stages run by the real runner over recorded machines."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from probes.host import Host
from stages import inventory, smart
from stages.outcome import Outcome
from stages.runner import StageRun
from stages.stage import Stage, StageContext
from tests.support.replay import recorded_host
from tests.support.smartctl_player import Player, played
from tests.support.stage_context import stage_context
from tests.support.stand_ins import StandIns

NO_TEST = {"self_test": "none"}


def inventory_in(folder: Path, parameters: dict[str, Any] | None = None) -> Outcome:
    """The Inventory stage of a sound recorded server."""
    context, _ = stage_context(folder, recorded_host("dell-xeon"))
    return asyncio.run(_run(inventory.STAGE, parameters or {}, context))


def smart_in(folder: Path, scratch: Path, *cases: str) -> Outcome:
    """The SMART stage, without self-tests, over disks that play recordings."""
    stand_ins = StandIns(scratch / "stand-ins")
    player = Player(stand_ins)
    names = [(f"/dev/sd{letter}", "scsi") for letter in "abcdefgh"[: len(cases)]]
    player.scanned(*names)
    for (device, kind), case in zip(names, cases, strict=True):
        player.device(f"{kind} {device}", read=[played(case)])
    (scratch / "host" / "sys" / "block").mkdir(parents=True)
    context, _ = stage_context(folder, Host(root=scratch / "host", tools=stand_ins.tools()))
    return asyncio.run(_run(smart.STAGE, NO_TEST, context))


async def _run(stage: Stage[Any], parameters: dict[str, Any], context: StageContext) -> Outcome:
    context.evidence.mkdir(parents=True, exist_ok=True)
    return await StageRun(stage, parameters, context).run()
