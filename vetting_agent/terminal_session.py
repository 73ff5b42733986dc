"""One terminal of an operator in this held host: a shell on a pseudo-terminal, and the stream that leads to it.

Nothing here grows: what the shell shows is read only as far as the operator's screen has taken what came before
(WINDOW_BYTES), and what is typed for a program that does not read is dropped beyond INPUT_BYTES, and said so.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from probes.host import Host
from probes.tools import Process, ToolError, Tools
from vetting_agent.client import Client
from vetting_agent.errors import Trouble
from vetting_agent.logs import LogBook
from vetting_agent.status import AckStatus
from vetting_agent.terminal_pty import Pty
from vetting_agent.terminal_stream import open_stream
from vetting_agent.web_socket import SocketFailed, WebSocket
from vetting_agent.wire import TerminalMessage, TerminalOrder

WINDOW_BYTES = 128 * 1024
INPUT_BYTES = 256 * 1024
MOST_COLUMNS, MOST_ROWS = 1000, 500
ALIVE_S = 10.0
SILENCE_S = 35.0
LAST_OUTPUT_S = 2.0
LAST_WORD_S = 1.0
SHELLS = ("bash", "sh")

_decode = msgspec.json.Decoder(TerminalMessage).decode


class _Failed(Exception):
    """There is no shell; the text says why."""


class TerminalSession:
    """From the order to the end of the shell and of all that it started."""

    def __init__(
        self, order: TerminalOrder, client: Client, host: Host, book: LogBook, answer: Callable[[AckStatus], None]
    ) -> None:
        self._order = order
        self._client = client
        self._host = host
        self._book = book
        self._answer = answer
        self._answered = False
        self._reason: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._unread = 0
        self._room = asyncio.Event()
        self._typed = bytearray()
        self._typing = asyncio.Event()
        self._dropped = 0
        self._used_at = self._heard_at = time.monotonic()

    def end(self, reason: str) -> None:
        """End it, whatever it is at."""
        if not self._reason.done():
            self._reason.set_result(reason)

    async def run(self) -> None:
        """Never raises but when cancelled."""
        name = f"terminal {self._order.session}"
        self._book.warn(f"{name}: an operator asks for a terminal in this host")
        stream: WebSocket | None = None
        try:
            stream = await self._connect()
            text = await self._serve(stream)
            self._book.info(f"{name}: ended: {text}")
        except (_Failed, Trouble, SocketFailed, OSError) as problem:
            self._book.error(f"{name}: {str(problem) or type(problem).__name__}")
            self._acknowledge(AckStatus.REFUSED)
        finally:
            if stream is not None:
                await stream.close()

    def _acknowledge(self, status: AckStatus) -> None:
        if not self._answered:
            self._answered = True
            self._answer(status)

    async def _connect(self) -> WebSocket:
        try:
            async with asyncio.timeout(self._order.open_s):
                return await self._unless_ended(open_stream(self._client, self._order))
        except TimeoutError:
            raise _Failed(f"no connection to the orchestrator within {self._order.open_s:g} s") from None

    async def _unless_ended(self, work: Coroutine[Any, Any, WebSocket]) -> WebSocket:
        task = asyncio.ensure_future(work)
        try:
            await _any_of(task, self._reason)
            if task.done():
                return task.result()
            raise _Failed(f"ended before it was open: {self._reason.result()}")
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _serve(self, stream: WebSocket) -> str:
        """A shell until it ends or has to; how it ended."""
        screen = Pty(*_size(self._order.columns, self._order.rows))
        try:
            async with asyncio.TaskGroup() as group:
                hearing = group.create_task(self._hear(stream, screen))
                try:
                    return await self._shell(stream, screen, group)
                except (_Failed, ToolError) as problem:
                    await _say(stream, TerminalMessage(type="failed", reason=str(problem)))
                    raise _Failed(str(problem)) from None
                finally:
                    hearing.cancel()
        except* (_Failed, SocketFailed, OSError) as problems:
            raise _first(problems) from None
        finally:
            screen.close()

    async def _shell(self, stream: WebSocket, screen: Pty, group: asyncio.TaskGroup) -> str:
        tools = self._host.tools
        shell = next((path for name in SHELLS if (path := tools.find(name))), None)
        if shell is None or not isinstance(tools, Tools):
            raise _Failed(f"this host has no shell: neither {' nor '.join(SHELLS)} is on the PATH")
        home = Path(os.environ.get("HOME", "/root"))
        folder = home if home.is_dir() else self._host.root
        environment = {"TERM": "xterm-256color", "SHELL": shell, "HOME": str(folder)}
        async with tools.start(shell, "-l", terminal=screen.slave, folder=folder, environment=environment) as process:
            screen.let_go()
            first = await self._first_words(screen, process, shell)
            await _say(stream, TerminalMessage(type="ready", shell=shell))
            self._acknowledge(AckStatus.DONE)
            self._book.info(f"terminal {self._order.session}: {shell} is open to the operator")
            own = [
                group.create_task(self._show(stream, screen, first)),
                group.create_task(self._type(screen)),
                group.create_task(self._watch(stream)),
            ]
            try:
                status = await self._until_over(process, own[0])
                reason = self._reason.result() if self._reason.done() else "exit"
                await _say(stream, TerminalMessage(type="ended", reason=reason, status=status))
            finally:
                for task in own:
                    task.cancel()
        return reason

    async def _first_words(self, screen: Pty, process: Process, shell: str) -> bytes:
        """What the shell shows first: only then it runs for sure."""
        reading, ending = asyncio.ensure_future(screen.read()), asyncio.ensure_future(process.wait())
        try:
            await _any_of(reading, ending, self._reason, limit_s=self._order.open_s)
            if reading.done() and (words := reading.result()):
                return words
            if self._reason.done():
                raise _Failed(f"ended before the shell said a word: {self._reason.result()}")
            if not reading.done():
                raise _Failed(f"{shell} shows nothing within {self._order.open_s:g} s")
            ended = await process.wait()
        finally:
            reading.cancel()
            ending.cancel()
            await asyncio.wait([reading, ending])
        if ended.exec_errno is not None:
            raise _Failed(f"{shell} could not be started: {os.strerror(ended.exec_errno)}")
        raise _Failed(f"{shell} ended at once, with {_how(ended.exit_code, ended.signal)}")

    async def _until_over(self, process: Process, showing: asyncio.Task[None]) -> int | None:
        """The shell's exit status, or None when something else ended it."""
        ending = asyncio.ensure_future(process.wait())
        try:
            await _any_of(ending, self._reason)
            if not ending.done():
                return None
            await _any_of(showing, self._reason, limit_s=LAST_OUTPUT_S)
            return ending.result().exit_code
        finally:
            ending.cancel()
            await asyncio.wait({ending})

    # --- the pumps ----------------------------------------------------------------------------------------------------

    async def _show(self, stream: WebSocket, screen: Pty, first: bytes) -> None:
        data = first
        while data:
            while self._unread >= WINDOW_BYTES:
                self._room.clear()
                await self._room.wait()
            self._unread += len(data)
            await stream.send(data)
            self._used_at = time.monotonic()
            data = await screen.read()

    async def _hear(self, stream: WebSocket, screen: Pty) -> None:
        """What the operator types and tells. The stream is always read: acknowledgements may stand behind input."""
        while (message := await stream.receive()) is not None:
            self._heard_at = time.monotonic()
            if isinstance(message, bytes):
                self._take_input(message)
            else:
                self._obey(message, screen)
        self.end("the operator's side has closed")

    def _take_input(self, data: bytes) -> None:
        self._used_at = time.monotonic()
        kept = data[: max(0, INPUT_BYTES - len(self._typed))]
        self._dropped += len(data) - len(kept)
        self._typed += kept
        self._typing.set()

    def _obey(self, text: str, screen: Pty) -> None:
        try:
            message = _decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
            raise SocketFailed(f"a message that makes no sense: {problem}") from None
        if message.type == "ack":
            self._unread = max(0, self._unread - max(0, message.bytes or 0))
            self._room.set()
        elif message.type == "resize":
            screen.resize(*_size(message.columns, message.rows))
        elif message.type == "close":
            self.end(message.reason or "closed")

    async def _type(self, screen: Pty) -> None:
        try:
            while True:
                await self._typing.wait()
                data = bytes(self._typed[:4096])
                del self._typed[:4096]
                if not self._typed:
                    self._typing.clear()
                await screen.write(data)
        except OSError:  # the shell has ended, which is seen elsewhere
            return

    async def _watch(self, stream: WebSocket) -> None:
        """Time limits, and a sign of life."""
        began = said_at = time.monotonic()
        while True:
            await asyncio.sleep(0.5)
            now = time.monotonic()
            if now - self._used_at > self._order.idle_s:
                self.end(f"unused for {self._order.idle_s:g} s")
            if now - began > self._order.limit_s:
                self.end(f"open for {self._order.limit_s:g} s, which is the limit")
            if now - self._heard_at > SILENCE_S:
                self.end(f"the orchestrator was silent for {SILENCE_S:g} s")
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                await _say(stream, TerminalMessage(type="dropped", bytes=dropped))
            if now - said_at > ALIVE_S:
                said_at = now
                await _say(stream, TerminalMessage(type="alive"))


async def _any_of(*waited: asyncio.Future[Any], limit_s: float | None = None) -> None:
    await asyncio.wait(waited, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)


async def _say(stream: WebSocket, message: TerminalMessage) -> None:
    """A word that must not keep anything waiting: a stuck connection ends elsewhere."""
    try:
        async with asyncio.timeout(LAST_WORD_S):
            await stream.send(msgspec.json.encode(message).decode())
    except (TimeoutError, SocketFailed):
        return


def _size(columns: int | None, rows: int | None) -> tuple[int, int]:
    return max(2, min(columns or 80, MOST_COLUMNS)), max(1, min(rows or 24, MOST_ROWS))


def _how(exit_code: int | None, signal: int | None) -> str:
    return f"exit code {exit_code}" if exit_code is not None else f"signal {signal}"


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    problem: BaseException = group
    while isinstance(problem, BaseExceptionGroup):
        problem = problem.exceptions[0]
    return problem
