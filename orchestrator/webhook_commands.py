"""`vetting-orchestrator webhooks`: what waits and what failed, and a ping."""

from __future__ import annotations

import argparse

from orchestrator.cli_commands import BadArgument
from orchestrator.cli_text import say, say_json, table
from orchestrator.operator_client import OperatorClient
from orchestrator.outbox import FAILED, PENDING
from orchestrator.webhook_app import DeliveryView, PingOutcome, WebhookList


def webhooks(arguments: argparse.Namespace, client: OperatorClient) -> int:
    """The list, or `test URL`."""
    if arguments.act is None:
        return _listed(arguments, client)
    if arguments.url is None:
        raise BadArgument("webhooks test needs the URL that is tested")
    return _tested(arguments, client)


def _listed(arguments: argparse.Namespace, client: OperatorClient) -> int:
    found = client.get("/webhooks", WebhookList, limit=max(1, arguments.limit))
    if arguments.json:
        say_json(found)
        return 0
    rows = [("RECEIVER", "WAITING", "FAILED")]
    rows += [(name, _count(found, name, PENDING), _count(found, name, FAILED)) for name in _receivers(found)]
    say(table(rows) if len(rows) > 1 else "This server was started without --webhook")
    if found.deliveries:
        heading = ("EVENT", "TYPE", "RECEIVER", "STATE", "TRIES", "SINCE", "NEXT", "LAST PROBLEM")
        say("\n" + table([heading, *map(_row, found.deliveries)]))
    return 0


def _receivers(found: WebhookList) -> list[str]:
    """Those of this server, and those of an earlier one for whom something is still here."""
    return list(dict.fromkeys([*found.receivers, *(one.receiver for one in found.deliveries)]))


def _count(found: WebhookList, receiver: str, state: str) -> str:
    return str(sum((one.receiver, one.state) == (receiver, state) for one in found.deliveries))


def _row(one: DeliveryView) -> tuple[str, ...]:
    tries = str(one.attempts)
    return (one.id, one.type, one.receiver, one.state, tries, one.created_at, one.due_at or "", one.problem)


def _tested(arguments: argparse.Namespace, client: OperatorClient) -> int:
    """Exit 0 when the receiver took it, 1 when not."""
    outcome = client.post("/webhooks/test", {"url": arguments.url}, PingOutcome)
    if arguments.json:
        say_json(outcome)
    elif outcome.delivered:
        say(f"{outcome.receiver} answered HTTP {outcome.status} in {outcome.took_s:.3f} s")
    else:
        say(f"{outcome.receiver} did not take it: {outcome.problem} (after {outcome.took_s:.3f} s)")
    return 0 if outcome.delivered else 1
