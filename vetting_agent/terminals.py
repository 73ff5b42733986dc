"""The terminals that operators have open in this held host: few, and all ended when the hold is left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from probes.host import Host
from vetting_agent.client import Client
from vetting_agent.logs import LogBook
from vetting_agent.status import AckStatus
from vetting_agent.wire import TerminalOrder

if TYPE_CHECKING:
    from vetting_agent.terminal_session import TerminalSession

MOST_TERMINALS = 4
END_S = 2.0
"""For a shell to be told; killing what it started takes up to KILL_WAIT_S more."""


class Terminals:
    """Opens and ends them."""

    def __init__(self, client: Client, host: Host, book: LogBook) -> None:
        self._client = client
        self._host = host
        self._book = book
        self._open: dict[asyncio.Task[None], TerminalSession] = {}

    def open(self, order: TerminalOrder, answer: Callable[[AckStatus], None]) -> None:
        """Begin to open one. `answer` is called once: done when a shell runs and shows itself, else refused."""
        from vetting_agent.terminal_session import TerminalSession

        if len(self._open) >= MOST_TERMINALS:
            self._book.warn(f"terminal {order.session}: refused: {MOST_TERMINALS} are open already")
            answer(AckStatus.REFUSED)
            return
        self._book.redactor.add(order.token)
        session = TerminalSession(order, self._client, self._host, self._book, answer)
        task = asyncio.create_task(session.run())
        self._open[task] = session
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._open.pop(task, None)
        if not task.cancelled() and (problem := task.exception()) is not None:
            self._book.error(f"a terminal failed: {problem!r}")

    async def end_all(self, reason: str) -> None:
        """End them, and everything that was started there."""
        tasks = set(self._open)
        if not tasks:
            return
        for session in self._open.values():
            session.end(reason)
        _, late = await asyncio.wait(tasks, timeout=END_S)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=END_S)
