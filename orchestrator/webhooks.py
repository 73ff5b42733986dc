"""Brings what lies in the outbox to its receivers: one task for each, so that a slow one holds up no other.

Delivery is at least once, and always with the same id: a server killed between a receiver's answer and the commit
sends again. Events of one receiver are tried oldest first; one that fails waits, and does not stop those after it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from orchestrator.clock import later, now_text
from orchestrator.outbox import FAILED, Delivery
from orchestrator.store import Store, StoreFailed, Transaction
from orchestrator.webhook_receivers import FIRST_PAUSE_S, place_of
from orchestrator.webhook_sending import Answer, Sender

log = logging.getLogger(__name__)
GROWTH, LONGEST_PAUSE_S = 3.0, 3600.0
JITTER = 0.1
KEEP_TRYING_S = 86400.0
TOO_LATE = f"not delivered within {KEEP_TRYING_S / 3600:.0f} h"
AGAIN_S = 0.5
"""How long the outbox is left alone when nothing was due."""
TROUBLE_S = 5.0
EXPIRE_EVERY_S = 60.0
AT_ONCE = 20


@dataclass(frozen=True, slots=True)
class Webhooks:
    """`receivers`: URLs. `first_pause_s`: before the first retry; each later one is three times as long."""

    store: Store
    sender: Sender
    receivers: Sequence[str]
    first_pause_s: float = FIRST_PAUSE_S

    async def run(self) -> None:
        """Deliver until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._tidy())
                for receiver in self.receivers:
                    group.create_task(self._serve(receiver))
        finally:
            await self.sender.client.aclose()

    async def _serve(self, receiver: str) -> None:
        while True:
            try:
                due = await self.store.outbox.due(receiver, now_text(), AT_ONCE)
                for delivery, body in due:
                    await self._attempt(delivery, body)
            except StoreFailed as problem:
                log.warning("webhooks: the store failed: %s", problem)
                await asyncio.sleep(TROUBLE_S)  # what was not noted as sent would be sent again at once
                continue
            except Exception:
                log.exception("webhooks to %s stumbled", place_of(receiver))
                await asyncio.sleep(TROUBLE_S)
                continue
            if not due:
                await asyncio.sleep(AGAIN_S)

    async def _attempt(self, delivery: Delivery, body: bytes) -> None:
        answer = await self.sender.send(delivery.receiver, delivery.event_id, body)
        if not answer.problem:
            await self.store.write(lambda transaction: transaction.outbox.delivered(delivery))
            return
        failed = self.after(delivery, answer)
        words = "is given up" if failed.state == FAILED else f"is tried again at {failed.due_at}"
        place = place_of(delivery.receiver)
        log.warning("webhook %s (%s) to %s %s: %s", delivery.event_id, delivery.type, place, words, answer.problem)
        await self.store.write(lambda transaction: transaction.outbox.put(failed))

    def after(self, delivery: Delivery, answer: Answer) -> Delivery:
        """A delivery after an attempt that failed: when it is tried again, if at all."""
        now, attempts = now_text(), delivery.attempts + 1
        due_at = later(now, max(self.pause_s(attempts), answer.retry_after_s))
        tried = replace(delivery, attempts=attempts, tried_at=now, due_at=due_at, problem=answer.problem)
        if answer.gone:
            return replace(tried, state=FAILED, problem="answered HTTP 410: the receiver wants it no more")
        if due_at > later(delivery.created_at, KEEP_TRYING_S):
            return replace(tried, state=FAILED, problem=f"{TOO_LATE}; last: {answer.problem}")
        return tried

    def pause_s(self, attempts: int) -> float:
        """How long to wait after so many attempts: 5 s, 15 s, 45 s, … 1 h, each a little different."""
        pause = min(self.first_pause_s * GROWTH ** min(attempts - 1, 20), LONGEST_PAUSE_S)
        return pause * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  # no secret: it spreads the load

    async def _tidy(self) -> None:
        """Give up what nobody took in time, and tell of what the full outbox dropped."""
        while True:
            try:
                if dropped := self.store.outbox.take_dropped():
                    log.warning("webhooks: the outbox is full: the oldest %d deliveries were dropped", dropped)
                if expired := await self.store.write(_expired):
                    log.warning("webhooks: %d deliveries are given up: %s", expired, TOO_LATE)
            except Exception:
                log.exception("webhooks: the outbox could not be tidied")
            await asyncio.sleep(EXPIRE_EVERY_S)


def _expired(transaction: Transaction) -> int:
    return transaction.outbox.expire(later(now_text(), -KEEP_TRYING_S), TOO_LATE)
