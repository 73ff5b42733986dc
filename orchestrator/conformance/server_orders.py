"""Clauses of sections 4 and 5 for an orchestrator: orders and their acknowledgement, holds and their key."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from orchestrator.conformance.clause import Clause, NotTested, expect
from orchestrator.conformance.server_bench import Bench
from orchestrator.conformance.speaker import Speaker
from vetting_agent.errors import BadHoldKey
from vetting_agent.hold_key import parse_key

BEATS = 4


def _known(order: dict[str, Any]) -> str:
    cmd_id = order.get("cmd_id")
    if cmd_id is None:
        raise NotTested("this server sends no cmd_id")
    expect(isinstance(cmd_id, str) and cmd_id, f"cmd_id is {cmd_id!r}")
    return str(cmd_id)


def handed_out(bench: Bench) -> None:
    for cmd in ("cancel_stage", "shutdown", "abort"):
        agent = bench.claimed()
        agent.post("Inventory")
        bench.order(agent, cmd)


def repeated(bench: Bench) -> None:
    agent = bench.claimed()
    order = bench.order(agent, "shutdown")
    first = _known(order)
    for _ in range(BEATS):
        again = agent.beat()
        expect((again["cmd"], again.get("cmd_id")) == ("shutdown", first), f"not acknowledged, then came {again}")


def repeated_to_successor(bench: Bench) -> None:
    """An order that ends the agent, if the agent crashed over it."""
    agent = bench.claimed()
    first = _known(bench.order(agent, "abort"))
    new = agent.successor()
    new.claim()
    again = bench.until(new.beat, lambda reply: reply["cmd"] == "abort", "the abort is lost with the old agent")
    expect(again.get("cmd_id") == first, f"the new agent was given {again.get('cmd_id')}, the old one {first}")


def acknowledged(bench: Bench) -> None:
    _silenced(bench, "done")


def refused(bench: Bench) -> None:
    _silenced(bench, "refused")


def _silenced(bench: Bench, how: str) -> None:
    agent = bench.holding()
    cmd_id = _known(bench.order(agent, "retry_stage", "SMART"))
    for reply in [agent.beat(cmd_id, how), *(agent.beat() for _ in range(BEATS))]:
        expect(reply["cmd"] == "", f"acknowledged as {how}, {reply['cmd']} came again")


def unknown_ack(bench: Bench) -> None:
    agent = bench.claimed()
    order = bench.order(agent, "shutdown")
    again = agent.beat("nobody-gave-this-order")
    expect(again["cmd"] == "shutdown", f"acknowledging an unknown order silenced {order.get('cmd_id')}")


def retry_fields(bench: Bench) -> None:
    order = bench.order(bench.holding(), "retry_stage", "SMART")
    expect(order["stage"] == "SMART", f"the stage of the retry is {order['stage']!r}")
    flags = order.get("override_flags")
    expect(flags is None or not flags.get("wipe"), f"a plain retry has the flags {flags}")


def retry_wipe(bench: Bench) -> None:
    agent = bench.holding("Inventory", "Storage", non_destructive=False)
    flags = {"wipe": True, "serials": ["DISK-A"]}
    seen = bench.order(agent, "retry_stage", "Storage", flags).get("override_flags")
    expect(seen == flags, f"ordered with {flags}, handed out with {seen}")


def retry_not_inherited(bench: Bench) -> None:
    """A destructive retry that went to one agent is never executed by the next one."""
    agent = bench.holding("Inventory", "Storage", non_destructive=False)
    order = bench.order(agent, "retry_stage", "Storage", {"wipe": True})
    agent.beat(_known(order))
    new = agent.successor()
    stands = new.claim()["current_state"]
    expect(stands == "FailedHolding", f"an agent that crashed in a wipe is followed by one at {stands}")
    for _ in range(BEATS):
        cmd = new.beat()["cmd"]
        expect(cmd == "", f"its successor was given {cmd}")


def abort_ends(bench: Bench) -> None:
    agent = bench.ended()
    status = agent.send("claim", agent.claim_body()).status
    expect(status == 410, f"after an acknowledged abort a claim was answered with {status}")


def _hold(agent: Speaker) -> dict[str, Any]:
    return agent.call("hold", {"ip": "192.0.2.7"})


def hold_key(bench: Bench) -> None:
    key = _hold(bench.holding())["authorized_key"]
    try:
        parse_key(key)
    except BadHoldKey as problem:
        expect(False, f"the key must be refused: {problem}")


def hold_again(bench: Bench) -> None:
    agent = bench.holding()
    first, second = _hold(agent)["authorized_key"], _hold(agent)["authorized_key"]
    expect(first == second, "asked again, hold gave another key")


def hold_expiry(bench: Bench) -> None:
    text = _hold(bench.holding()).get("expires_at")
    if text is None:
        raise NotTested("this server sends no expires_at")
    until = datetime.fromisoformat(text)
    expect(until.tzinfo is not None, f"expires_at is not RFC 3339 in UTC: {text}")
    expect(until > datetime.now(UTC), f"the key expired at {text}")


CLAUSES = (
    Clause("directive-handed-out", 4, "an order is in the answer to a heartbeat", handed_out),
    Clause("directive-repeated", 4, "it is repeated, with one cmd_id, until it is acknowledged", repeated),
    Clause("directive-outlives-agent", 4, "an order nobody acknowledged goes to the next agent", repeated_to_successor),
    Clause("directive-done", 4, "acknowledged as done it is not sent again", acknowledged),
    Clause("directive-refused", 4, "acknowledged as refused it is not sent again", refused),
    Clause("unknown-ack", 4, "an acknowledgement of an unknown cmd_id changes nothing", unknown_ack),
    Clause("retry-fields", 4, "a retry names its stage, and no wipe unless that was ordered", retry_fields),
    Clause("retry-wipe", 4, "override_flags carry wipe and serials as ordered", retry_wipe),
    Clause("retry-not-inherited", 4, "a wipe that went to one agent never goes to its successor", retry_not_inherited),
    Clause("abort-ends", 4, "an acknowledged abort ends the run", abort_ends),
    Clause("hold-key", 5, "hold gives one valid public-key line without options", hold_key),
    Clause("hold-again", 5, "hold may be asked again and gives the same key", hold_again),
    Clause("hold-expiry", 5, "expires_at is a time to come, RFC 3339", hold_expiry),
)
