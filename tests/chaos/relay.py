"""A relay between host and orchestrator, as a program: with a certificate it ends TLS and spoils answers, without one
it passes bytes on, later or not to the end.

    python -m tests.chaos.relay --listen ADDRESS --to ADDRESS:PORT [--certificate DIR]

It prints a line of JSON with its port, then one for each request. On its standard input it takes lines of JSON:
{"delay_s": 1} each way; {"cut": 900}: an answer ends after so many bytes; {"fault": NAME, "verbs": [..]}; {}: no fault.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import ssl
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PAGE = b"<html><head><title>Sorry</title></head><body>nobody here</body></html>"
STATUS = {"500": 500, "502": 502, "429": 429, "404": 404}
"""Faults that are answered in the orchestrator's place; what is asked does not reach it."""
HUGE_BYTES = 10 * 2**20
LIMIT = 2**26
ROUTED_S = 600.0


@dataclass
class Orders:
    """What is wrong at the moment."""

    delay_s: float = 0.0
    cut: int = 0
    fault: str = ""
    verbs: list[str] = field(default_factory=list)
    body: dict[str, Any] = field(default_factory=dict)
    """Laid over the answers, for the fault `rewrite`; the answer itself for `refuse` (422)."""

    def take(self, order: dict[str, Any]) -> None:
        fresh = Orders(**order)
        self.__dict__.update(fresh.__dict__)

    def fault_of(self, path: str, upgrade: bool) -> str:
        parts = path.split("?")[0].split("/")
        verb = "terminal" if upgrade else (parts[5] if len(parts) > 5 else "")
        return self.fault if not self.verbs or verb in self.verbs else ""


async def pass_bytes(near: asyncio.StreamReader, far: asyncio.StreamWriter, orders: Orders, *, back: bool) -> None:
    """One direction: each piece `delay_s` after it came; an answer is cut where it is to be."""
    loop, waiting = asyncio.get_running_loop(), asyncio.Queue[tuple[float, bytes]]()

    async def give() -> None:
        sent = 0
        while True:
            due, data = await waiting.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if back and orders.cut and sent + len(data) > orders.cut:
                far.write(data[: max(0, orders.cut - sent)])
                await far.drain()
                far.close()
                return
            far.write(data)
            sent += len(data)
            if not data:
                far.close()
                return
            await far.drain()

    giving = asyncio.ensure_future(give())
    with contextlib.suppress(OSError):
        while data := await near.read(65536):
            waiting.put_nowait((loop.time() + orders.delay_s, data))
        waiting.put_nowait((loop.time() + orders.delay_s, b""))
    with contextlib.suppress(OSError):
        await giving


async def splice(
    near: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    far: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    orders: Orders,
) -> None:
    await asyncio.gather(
        pass_bytes(near[0], far[1], orders, back=False), pass_bytes(far[0], near[1], orders, back=True)
    )


def answer(status: int, content: bytes, *more: str, length: int | None = None) -> bytes:
    head = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(content) if length is None else length}"]
    return "\r\n".join([*head, "Connection: close", *more, "", ""]).encode() + content


def spoiled(fault: str, whole: bytes, orders: Orders) -> bytes:
    """What becomes of the orchestrator's own answer."""
    head, _, content = whole.partition(b"\r\n\r\n")
    match fault:
        case "garbage":
            return answer(200, b"\x00\xff\xfe{]garbage")
        case "half":
            return answer(200, content[: len(content) // 2], length=max(2, len(content)))
        case "huge":
            return answer(200, b'{"padding": "' + b"x" * HUGE_BYTES + b'"}')
        case "nothing":
            return b""
        case "rewrite" if b" 200 " in head.split(b"\r\n")[0] + b" ":
            return answer(200, json.dumps(json.loads(content) | orders.body).encode())
    return whole


class TlsRelay:
    def __init__(self, to: tuple[str, int], orders: Orders) -> None:
        self._to = to
        self._orders = orders
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await self._request(reader, writer)
        writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.rstrip(b"\r\n").split(b"\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
        body = await reader.readexactly(int(fields.get(b"content-length", b"0")))
        path, upgrade = lines[0].split()[1].decode(), b"upgrade" in fields
        fault = self._orders.fault_of(path, upgrade)
        say({"path": path, "fault": fault})
        if fault == "silent":
            await asyncio.sleep(ROUTED_S)
            return
        if fault == "refuse":
            writer.write(answer(422, json.dumps(self._orders.body).encode(), "Content-Type: application/json"))
            await writer.drain()
            return
        if fault in STATUS:
            more = ["Retry-After: 3"] if fault == "429" else ["Content-Type: text/html"]
            writer.write(answer(STATUS[fault], PAGE, *more))
            await writer.drain()
            return
        far = await asyncio.open_connection(*self._to, ssl=self._context, limit=LIMIT)
        if upgrade:
            far[1].write(head + body)
            await splice((reader, writer), far, Orders())
            return
        kept = [line for line in lines if not line.lower().startswith(b"connection:")] + [b"Connection: close"]
        far[1].write(b"\r\n".join(kept) + b"\r\n\r\n" + body)
        writer.write(spoiled(fault, await far[0].read(), self._orders))
        far[1].close()
        await writer.drain()


def say(fact: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(fact) + "\n")
    sys.stdout.flush()


async def listen(orders: Orders) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        orders.take(json.loads(line))
        say({"orders": line.decode().strip()})


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", required=True)
    parser.add_argument("--to", required=True)
    parser.add_argument("--certificate", type=Path)
    arguments = parser.parse_args()
    host, _, port = arguments.to.rpartition(":")
    to, orders = (host, int(port)), Orders()

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await splice((reader, writer), await asyncio.open_connection(*to), orders)
        writer.close()

    context = None
    if arguments.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(arguments.certificate / "tls-certificate.pem", arguments.certificate / "tls-key.pem")
    serve = TlsRelay(to, orders).serve if context else plain
    server = await asyncio.start_server(serve, arguments.listen, 0, ssl=context, limit=LIMIT)
    say({"port": server.sockets[0].getsockname()[1]})
    await listen(orders)


if __name__ == "__main__":
    asyncio.run(main())
