"""The client's end of a WebSocket (RFC 6455) over streams that are connected already.

wsproto does the protocol; it is imported when the first socket is opened, which most agents never do.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsproto import WSConnection

READ_BYTES = 65536
BUFFER_BYTES = 65536
TEXT_LIMIT_BYTES = 65536
SHOWN_BYTES = 2000
CLOSE_LIMIT_S = 1.0


class UpgradeRefused(Exception):
    """The server did not open a WebSocket: its status, and the start of what it said."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"HTTP {status}: {body[:SHOWN_BYTES].decode(errors='replace')}")
        self.status = status
        self.body = body


class SocketFailed(Exception):
    """The connection broke, or the other end does not keep to the protocol."""


class WebSocket:
    """One socket. `receive` has one caller; `send` may have several."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: WSConnection) -> None:
        self._reader = reader
        self._writer = writer
        self._connection = connection
        self._received: list[bytes | str] = []
        self._text: list[str] = []
        self._over = False

    @classmethod
    async def upgrade(
        cls,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        host: str,
        target: str,
        headers: Mapping[str, str],
    ) -> WebSocket:
        """Ask for the upgrade. Raises UpgradeRefused, SocketFailed, OSError; the caller bounds the time."""
        from wsproto import ConnectionType, WSConnection
        from wsproto.events import Request

        # What the other end does not take stays with its sender, and not here.
        writer.transport.set_write_buffer_limits(high=BUFFER_BYTES)
        socket = cls(reader, writer, WSConnection(ConnectionType.CLIENT))
        named = [(name.encode(), value.encode()) for name, value in headers.items()]
        writer.write(socket._connection.send(Request(host=host, target=target, extra_headers=named)))
        await socket._handshake()
        return socket

    async def send(self, message: bytes | str) -> None:
        """Send a binary or text message; waits while the other end does not read. Raises SocketFailed."""
        from wsproto.events import BytesMessage, TextMessage

        if self._over:
            raise SocketFailed("the connection is closed")
        event = BytesMessage(data=message) if isinstance(message, bytes) else TextMessage(data=message)
        try:
            self._writer.write(self._connection.send(event))
            await self._writer.drain()
        except (OSError, RuntimeError) as problem:
            raise SocketFailed(str(problem) or type(problem).__name__) from None

    async def receive(self) -> bytes | str | None:
        """The next text message or piece of a binary one; None when the other end has closed. Raises SocketFailed."""
        while not self._received and not self._over:
            await self._feed()
        return self._received.pop(0) if self._received else None

    async def close(self) -> None:
        """Say goodbye, without waiting for an answer."""
        from wsproto.events import CloseConnection
        from wsproto.utilities import LocalProtocolError

        with contextlib.suppress(OSError, TimeoutError, LocalProtocolError):
            async with asyncio.timeout(CLOSE_LIMIT_S):
                if not self._over:
                    self._writer.write(self._connection.send(CloseConnection(code=1000)))
                    await self._writer.drain()
        self._over = True
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_LIMIT_S):
                await self._writer.wait_closed()
                return
        self._writer.transport.abort()

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _handshake(self) -> None:
        from wsproto.events import AcceptConnection, RejectConnection, RejectData

        status, body = 0, b""
        while True:
            self._take(await self._read())
            for event in self._connection.events():
                if isinstance(event, AcceptConnection):
                    self._sort()  # messages may have come along with the answer
                    return
                if isinstance(event, RejectConnection):
                    status = event.status_code
                    if not event.has_body:
                        raise UpgradeRefused(status, b"")
                if isinstance(event, RejectData):
                    body += event.data[: SHOWN_BYTES - len(body)]
                    if event.body_finished:
                        raise UpgradeRefused(status, body)

    async def _feed(self) -> None:
        data = await self._read()
        if not data:
            self._over = True
            return
        self._take(data)
        self._sort()

    async def _read(self) -> bytes:
        try:
            return await self._reader.read(READ_BYTES)
        except OSError as problem:
            self._over = True
            raise SocketFailed(str(problem) or type(problem).__name__) from None

    def _take(self, data: bytes) -> None:
        from wsproto.utilities import RemoteProtocolError

        try:
            self._connection.receive_data(data or None)
        except RemoteProtocolError as problem:
            self._over = True
            raise SocketFailed(f"no WebSocket: {problem}") from None
        if not data and self._connection.state.name == "CONNECTING":
            raise SocketFailed("the connection was closed before it was a WebSocket")

    def _sort(self) -> None:
        from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
        from wsproto.utilities import RemoteProtocolError

        try:
            for event in self._connection.events():
                if isinstance(event, BytesMessage):
                    self._received.append(bytes(event.data))
                elif isinstance(event, TextMessage):
                    self._add_text(event.data, finished=event.message_finished)
                elif isinstance(event, Ping):
                    self._writer.write(self._connection.send(event.response()))
                elif isinstance(event, CloseConnection):
                    self._over = True
        except RemoteProtocolError as problem:
            self._over = True
            raise SocketFailed(f"no WebSocket: {problem}") from None

    def _add_text(self, text: str, *, finished: bool) -> None:
        self._text.append(text)
        if sum(map(len, self._text)) > TEXT_LIMIT_BYTES:
            self._over = True
            raise SocketFailed(f"a text message of more than {TEXT_LIMIT_BYTES} characters")
        if finished:
            self._received.append("".join(self._text))
            self._text = []
