"""`vetting-orchestrator terminal RUN`: a shell in a held host, in the operator's own terminal."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import sys
import termios
import tty
import uuid
from collections.abc import Iterator
from typing import Any

import msgspec

from orchestrator.cli_text import complain
from orchestrator.operator_client import NoServer, OperatorClient, Refused
from orchestrator.terminal_failures import (
    BROWSER_SOCKET,
    FAILURES,
    MINT,
    NODE_STREAM,
    OPEN_SENT,
    PTY,
    PTY_FAILED,
    STEPS,
    STREAM_TIMEOUT,
    UPGRADE,
)
from vetting_agent.web_socket import SocketFailed, UpgradeRefused, WebSocket

LEAVE = b"\x1d"
ALIVE_S = 20.0
PIECE = 4096
MARGIN_S = 5.0
LATE = {OPEN_SENT: STREAM_TIMEOUT, NODE_STREAM: STREAM_TIMEOUT, PTY: PTY_FAILED}


class _Over(Exception):
    """The terminal has ended: the exit code of this command, and what to say once the screen is ours again."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def main(arguments: argparse.Namespace, client: OperatorClient) -> int:
    """The exit status of the shell; 1 when there was none."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        complain("vetting-orchestrator: terminal needs a terminal of its own on standard input and output")
        return 2
    correlation = uuid.uuid4().hex
    columns, rows = shutil.get_terminal_size()
    try:
        body = {"columns": columns, "rows": rows}
        minted = client.post(f"/runs/{arguments.run}/terminal", body, dict[str, Any], correlation=correlation)
    except Refused as refusal:
        complain(_failure(MINT, str(refusal), correlation))
        return 1
    complain(str(minted["notice"]))
    complain("Ctrl-] ends it.")
    try:
        over = asyncio.run(_Session(minted, correlation).run(client.socket_path))
    except (SocketFailed, UpgradeRefused, OSError) as problem:
        over = _Over(1, _failure(UPGRADE, str(problem) or type(problem).__name__, correlation))
    complain(f"\n{over}")
    return over.code


def _failure(code: str, detail: str, correlation: str) -> str:
    told = FAILURES[code]
    return f"{code}: {told.meaning}\nReason: {detail}\nNext: {told.next_action}\nCorrelation id: {correlation}"


class _Session:
    def __init__(self, minted: dict[str, Any], correlation: str) -> None:
        self._token = str(minted["token"])
        self._correlation = correlation
        self._at = BROWSER_SOCKET
        self._ready = asyncio.Event()
        self._resizing: set[asyncio.Task[None]] = set()
        self._waits = {str(step): float(limit) for step, limit in minted["waits_s"].items()}

    async def run(self, socket_path: str) -> _Over:
        async with asyncio.timeout(self._limit_s()):
            try:
                reader, writer = await asyncio.open_unix_connection(socket_path)
            except OSError as problem:
                raise NoServer(f"the vetting-orchestrator at {socket_path} does not answer: {problem}") from None
            stream = await WebSocket.upgrade(reader, writer, "operator", "/operator/v1/terminal/socket", {})
        try:
            await stream.send(msgspec.json.encode({"token": self._token}).decode())
            with _raw_terminal():
                return await self._attend(stream)
        finally:
            await stream.close()

    def _limit_s(self) -> float:
        """For the step that is waited for; the server's own limit ends first."""
        return self._waits[self._at] + MARGIN_S

    async def _attend(self, stream: WebSocket) -> _Over:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGWINCH, lambda: self._resized(stream))
        works = [asyncio.ensure_future(work) for work in (self._show(stream), self._type(stream), self._alive(stream))]
        try:
            await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
            for work in works:
                if work.done():
                    work.result()
        except _Over as over:
            return over
        finally:
            loop.remove_signal_handler(signal.SIGWINCH)
            for task in (*works, *self._resizing):
                task.cancel()
            await asyncio.wait({*works, *self._resizing})
        raise AssertionError("one of them has ended")

    async def _show(self, stream: WebSocket) -> None:
        while True:
            try:
                async with asyncio.timeout(None if self._ready.is_set() else self._limit_s()):
                    message = await stream.receive()
            except TimeoutError:
                code = LATE.get(self._at, UPGRADE)
                raise self._failed(code, "The server said nothing more in time") from None
            if message is None:
                raise self._failed(UPGRADE, "The server closed the connection")
            if isinstance(message, bytes):
                await _write(message)
                await stream.send(f'{{"type":"ack","bytes":{len(message)}}}')
            else:
                await self._obey(stream, msgspec.json.decode(message))

    async def _obey(self, stream: WebSocket, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "step":
            steps = list(STEPS)
            self._at = steps[min(steps.index(message["step"]) + 1, len(steps) - 1)]
            complain(f"{message['step']:<16}{message['elapsed_s']:.2f} s\r")
        elif kind == "ready":
            self._ready.set()
            await self._tell_size(stream)
        elif kind == "note":
            complain(f"\r\n{message['text']}\r")
        elif kind == "failed":
            raise self._failed(message["code"], message["detail"])
        elif kind == "ended":
            raise _Over(message.get("status") or 0, f"The terminal has ended: {message['reason']}")

    def _failed(self, code: str, detail: str) -> _Over:
        return _Over(1, _failure(code, detail, self._correlation))

    async def _type(self, stream: WebSocket) -> None:
        await self._ready.wait()
        loop = asyncio.get_running_loop()
        while True:
            ready: asyncio.Future[None] = loop.create_future()
            loop.add_reader(0, _tell, ready)
            try:
                await ready
            finally:
                loop.remove_reader(0)
            data = os.read(0, PIECE)
            if not data or LEAVE in data:
                raise _Over(0, "Left: the shell and all it started are ended")
            await stream.send(data)

    async def _alive(self, stream: WebSocket) -> None:
        while True:
            await asyncio.sleep(ALIVE_S)
            await stream.send('{"type":"alive"}')

    def _resized(self, stream: WebSocket) -> None:
        if self._ready.is_set():
            task = asyncio.ensure_future(self._tell_size(stream))
            self._resizing.add(task)
            task.add_done_callback(self._resizing.discard)

    async def _tell_size(self, stream: WebSocket) -> None:
        columns, rows = os.get_terminal_size()
        await stream.send(f'{{"type":"resize","columns":{columns},"rows":{rows}}}')


def _tell(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _write(data: bytes) -> None:
    """To the screen, at the screen's pace: acknowledged is what was shown."""
    await asyncio.to_thread(_write_all, data)


def _write_all(data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(1, rest) :]


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """Every key goes to the host, Ctrl-C too."""
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
