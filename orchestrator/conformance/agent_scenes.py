"""The scenes that an agent under test plays: what the scripted orchestrator says, and when. They judge nothing."""

from __future__ import annotations

import signal
import time
from collections.abc import Awaitable, Callable

from orchestrator.conformance.agent_rig import BETTER_TOKEN, UNKNOWN_STAGE, Rig
from orchestrator.conformance.scripted import (
    Fault,
    refusal,
    status,
)

Scene = Callable[[Rig], Awaitable[None]]
SHUTDOWN, ABORT, CANCEL, RETRY = "shutdown", "abort", "cancel_stage", "retry_stage"


async def walk(rig: Rig) -> None:
    """Inventory, a stage that nobody knows, and the end of the run, with fields that nobody knows in every answer."""
    rig.script("InventoryCheck", UNKNOWN_STAGE, token=BETTER_TOKEN, features=["evidence"])
    rig.server.strange = {"zz_unknown": {"deep": [None, 1]}}
    rig.server.follow = {"Inventory": UNKNOWN_STAGE, UNKNOWN_STAGE: "Completed"}
    async with rig.serving(), rig.agent():
        await rig.until(lambda: len(rig.server.results) >= 2, "the results of two stages", limit_s=120)
        rig.marks["results"] = list(rig.server.results)
        await rig.activity("completed")
        await rig.beats(3)
        rig.server.direct(ABORT, "end")
        await rig.ended()


async def completed(rig: Rig) -> None:
    """A run that is complete: an order that makes no sense, then shutdown."""
    rig.script("Completed")
    async with rig.serving(), rig.agent():
        await rig.activity("completed")
        await rig.order(RETRY, "late-retry", "refused", stage=UNKNOWN_STAGE)
        await rig.order(CANCEL, "late-cancel", "refused")
        rig.server.always["log"] = Fault(act=True, delay_s=0.4)
        rig.server.direct(SHUTDOWN, "end")
        await rig.ended()


async def no_state(rig: Rig) -> None:
    """A claim whose state is empty."""
    rig.script("")
    async with rig.serving(), rig.agent():
        await rig.activity("completed")
        rig.server.direct(ABORT, "end")
        await rig.ended()


async def null_lists(rig: Rig) -> None:
    """A claim with null where it has no list to give."""
    rig.script("Completed", features=None, expected_disks=None)
    async with rig.serving(), rig.agent():
        await rig.activity("completed")
        rig.server.direct(ABORT, "end")
        await rig.ended()


async def parked(rig: Rig) -> None:
    """A state that nobody knows and `stages` does not list."""
    rig.script("Strange")
    async with rig.serving(), rig.agent():
        await rig.activity("parked")
        await rig.order(CANCEL, "parked-cancel", "refused")
        await rig.order(RETRY, "parked-retry", "refused", stage=UNKNOWN_STAGE)
        await rig.beats(3)
        rig.marks["beats on"] = True
        rig.server.direct(ABORT, "end")
        await rig.ended()


# --- while a stage runs -----------------------------------------------------------------------------------------------


async def cancel(rig: Rig) -> None:
    """A retry, which makes no sense now, and then a cancel in the middle of the long stage."""
    rig.script_long()
    async with rig.serving(), rig.agent():
        await rig.loaded()
        await rig.order(RETRY, "running-retry", "refused", stage=UNKNOWN_STAGE)
        rig.marks["load"] = rig.below() or rig.marks["load"]
        rig.server.direct(CANCEL, "cancel")
        await _carried_out(rig, "cancel")


async def shutdown(rig: Rig) -> None:
    """A shutdown in the middle of the long stage."""
    await _ended_while_running(rig, SHUTDOWN)


async def abort(rig: Rig) -> None:
    """An abort in the middle of the long stage."""
    await _ended_while_running(rig, ABORT)


async def _ended_while_running(rig: Rig, cmd: str) -> None:
    rig.script_long()
    async with rig.serving(), rig.agent():
        await rig.loaded()
        rig.server.direct(cmd, cmd)
        await _carried_out(rig, cmd)


async def _carried_out(rig: Rig, cmd_id: str) -> None:
    await rig.until(lambda: cmd_id in rig.server.handed_out, "a heartbeat", every_s=0.02)
    await rig.unloaded(rig.server.handed_out[cmd_id])
    await rig.ended()


async def over(rig: Rig) -> None:
    """410 to a heartbeat in the middle of the long stage."""
    await _refused_while_running(rig, 410)


async def revoked(rig: Rig) -> None:
    """401 to a heartbeat in the middle of the long stage."""
    await _refused_while_running(rig, 401)


async def _refused_while_running(rig: Rig, code: int) -> None:
    rig.script_long()
    async with rig.serving(), rig.agent():
        await rig.loaded()
        rig.server.always = {verb: refusal(code) for verb in ("heartbeat", "sensor", "log", "result", "claim")}
        before = len(rig.server.of("heartbeat"))
        await rig.until(lambda: len(rig.server.of("heartbeat")) > before, "a heartbeat", every_s=0.02)
        await rig.unloaded(rig.server.of("heartbeat")[before].at)
        await rig.ended()


async def between(rig: Rig) -> None:
    """Between two stages: the result cannot be posted, and orders come."""
    rig.script(UNKNOWN_STAGE)
    rig.server.always["result"] = status(500)
    async with rig.serving(), rig.agent():
        await rig.activity("between")
        await rig.order(CANCEL, "between-cancel", "refused")
        await rig.order(RETRY, "between-retry", "refused", stage=UNKNOWN_STAGE)
        rig.server.direct(SHUTDOWN, "end")
        await rig.ended()


async def no_systemctl(rig: Rig) -> None:
    """A host whose systemctl fails is to be powered off."""
    rig.script("Completed")
    rig.failing = "systemctl"
    async with rig.serving(), rig.agent():
        await rig.activity("completed")
        rig.server.direct(SHUTDOWN, "end")
        await rig.ended()


async def killed(rig: Rig) -> None:
    """SIGKILL in the middle of the long stage, and a second agent in its place."""
    rig.script_long()
    rig.server.claim_extra["token"] = BETTER_TOKEN
    async with rig.serving():
        async with rig.agent():
            await rig.loaded()
            killed_at = time.monotonic()
            rig.signal(signal.SIGKILL)
            await rig.unloaded(killed_at)
            await rig.ended()
        async with rig.agent():
            await rig.activity("running")
            rig.server.direct(ABORT, "end")
            await rig.ended()
            rig.marks["resumed"] = True
