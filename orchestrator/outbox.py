"""What waits to be told to others: one delivery for each event and receiver, kept until it is settled."""

from __future__ import annotations

from typing import Protocol

from orchestrator.run_record import Record
from orchestrator.webhook_events import WebhookEvent

PENDING, FAILED = "waiting", "failed"
MOST_WAITING = 10_000
"""Of one receiver. When there are more, the oldest are given up, and it is told."""
MOST_FAILED = 1000
"""Of one receiver, the newest: for people to look at."""
CLOCK_JUMP_S = 3700.0
"""A delivery due later than any pause allows: the clock was set back."""


class Delivery(Record, frozen=True, kw_only=True, omit_defaults=False):
    """One event for one receiver. A delivered one is not kept."""

    id: int
    event_id: str
    """The same with every attempt: a receiver knows by it what it has had."""
    type: str
    created_at: str
    receiver: str
    """The URL."""
    state: str = PENDING
    attempts: int = 0
    due_at: str
    tried_at: str | None = None
    problem: str = ""


class OutboxTotal(Record, frozen=True, kw_only=True):
    """How many deliveries of a receiver (the URL) are in a state, and when the oldest of them came in."""

    receiver: str
    state: str
    number: int
    oldest_at: str


class OutboxWriter(Protocol):
    """The outbox inside a transaction."""

    def add(self, event: WebhookEvent) -> None:
        """A delivery for each receiver."""
        ...

    def delivered(self, delivery: Delivery) -> None: ...

    def put(self, delivery: Delivery) -> None:
        """A delivery after an attempt."""
        ...

    def expire(self, before: str, problem: str) -> int:
        """Give up what has waited since `before`, receivers that are configured no more included; how many."""
        ...


class Outbox(Protocol):
    """The outbox outside a transaction, as last committed."""

    async def due(self, receiver: str, now: str, limit: int) -> list[tuple[Delivery, bytes]]:
        """Deliveries to attempt now, oldest first, with their bodies."""
        ...

    async def listed(self, limit: int) -> list[Delivery]:
        """What waits and what failed, newest first."""
        ...

    async def totals(self) -> list[OutboxTotal]:
        """By receiver and state; what there is none of is not in it."""
        ...

    def take_dropped(self) -> int:
        """How many were given up because the outbox was full, since last asked."""
        ...
