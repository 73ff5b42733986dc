"""A proxy that ends TLS before the server and decides by the head of each request what becomes of it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

HEAD_BYTES = 65536
BAD = b"HTTP/1.1 %d Refused\r\nContent-Length: 5\r\nConnection: close\r\n\r\nproxy"

Decide = Callable[[str, bool], int | None]
"""(path, whether it asks for an upgrade) -> None to pass it on, 0 to keep it waiting for ever, or an HTTP status."""


class TlsProxy:
    """Listens on a free port of loopback while its block lasts.

    Everything runs on one event loop in a thread of its own: a TLS connection that one thread reads and another
    writes at the same moment is not safe in Python, and now and then stands still for ever.
    """

    def __init__(self, upstream: str, data: Path, decide: Decide) -> None:
        host, _, port = upstream.removeprefix("https://").rstrip("/").rpartition(":")
        self._upstream = (host, int(port))
        self._decide = decide
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(data / "tls-certificate.pem", data / "tls-key.pem")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.seen: list[str] = []
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> TlsProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        starting = asyncio.start_server(self._serve, sock=self._listener, ssl=self._context)
        server = self._loop.run_until_complete(starting)
        self._loop.run_forever()
        server.close()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
                path = lines[0].split()[1].decode()
                upgrade = any(line.lower().startswith(b"upgrade:") for line in lines)
                self.seen.append(path)
                verdict = self._decide(path, upgrade)
                if verdict == 0:
                    await asyncio.Event().wait()
                elif verdict is not None:
                    writer.write(BAD % verdict)
                    await writer.drain()
                else:
                    await self._pass_on(lines, upgrade, reader, writer)
            finally:
                writer.close()

    async def _pass_on(
        self, lines: list[bytes], upgrade: bool, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        far_reader, far_writer = await asyncio.open_connection(*self._upstream, ssl=context, limit=HEAD_BYTES)
        if not upgrade:  # each call a connection of its own, so that each head is seen
            lines = [line for line in lines if not line.lower().startswith(b"connection:")] + [b"Connection: close"]
        try:
            far_writer.write(b"\r\n".join(lines) + b"\r\n\r\n")
            both = {asyncio.create_task(_pump(reader, far_writer)), asyncio.create_task(_pump(far_reader, writer))}
            _, other = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for one in other:  # TLS knows no half-closed connection
                one.cancel()
            await asyncio.gather(*both, return_exceptions=True)
        finally:
            far_writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(HEAD_BYTES):
        writer.write(data)
        await writer.drain()
