"""One agent's connection: HTTP/1.1 over TLS with one call at a time, at a cost that leaves the CPU to the server.

httpx takes some 300 µs of CPU a call: at thousands of calls a second on the same machine it would measure itself.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import cast

LIMIT_S = 30.0


class CallFailed(Exception):
    """No answer: refused, closed, or too late; `str()` says which."""


class Line(asyncio.Protocol):
    """A connection that is made anew when it was closed."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext) -> None:
        self._host = host
        self._port = port
        self._context = context
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    async def call(self, path: str, headers: bytes, body: bytes) -> tuple[int, bytes]:
        """POST; status and body. Raises CallFailed."""
        try:
            async with asyncio.timeout(LIMIT_S):
                if self._transport is None:
                    await self._connect()
                assert self._transport is not None
                self._answer = asyncio.get_running_loop().create_future()
                head = f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {len(body)}\r\n".encode()
                self._transport.write(b"%s%s\r\n%s" % (head, headers, body))
                return await self._answer
        except TimeoutError:
            self.close()
            raise CallFailed("no answer in time") from None
        except OSError as problem:
            raise CallFailed(f"{type(problem).__name__}") from None
        finally:
            self._answer = None

    async def _connect(self) -> None:
        self._buffer.clear()
        loop = asyncio.get_running_loop()
        await loop.create_connection(
            lambda: self, self._host, self._port, ssl=self._context, server_hostname=self._host
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("closed"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or self._answer is None or self._answer.done():
            return
        head = bytes(self._buffer[:end]).lower()
        size = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if len(self._buffer) < end + 4 + size:
            return
        status, body = int(head[9:12]), bytes(self._buffer[end + 4 : end + 4 + size])
        del self._buffer[: end + 4 + size]
        self._answer.set_result((status, body))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
