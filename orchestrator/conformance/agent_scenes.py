"""The scenes that an agent under test plays: what the scripted orchestrator says, and when. They judge nothing."""

from __future__ import annotations

import asyncio
import email.utils
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress

from orchestrator.conformance.agent_rig import BETTER_TOKEN, INTERVAL_S, OTHER_KEY, UNKNOWN_STAGE, Rig, certificate_of
from orchestrator.conformance.clause import NotTested
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

Scene = Callable[[Rig], Awaitable[None]]
ASKED_WAIT_S = 4
HANG_S = 60.0
FINAL_CODES = (401, 403, 404, 409, 410)
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
        rig.marks["load"] = rig.below()
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
            await rig.ended()
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


# --- orders once ------------------------------------------------------------------------------------------------------


async def retry(rig: Rig) -> None:
    """In a hold: a retry that the server goes on repeating, acknowledgements that are lost, one without an id."""
    _needs_key_file(rig)
    rig.script("FailedHolding")
    server = rig.server
    server.sticky = {"again"}
    server.follow = {UNKNOWN_STAGE: "FailedHolding"}
    async with rig.serving(), rig.agent():
        await rig.activity("holding")
        await rig.order(RETRY, "again", stage=UNKNOWN_STAGE)
        await rig.until(lambda: server.results, "the result of the retry")
        await rig.activity("holding")
        await rig.beats(6)
        rig.marks["repeated"] = len(server.results)
        server.sticky = set()
        server.directives.clear()
        server.faults["heartbeat"].extend([status(500), status(500)])
        await rig.order(CANCEL, "no-sense", "refused")
        await rig.order("dance", "no-such", "refused")
        server.direct(RETRY, None, stage=UNKNOWN_STAGE)
        await rig.until(lambda: len(server.results) > rig.marks["repeated"], "the retry without an id")
        rig.marks["plain"] = True
        rig.server.direct(ABORT, "end")
        await rig.ended()


async def lost_acks(rig: Rig) -> None:
    """Heartbeats that carry an acknowledgement are not answered with 200 at first."""
    rig.script("Strange")
    async with rig.serving(), rig.agent():
        await rig.activity("parked")
        rig.server.direct(CANCEL, "lost")
        await rig.until(lambda: "lost" in rig.server.handed_out, "a heartbeat", every_s=0.02)
        rig.server.faults["heartbeat"].extend([status(500), status(500), status(500)])
        await rig.acked("lost", "refused")
        rig.server.direct(ABORT, "end")
        await rig.ended()


# --- holds ------------------------------------------------------------------------------------------------------------


def _needs_key_file(rig: Rig) -> None:
    if not rig.subject.may_hold:
        raise NotTested("the command has no {authorized_keys}: a hold would write to this machine's own")


async def hold(rig: Rig) -> None:
    """A hold on a host that has somebody's key already, whose file ends without a newline."""
    _needs_key_file(rig)
    rig.script("FailedHolding")
    rig.server.hold_key["expires_at"] = "2099-11-21T21:30:00Z"
    rig.keys.parent.mkdir(mode=0o755)
    rig.keys.write_text(OTHER_KEY)
    rig.keys.chmod(0o644)
    async with rig.serving(), rig.agent():
        await _installed(rig)
        await rig.order(CANCEL, "holding-cancel", "refused")
        rig.server.direct(SHUTDOWN, "end")
        await rig.ended()
        rig.marks["keys after"] = rig.keys.read_text()


async def _installed(rig: Rig) -> None:
    body = rig.server.hold_key["authorized_key"].split()[1]
    await rig.until(lambda: rig.keys.exists() and body in rig.keys.read_text(), "the hold key in authorized_keys")
    rig.marks["keys"] = rig.keys.read_text()
    rig.marks["modes"] = (rig.keys.parent.stat().st_mode & 0o7777, rig.keys.stat().st_mode & 0o7777)


async def hold_abort(rig: Rig) -> None:
    await _hold_left(rig, lambda: rig.server.direct(ABORT, "end"))


async def hold_over(rig: Rig) -> None:
    await _hold_left(rig, lambda: rig.server.always.update(heartbeat=refusal(410)))


async def hold_revoked(rig: Rig) -> None:
    await _hold_left(rig, lambda: rig.server.always.update(heartbeat=refusal(403)))


async def hold_sigterm(rig: Rig) -> None:
    await _hold_left(rig, lambda: rig.signal(signal.SIGTERM))


async def _hold_left(rig: Rig, leave: Callable[[], object]) -> None:
    _needs_key_file(rig)
    rig.script("FailedHolding")
    async with rig.serving(), rig.agent():
        await _installed(rig)
        leave()
        await rig.ended()
        rig.marks["keys after"] = rig.keys.read_text() if rig.keys.exists() else ""


async def hold_retry(rig: Rig) -> None:
    """A retry that fails, then one that leads on: the key stays through the first and goes with the second."""
    _needs_key_file(rig)
    rig.script("FailedHolding")
    rig.server.follow = {UNKNOWN_STAGE: "FailedHolding"}
    async with rig.serving(), rig.agent():
        await _installed(rig)
        await rig.order(RETRY, "fails", stage=UNKNOWN_STAGE)
        await rig.until(lambda: rig.server.results, "the result of the retry")
        await rig.activity("holding")
        rig.marks["keys between"] = rig.keys.read_text()
        rig.server.follow = {UNKNOWN_STAGE: "Completed"}
        await rig.order(RETRY, "passes", stage=UNKNOWN_STAGE)
        await rig.activity("completed")
        await rig.until(lambda: _body(rig) not in rig.keys.read_text(), "the key to go")
        rig.marks["keys after"] = rig.keys.read_text()
        rig.server.direct(ABORT, "end")
        await rig.ended()


def _body(rig: Rig) -> str:
    return str(rig.marks["keys"].split()[1])


def bad_key(key: str) -> Scene:
    """The scene of a hold that gives a key which must not be installed."""

    async def scene(rig: Rig) -> None:
        _needs_key_file(rig)
        rig.script("FailedHolding")
        rig.server.hold_key = {"authorized_key": key}
        async with rig.serving(), rig.agent():
            await rig.activity("holding")
            await rig.until(lambda: rig.server.of("hold"), "a call of hold")
            await rig.beats(4)
            rig.marks["keys"] = rig.keys.read_text() if rig.keys.exists() else ""
            rig.server.direct(ABORT, "end")
            await rig.ended()

    return scene


async def hold_asked_again(rig: Rig) -> None:
    """The first hold fails."""
    _needs_key_file(rig)
    rig.script("FailedHolding")
    rig.server.faults["hold"].append(status(500))
    async with rig.serving(), rig.agent():
        await rig.activity("holding")
        await rig.until(lambda: len(rig.server.of("hold")) >= 2, "a second call of hold", limit_s=60)
        rig.server.direct(ABORT, "end")
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
