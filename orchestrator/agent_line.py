"""A host's connection: plain calls are answered here at little cost, and all else is handed to uvicorn.

A server of thousands of hosts does hardly anything but read small calls and write smaller answers. uvicorn and ASGI
take more CPU for that than authentication, decoding and storing together. The first bytes of a call that are not those
of a plain one (call_head.py) make the connection uvicorn's, for good: a WebSocket, evidence, a body in chunks. It reads
with h11, which is slow and strict and bounds what a stranger may send.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, cast

from starlette.requests import ClientDisconnect
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from orchestrator.call_head import CallHead, head_of
from orchestrator.http_calls import BODY_TIME_S, too_slow

MOST_WAITING_BYTES = 64 * 1024
"""Of calls that a host sends before the last one is answered."""
HEADS = {
    one.value: f"HTTP/1.1 {one.value} {one.phrase}\r\ncontent-type: application/json\r\ncontent-length: ".encode()
    for one in HTTPStatus
}

Answer = Callable[[CallHead, bytes | Exception], Awaitable[tuple[int, bytes]]]
"""Takes a call and its body, or why there is none; gives status and body of the answer. Raises nothing."""


class AgentLine(asyncio.Protocol):
    """One connection. `answer` is the one who knows what calls mean."""

    def __init__(
        self,
        answer: Answer,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._answer = answer
        self._config = config
        self._server = server_state
        self._app_state = app_state
        self._loop = asyncio.get_running_loop()
        self._data = b""
        self._head: CallHead | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._late: asyncio.TimerHandle | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._heard = 0.0
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._server.connections.add(cast("Any", self))
        self._heard = self._loop.time()
        self._look_after()

    def connection_lost(self, exc: Exception | None) -> None:
        self._let_go()
        if self._head is not None:
            self._begin(self._head, ClientDisconnect())

    def _let_go(self) -> None:
        self._server.connections.discard(cast("Any", self))
        for timer in (self._late, self._idle):
            if timer is not None:
                timer.cancel()

    def shutdown(self) -> None:
        """The server ends: after the answer that is under way."""
        self._closing = True
        if self._task is None:
            self.transport.close()

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()

    def _look_after(self) -> None:
        """Close the connection when it is idle for too long."""
        now, limit = self._loop.time(), self._config.timeout_keep_alive
        if self._task is None and now - self._heard >= limit:
            self.transport.close()
            return
        self._idle = self._loop.call_at(max(self._heard, now - limit + 1) + limit, self._look_after)

    def data_received(self, data: bytes) -> None:
        self._data = self._data + data if self._data else data
        if self._task is None:
            self._take()
        elif len(self._data) > MOST_WAITING_BYTES:
            self.transport.pause_reading()

    def _take(self) -> None:
        """Begin with the call that has arrived, if it is here as a whole."""
        head = self._head
        if head is None:
            head = self._head = head_of(self._data)
            if head is None:
                self._hand_over()
                return
        end = head.size + head.length
        if len(self._data) < end:
            if self._late is None:
                self._late = self._loop.call_later(BODY_TIME_S, self._too_late)
            return
        body, self._data, self._head = self._data[head.size : end], self._data[end:], None
        if self._late is not None:
            self._late.cancel()
            self._late = None
        self._begin(head, body)

    def _begin(self, head: CallHead, body: bytes | Exception) -> None:
        self._task = self._loop.create_task(self._call(head, body))
        self._server.tasks.add(self._task)
        self._task.add_done_callback(self._server.tasks.discard)

    async def _call(self, head: CallHead, body: bytes | Exception) -> None:
        status, content = await self._answer(head, body)
        self._task = None
        if self.transport.is_closing():
            return
        self.transport.write(b"%s%d\r\n\r\n%s" % (HEADS[status], len(content), content))
        self._heard = self._loop.time()
        if self._closing or isinstance(body, Exception):
            self.transport.close()
        elif self._data:
            self.transport.resume_reading()
            self._take()

    def _hand_over(self) -> None:
        """From here on the connection is uvicorn's."""
        self._let_go()
        other = H11Protocol(config=self._config, server_state=self._server, app_state=self._app_state)
        self.transport.set_protocol(other)
        other.connection_made(self.transport)
        other.data_received(self._data)
        self._data = b""

    def _too_late(self) -> None:
        """The rest of a body does not come."""
        head, self._head, self._data = self._head, None, b""
        if head is not None:
            self._begin(head, too_slow())
