"""Webhooks on the local operator API. Not on the console: who orders a test chooses where this server connects to.

GET /operator/v1/webhooks?limit=        POST /operator/v1/webhooks/test
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orchestrator.http_calls import answering_errors, body_of, correlation_of, decoded, json_reply, number_of
from orchestrator.outbox import Delivery
from orchestrator.steps import Refusal
from orchestrator.store import Store
from orchestrator.webhook_receivers import BadReceiver, checked, name_of
from orchestrator.who import local_who

PREFIX = "/operator/v1"
BODY_BYTES = 16 * 2**10
MOST_LISTED = 20_000


class DeliveryView(msgspec.Struct, frozen=True, kw_only=True):
    """One delivery that waits or failed. Its receiver by name: the URL itself may be a secret."""

    id: str
    type: str
    receiver: str
    state: str
    attempts: int
    created_at: str
    tried_at: str | None
    due_at: str | None
    problem: str


class WebhookList(msgspec.Struct, frozen=True, kw_only=True):
    """`receivers`: those that this server was started with."""

    receivers: list[str]
    deliveries: list[DeliveryView]


class PingOutcome(msgspec.Struct, frozen=True, kw_only=True):
    receiver: str
    delivered: bool
    status: int | None
    took_s: float
    problem: str


class WantedPing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    url: str


@dataclass(frozen=True, slots=True)
class WebhookApi:
    """`keys`: what is signed with."""

    store: Store
    receivers: Sequence[str]
    keys: Sequence[bytes]

    def routes(self) -> list[Route]:
        return [
            Route(f"{PREFIX}/webhooks", answering_errors(self.listed), methods=["GET"]),
            Route(f"{PREFIX}/webhooks/test", answering_errors(self.test), methods=["POST"]),
        ]

    async def listed(self, request: Request) -> Response:
        deliveries = await self.store.outbox.listed(number_of(request, "limit", 1000, MOST_LISTED))
        names = [name_of(one) for one in self.receivers]
        return json_reply(WebhookList(receivers=names, deliveries=[_view(one) for one in deliveries]))

    async def test(self, request: Request) -> Response:
        from orchestrator.webhook_sending import ping  # with httpx, which takes its time to load

        wanted = decoded(WantedPing, await body_of(request, BODY_BYTES))
        try:
            url = checked(wanted.url)
        except BadReceiver as problem:
            raise Refusal(422, "malformed", str(problem)) from None
        answer = await ping(self.keys, url)
        outcome = f"refused: {answer.problem}" if answer.problem else "done"
        entry = local_who(correlation_of(request)).entry("test webhook", subject=name_of(url), outcome=outcome)
        await self.store.write(lambda transaction: transaction.add_audit(entry))
        return json_reply(
            PingOutcome(
                receiver=name_of(url),
                delivered=not answer.problem,
                status=answer.status,
                took_s=round(answer.took_s, 3),
                problem=answer.problem,
            )
        )


def _view(one: Delivery) -> DeliveryView:
    return DeliveryView(
        id=one.event_id,
        type=one.type,
        receiver=name_of(one.receiver),
        state=one.state,
        attempts=one.attempts,
        created_at=one.created_at,
        tried_at=one.tried_at,
        due_at=one.due_at if one.state == "waiting" else None,
        problem=one.problem,
    )
