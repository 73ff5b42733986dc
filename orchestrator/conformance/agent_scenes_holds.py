"""Scenes of an agent under test: orders that come again and again, and holds."""

from __future__ import annotations

import signal
from collections.abc import Callable

from orchestrator.conformance.agent_rig import OTHER_KEY, UNKNOWN_STAGE, Rig
from orchestrator.conformance.agent_scenes import ABORT, CANCEL, RETRY, SHUTDOWN, Scene
from orchestrator.conformance.clause import NotTested
from orchestrator.conformance.scripted import (
    refusal,
    status,
)

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
