"""Scenes of an agent under test: final refusals, trouble on the way, certificates, boot parameters."""

from __future__ import annotations

import asyncio
import email.utils
import time
from contextlib import AsyncExitStack, suppress

from orchestrator.conformance.agent_rig import INTERVAL_S, UNKNOWN_STAGE, Rig, certificate_of
from orchestrator.conformance.agent_scenes import ABORT, SHUTDOWN, Scene
from orchestrator.conformance.scripted import (
    DROP,
    GARBLE,
    LOSE,
    Fault,
    ScriptedOrchestrator,
    WaitedInVain,
    refusal,
    status,
)

ASKED_WAIT_S = 4
HANG_S = 60.0
FINAL_OF_CLAIM = (401, 404, 409, 410)


# --- final refusals ---------------------------------------------------------------------------------------------------


def refused_claim(code: int) -> Scene:
    """The scene of a claim that is answered with this final status."""

    async def scene(rig: Rig) -> None:
        rig.script("InventoryCheck")
        rig.server.always["claim"] = refusal(code)
        async with rig.serving(), rig.agent():
            await rig.ended()

    return scene


async def refused_hello(rig: Rig) -> None:
    """403 to the hello."""
    rig.script("InventoryCheck")
    rig.server.always["hello"] = refusal(403)
    async with rig.serving(), rig.agent():
        await rig.ended()


async def rejected_claim(rig: Rig) -> None:
    """422 to the claim, and to the hello before it."""
    rig.script("InventoryCheck")
    rig.server.always["hello"] = refusal(422)
    rig.server.always["claim"] = refusal(422)
    async with rig.serving(), rig.agent():
        await rig.ended()


async def redirected_claim(rig: Rig) -> None:
    """307 to the claim, to a place where another server listens."""
    rig.script("Completed")
    other = ScriptedOrchestrator(states=["Completed"])
    async with other.serve():
        place = f"{other.url}/api/v1/runs/{rig.run_id}/claim"
        rig.server.always["claim"] = status(307, Location=place)
        async with rig.serving(), rig.agent():
            start = rig.starts[-1]
            await rig.until(lambda: start.exit_code is not None or other.bytes_received, "the agent's end")
            rig.marks["followed"] = other.bytes_received


async def rejected_evidence(rig: Rig) -> None:
    """Evidence is not taken."""
    rig.script("InventoryCheck", features=["evidence"])
    rig.server.follow = {"Inventory": "Completed"}
    rig.server.always["evidence"] = refusal(422)
    async with rig.serving(), rig.agent():
        await rig.until(lambda: rig.server.results, "a result", limit_s=120)
        await rig.activity("completed")
        rig.server.direct(ABORT, "end")
        await rig.ended()


async def rejected_result(rig: Rig) -> None:
    """422 to a result."""
    rig.script(UNKNOWN_STAGE)
    rig.server.always["result"] = refusal(422)
    async with rig.serving(), rig.agent():
        await rig.activity("parked")
        await rig.beats(8)
        rig.marks["beats on"] = True
        rig.server.direct(SHUTDOWN, "end")
        await rig.ended()


async def proxy(rig: Rig) -> None:
    """Final statuses without the envelope, as a proxy in the middle gives them, then the orchestrator again."""
    rig.script("Completed")
    rig.server.faults["claim"].extend([status(404), status(403)])
    rig.server.faults["heartbeat"].extend([status(410), status(409), status(401)])
    async with rig.serving(), rig.agent():
        await rig.activity("completed")
        await rig.beats(5)
        rig.marks["survived"] = True
        rig.server.direct(ABORT, "end")
        await rig.ended()


async def proxy_lasts(rig: Rig) -> None:
    """The same, for good."""
    rig.script("Completed")
    rig.server.always["claim"] = status(404)
    async with rig.serving(), rig.agent():
        await rig.until(lambda: rig.starts[-1].exit_code is not None, "the agent's end", limit_s=130)
        await rig.ended()


# --- trouble on the way -----------------------------------------------------------------------------------------------


async def trouble(rig: Rig) -> None:
    """Trouble with a claim, then a result whose answers are lost one after the other, and lost log answers."""
    rig.script(UNKNOWN_STAGE)
    rig.server.faults["hello"].append(refusal(422))
    rig.server.faults["claim"].extend([status(500), DROP, GARBLE])
    rig.server.faults["result"].extend([LOSE, status(502), GARBLE])
    rig.server.faults["log"].extend([LOSE, status(500)])
    async with rig.serving(), rig.agent():
        await rig.until(lambda: len(rig.server.of("claim")) >= 4, "the claim to be tried again", limit_s=60)
        rig.marks["claimed"] = True
        await rig.until(lambda: rig.server.results, "a result")
        await rig.until(lambda: rig.server.of("result")[-1].answered == 200 and len(rig.server.of("result")) > 3,
                        "the result to be tried again", limit_s=60)  # fmt: skip
        rig.marks["posted"] = True
        await rig.beats(2)
        rig.server.direct(ABORT, "end")
        await rig.ended()


