"""The outbox of webhooks as a table of the embedded database (see outbox.py)."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from orchestrator.clock import later
from orchestrator.outbox import CLOCK_JUMP_S, FAILED, MOST_FAILED, MOST_WAITING, PENDING, Delivery, OutboxTotal
from orchestrator.webhook_events import WebhookEvent, body_of, new_event_id

COLUMNS = "id, event_id, type, created_at, receiver, state, attempts, due_at, tried_at, problem"
SLACK = 100
"""The outbox is counted so often on the way to being full: it may hold a hundredth more than it should."""
FULL = "dropped: the outbox was full"
OLDEST = "SELECT id FROM outbox WHERE receiver = ? AND state = ? ORDER BY id LIMIT ?"

Query = Callable[..., Awaitable[list[Any]]]


class SqliteOutboxWriter:
    """Runs on the writer's thread, on the writing connection."""

    def __init__(self, connection: sqlite3.Connection, receivers: Sequence[str], most: int = MOST_WAITING) -> None:
        self._execute = connection.execute
        self._receivers = receivers
        self._most = most
        self._added = 0
        self.dropped = 0
        self.console_url: str | None = None
        """Where people see the run that an event is about."""

    def add(self, event: WebhookEvent) -> None:
        event_id, body = new_event_id(), None
        for receiver in self._receivers:
            row = (event_id, event.type, event.timestamp, receiver, PENDING, 0, event.timestamp, None, "", body or b"")
            number = self._execute(
                "INSERT INTO outbox (event_id, type, created_at, receiver, state, attempts, due_at, tried_at, problem,"
                " body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            ).lastrowid
            if body is None:
                assert number is not None
                body = body_of(event, number, self.console_url)
                self._execute("UPDATE outbox SET body = ? WHERE id = ?", (body, number))
        self._added += 1
        if self._added % max(1, self._most // SLACK) == 0:
            for receiver in self._receivers:
                self._bound(receiver)

    def delivered(self, delivery: Delivery) -> None:
        self._execute("DELETE FROM outbox WHERE id = ?", (delivery.id,))

    def put(self, delivery: Delivery) -> None:
        row = (delivery.state, delivery.attempts, delivery.due_at, delivery.tried_at, delivery.problem, delivery.id)
        self._execute(
            "UPDATE outbox SET state = ?, attempts = ?, due_at = ?, tried_at = ?, problem = ? WHERE id = ?", row
        )
        if delivery.state == FAILED:
            self._forget_failed(delivery.receiver)

    def expire(self, before: str, problem: str) -> int:
        given_up = self._execute(
            "UPDATE outbox SET state = ?, problem = CASE problem WHEN '' THEN ? ELSE ? || problem END"
            " WHERE state = ? AND created_at < ?",
            (FAILED, problem, f"{problem}; last: ", PENDING, before),
        ).rowcount
        if given_up:
            for (receiver,) in self._execute("SELECT DISTINCT receiver FROM outbox").fetchall():
                self._forget_failed(receiver)
        return given_up

    def _bound(self, receiver: str) -> None:
        more = self._count(receiver, PENDING) - self._most
        if more > 0:
            rows = self._execute(f"UPDATE outbox SET state = ?, problem = ? WHERE id IN ({OLDEST})",  # noqa: S608  # a constant
                                 (FAILED, FULL, receiver, PENDING, more))  # fmt: skip
            self.dropped += rows.rowcount
            self._forget_failed(receiver)

    def _forget_failed(self, receiver: str) -> None:
        more = self._count(receiver, FAILED) - MOST_FAILED
        if more > 0:
            self._execute(f"DELETE FROM outbox WHERE id IN ({OLDEST})", (receiver, FAILED, more))  # noqa: S608  # a constant

    def _count(self, receiver: str, state: str) -> int:
        query = "SELECT count(*) FROM outbox WHERE receiver = ? AND state = ?"
        return int(self._execute(query, (receiver, state)).fetchone()[0])


class SqliteOutbox:
    """Reads with the store's reader."""

    def __init__(self, query: Query, writer: SqliteOutboxWriter) -> None:
        self._query = query
        self._writer = writer
        self._told = 0

    async def due(self, receiver: str, now: str, limit: int) -> list[tuple[Delivery, bytes]]:
        rows = await self._query(
            f"SELECT {COLUMNS}, body FROM outbox WHERE receiver = ? AND state = ? AND (due_at <= ? OR due_at > ?)"  # noqa: S608  # a constant
            " ORDER BY id LIMIT ?",
            receiver, PENDING, now, later(now, CLOCK_JUMP_S), limit,
        )  # fmt: skip
        return [(_delivery(row[:-1]), row[-1]) for row in rows]

    async def listed(self, limit: int) -> list[Delivery]:
        query = f"SELECT {COLUMNS} FROM outbox ORDER BY id DESC LIMIT ?"  # noqa: S608  # a constant
        return [_delivery(row) for row in await self._query(query, limit)]

    async def totals(self) -> list[OutboxTotal]:
        query = "SELECT receiver, state, count(*), min(created_at) FROM outbox GROUP BY receiver, state ORDER BY 1, 2"
        rows = await self._query(query)
        return [OutboxTotal(receiver=one[0], state=one[1], number=one[2], oldest_at=one[3]) for one in rows]

    def take_dropped(self) -> int:
        dropped, told = self._writer.dropped, self._told
        self._told = dropped
        return dropped - told


def _delivery(row: Sequence[Any]) -> Delivery:
    return Delivery(**dict(zip(COLUMNS.split(", "), row, strict=True)))
