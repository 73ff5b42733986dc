"""Tells the orchestrator every few seconds what the agent is at, and passes directives on to control.

It never calls control: it reads the status snapshot and fills the queue of directives. The rhythm is that of the
monotonic clock: a slow answer makes the next beat no later, and a missed one is not made up for.
"""

from __future__ import annotations

import asyncio
import time

from vetting_agent.client import Client
from vetting_agent.errors import Rejected, Trouble
from vetting_agent.logs import LogBook
from vetting_agent.status import Ack, Directive, Directives, StatusBoard
from vetting_agent.wire import HeartbeatReply, HeartbeatRequest

REPEAT_WARNING_S = 60.0


class Heartbeat:
    """From the claim to the end of the process."""

    def __init__(
        self, client: Client, board: StatusBoard, directives: Directives, book: LogBook, interval_s: float
    ) -> None:
        self._client = client
        self._board = board
        self._directives = directives
        self._book = book
        self._interval_s = interval_s
        self._heard = 0
        self._troubles = 0
        self._warned_at = 0.0

    async def run(self) -> None:
        """Forever. Raises FinalRefusal."""
        due = time.monotonic()
        while True:
            await self._beat()
            now = time.monotonic()
            due += self._interval_s
            if due < now:
                due += self._interval_s * ((now - due) // self._interval_s + 1)
            await asyncio.sleep(due - now)

    async def last(self) -> None:
        """One more beat, so that the acknowledgement of a directive that ends the agent is heard. Best effort."""
        if self._ack() is None or self._client.wait_s("heartbeat") > 0:
            return
        await self._beat(listen=False)

    async def _beat(self, *, listen: bool = True) -> None:
        ack = self._ack()
        try:
            reply = await self._client.heartbeat(self._request(ack))
        except (Trouble, Rejected) as problem:
            self._trouble(problem)
            return
        self._recovered()
        if ack is not None:
            self._heard = ack.number
        if listen and reply.cmd:
            self._directives.put(_directive(reply))

    def _request(self, ack: Ack | None) -> HeartbeatRequest:
        status, now = self._board.now, self._board.clock()
        return HeartbeatRequest(
            activity=status.activity.value,
            stage=status.stage,
            elapsed_s=status.elapsed_s(now),
            progress=status.progress,
            eta_s=status.eta_now_s(now),
            acked_cmd_id=ack.cmd_id if ack else None,
            ack_status=ack.status.value if ack else None,
            ack_message=ack.message if ack else None,
            dropped_log_lines=self._book.dropped,
        )

    def _ack(self) -> Ack | None:
        """The oldest acknowledgement that no answered heartbeat has carried yet."""
        return next((ack for ack in self._board.now.acks if ack.number > self._heard), None)

    def _trouble(self, problem: Exception) -> None:
        """Say so once, then once a minute."""
        self._troubles += 1
        now = time.monotonic()
        if self._troubles == 1 or now - self._warned_at >= REPEAT_WARNING_S:
            self._warned_at = now
            self._book.warn(f"{problem} (heartbeats failed in a row: {self._troubles})")

    def _recovered(self) -> None:
        if self._troubles:
            self._book.info(f"heartbeats are answered again, after {self._troubles} that failed")
        self._troubles = 0


def _directive(reply: HeartbeatReply) -> Directive:
    return Directive(
        cmd=reply.cmd,
        stage=reply.stage or None,
        override_flags=reply.override_flags,
        cmd_id=reply.cmd_id or None,
        terminal=reply.terminal,
        identify=reply.identify,
    )