async def slow_down(rig: Rig) -> None:
    """Retry-After, in seconds and as a date, for a claim, a result and a heartbeat."""
    rig.script(UNKNOWN_STAGE)
    rig.server.faults["claim"].append(status(429, Retry_After=str(ASKED_WAIT_S)))
    async with rig.serving(), rig.agent():
        await rig.until(lambda: rig.server.of("claim"), "the claim", every_s=0.02)
        dated = status(503, Retry_After=_date(ASKED_WAIT_S + 1), Date=_date(0))
        rig.server.faults["result"].append(dated)
        rig.server.faults["heartbeat"].extend([status(429, Retry_After=str(ASKED_WAIT_S))])
        await rig.until(lambda: len(rig.server.of("result")) >= 2, "the result to be tried again")
        await rig.beats(2)
        rig.server.direct(ABORT, "end")
        await rig.ended()


def _date(ahead_s: float) -> str:
    return email.utils.formatdate(time.time() + ahead_s, usegmt=True)


async def hanging(rig: Rig) -> None:
    """A claim and a heartbeat that are not answered."""
    rig.script("Completed")
    rig.server.faults["claim"].append(Fault(delay_s=HANG_S))
    rig.server.faults["heartbeat"].append(Fault(delay_s=HANG_S))
    async with rig.serving(), rig.agent():
        await rig.until(lambda: len(rig.server.of("claim")) >= 2, "a second claim", limit_s=HANG_S)
        await rig.until(lambda: len(rig.server.of("heartbeat")) >= 4, "further heartbeats", limit_s=HANG_S)
        rig.server.direct(ABORT, "end")
        await rig.ended()


async def hello_down(rig: Rig) -> None:
    """No hello is ever answered."""
    rig.script("Completed")
    rig.server.always["hello"] = status(500)
    async with rig.serving(), rig.agent():
        await rig.until(lambda: rig.server.of("claim"), "a claim", limit_s=75)
        await rig.activity("completed")
        rig.server.direct(ABORT, "end")
        await rig.ended()


async def older_server(rig: Rig) -> None:
    """A server that knows no field of (v1+) and no result_id, which loses the answer to a result."""
    rig.script(UNKNOWN_STAGE)
    rig.server.claim_extra = {}
    rig.server.knows_result_ids = False
    rig.server.faults["result"].append(LOSE)
    async with rig.serving(), rig.agent():
        await rig.until(lambda: rig.server.results, "a result")
        await rig.activity("completed")
        await asyncio.sleep(1.0)
        rig.marks["went on"] = True
        rig.server.direct(ABORT, None)
        await rig.ended()


# --- trust and boot parameters ----------------------------------------------------------------------------------------


async def stranger(rig: Rig) -> None:
    """A server with a certificate that is not the fingerprint's."""
    rig.script("Completed")
    _, other = certificate_of(rig.folder / "other")
    async with rig.serving(), rig.agent(fpr=other) as start:
        await rig.until(lambda: rig.server.connections >= 2 or start.exit_code is not None, "a second connection")
        await asyncio.sleep(1.0)
        rig.marks["shown"] = True


async def rotation(rig: Rig) -> None:
    """Two fingerprints, the second of which is the server's, in upper case with colons."""
    rig.script("Completed")
    _, other = certificate_of(rig.folder / "other")
    async with rig.serving():
        pairs = [rig.fingerprint[at : at + 2].upper() for at in range(0, 64, 2)]
        async with rig.agent(fpr=f"{other},{':'.join(pairs)}", url=f"{rig.server.url}/"):
            await rig.activity("completed")
            rig.server.direct(ABORT, "end")
            await rig.ended()


async def swapped(rig: Rig) -> None:
    """In mid-run the server is replaced by one with another certificate."""
    rig.script("Completed")
    context, _ = certificate_of(rig.folder / "other")
    robber = ScriptedOrchestrator(states=["Completed"])
    async with AsyncExitStack() as stack, AsyncExitStack() as served:
        await served.enter_async_context(rig.serving())
        await stack.enter_async_context(rig.agent())
        await rig.activity("completed")
        await served.aclose()
        async with robber.serve(context, port=int(rig.server.url.rsplit(":", 1)[1])):
            # A handshake that the agent breaks off is no connection to this server: there may be none to wait for.
            with suppress(WaitedInVain):
                await robber.until(lambda: robber.bytes_received, "what must not come", 30 * INTERVAL_S)
            rig.marks["robbed bytes"] = robber.bytes_received


def bad_parameter(**placeholders: str) -> Scene:
    """The scene of a boot parameter that makes no sense."""

    async def scene(rig: Rig) -> None:
        rig.script("Completed")
        async with rig.serving(), rig.agent(**placeholders):
            await rig.ended()

    return scene
