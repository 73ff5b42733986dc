"""Between an operator's socket and a host's stream: first the ladder, then the bytes, with nothing piling up.

Each direction reads only when the other end has taken what came before. The operator's end acknowledges what it has
shown, and that goes through to the host, which sends no more than a window ahead of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from orchestrator.terminal_failures import (
    BROWSER_SOCKET,
    NO_STREAM,
    NODE_STREAM,
    OPEN_SENT,
    PTY,
    PTY_FAILED,
    STREAM_TIMEOUT,
    TerminalFailed,
)
from orchestrator.terminal_recording import Recording
from orchestrator.terminal_session import TerminalSession
from vetting_agent.wire import TerminalMessage

WATCH_S = 0.5
AHEAD_BYTES = 512 * 1024
"""A host that does not keep to its window is made to wait here."""
ANSWER_MARGIN_S = 2.0
"""The agent's own limits end first, because it knows more about why."""
NODE_SILENCE_S = 45.0
ALIVE_S = 10.0
BROWSER_SILENCE_S = 150.0
"""Browsers let the timers of a page in the background tick once a minute."""
STILL_EVERY_S = 5.0
SAY_LIMIT_S = 2.0

_decode = msgspec.json.Decoder(TerminalMessage).decode


class Over(Exception):
    """The terminal has ended in order; the text says why."""

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status


class Bridge:
    """Drives one session over the operator's socket."""

    def __init__(
        self,
        session: TerminalSession,
        browser: WebSocket,
        record: Callable[[TerminalSession], Recording],
        reason_to_end: Callable[[TerminalSession], str | None],
    ) -> None:
        self._session = session
        self._browser = browser
        self._record = record
        self._reason_to_end = reason_to_end
        self._node: WebSocket | None = None
        self._ready = False
        self._unread = 0
        self._room = asyncio.Event()
        self._heard_browser = self._heard_node = time.monotonic()
        self.recording: Recording | None = None

    async def run(self) -> Over:
        """Until it ends; how. Raises TerminalFailed when it never came to be."""
        works = [asyncio.ensure_future(work) for work in (self._climb_and_show(), self._hear(), self._watch())]
        try:
            await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
            for work in works:
                if work.done():
                    work.result()
        except Over as over:
            return over
        finally:
            for work in works:
                work.cancel()
            await asyncio.wait(works)
            await self._let_node_go()
        raise AssertionError("one of them has ended")

    # --- the ladder ---------------------------------------------------------------------------------------------------

    async def _climb_and_show(self) -> None:
        session, limits = self._session, self._session.limits
        await self._took(BROWSER_SOCKET)
        fetch_s = limits.fetch_s(session.heartbeat_s)
        text = f"The host did not fetch the order within {fetch_s:g} s: no heartbeat of it came"
        await _within(session.sent.wait(), fetch_s, TerminalFailed(STREAM_TIMEOUT, text))
        await self._took(OPEN_SENT)
        self._node = await self._stream()
        self._heard_node = time.monotonic()
        await self._took(NODE_STREAM)
        limit_s = limits.open_s + ANSWER_MARGIN_S
        text = f"The shell showed nothing within {limit_s:g} s"
        await _within(self._shell(self._node), limit_s, TerminalFailed(PTY_FAILED, text))
        self.recording = self._record(session)
        self._ready = True
        await self._took(PTY)
        await self._say("ready", shell=session.shell)
        await self._show(self._node)

    async def _stream(self) -> WebSocket:
        session = self._session
        waited: list[asyncio.Future[Any]] = [session.node, session.answer]
        await asyncio.wait(waited, timeout=session.limits.open_s, return_when=asyncio.FIRST_COMPLETED)
        if session.node.done():
            return session.node.result()
        if session.answer.done():
            text = f"The agent answered the order with {session.answer.result()}, and no stream of it is here"
            raise TerminalFailed(NO_STREAM, text)
        raise TerminalFailed(STREAM_TIMEOUT, f"No stream from the host within {session.limits.open_s:g} s of the order")

    async def _shell(self, node: WebSocket) -> None:
        """Until the agent says that a shell runs."""
        while True:
            message = await self._from_node(node)
            if isinstance(message, TerminalMessage) and message.type == "ready":
                self._session.shell = message.shell
                return
            if isinstance(message, TerminalMessage) and message.type == "failed":
                raise TerminalFailed(PTY_FAILED, message.reason or "The agent gave no reason")
            if message is None:
                raise TerminalFailed(PTY_FAILED, "The host closed its stream before a shell ran")

    async def _took(self, step: str) -> None:
        if step not in self._session.steps:
            self._session.step(step)
        await self._say("step", step=step, elapsed_s=self._session.steps[step])

    # --- the bytes ----------------------------------------------------------------------------------------------------

    async def _show(self, node: WebSocket) -> None:
        while (message := await self._from_node(node)) is not None:
            if isinstance(message, bytes):
                await self._show_bytes(message)
            elif message.type == "ended":
                raise Over(message.reason or "ended", message.status)
            elif message.type == "dropped":
                text = f"{message.bytes or 0} bytes of input were dropped: the program there does not read them"
                await self._say("note", text=text)
        raise Over("the host's connection was lost")

    async def _show_bytes(self, data: bytes) -> None:
        assert self.recording is not None
        self.recording.output(data)
        while self._unread > AHEAD_BYTES:
            self._room.clear()
            await self._room.wait()
        self._unread += len(data)
        await _sent(self._browser.send_bytes(data), "the browser's connection was lost")

    async def _hear(self) -> None:
        """What the operator types and tells."""
        while True:
            message = await self._browser.receive()
            self._heard_browser = time.monotonic()
            if message["type"] == "websocket.disconnect":
                raise Over("the operator left")
            if (data := message.get("bytes")) is not None:
                if self._ready:
                    await self._to_node(data)
            else:
                await self._obey(message.get("text") or "")

    async def _obey(self, text: str) -> None:
        try:
            message = _decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise Over("the operator's side sent what makes no sense") from None
        if message.type == "ack":
            self._unread = max(0, self._unread - max(0, message.bytes or 0))
            self._room.set()
        elif message.type == "resize" and self.recording is not None:
            self.recording.resized(message.columns or 80, message.rows or 24)
        elif message.type == "close":
            raise Over("closed by the operator")
        if message.type in {"ack", "resize"} and self._ready:
            await self._to_node(msgspec.json.encode(message).decode())

    async def _to_node(self, data: bytes | str) -> None:
        assert self._node is not None
        sending = self._node.send_bytes(data) if isinstance(data, bytes) else self._node.send_text(data)
        await _sent(sending, "the host's connection was lost")

    async def _from_node(self, node: WebSocket) -> TerminalMessage | bytes | None:
        try:
            message = await node.receive()
        except (RuntimeError, WebSocketDisconnect):
            return None
        self._heard_node = time.monotonic()
        if message["type"] == "websocket.disconnect":
            return None
        if (data := message.get("bytes")) is not None:
            return bytes(data)
        try:
            return _decode(message.get("text") or "")
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None

    # --- beside it ----------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        asked_at = said_at = began = time.monotonic()
        while True:
            await asyncio.sleep(WATCH_S)
            now = time.monotonic()
            if self._ready and now - said_at > ALIVE_S:
                said_at = now
                await self._tell_node_alive()
            if (reason := self._session.ending or self._reason_to_end(self._session)) is not None:
                raise Over(reason)
            if now - self._heard_browser > BROWSER_SILENCE_S:
                raise Over(f"the operator's side was silent for {BROWSER_SILENCE_S:g} s")
            if self._ready and now - self._heard_node > NODE_SILENCE_S:
                raise Over(f"the host was silent for {NODE_SILENCE_S:g} s")
            if now - began > self._session.limits.limit_s + ANSWER_MARGIN_S:
                raise Over(f"open for {self._session.limits.limit_s:g} s, which is the limit")
            if self.recording is not None:
                self.recording.flush()
            if now - asked_at > STILL_EVERY_S:
                asked_at = now
                if not await self._session.operator.still():
                    raise Over("the operator is logged out, or may no longer do this")

    async def _tell_node_alive(self) -> None:
        """The agent ends a terminal whose server is silent: an operator who only reads must not look like that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SAY_LIMIT_S):
                await self._to_node('{"type":"alive"}')

    async def _say(self, kind: str, **more: Any) -> None:
        text = msgspec.json.encode({"type": kind, **more}).decode()
        await _sent(self._browser.send_text(text), "the browser's connection was lost")

    async def _let_node_go(self) -> None:
        """Tell the agent to end the shell, however this ended; one that comes too late is told as well."""
        node = self._node or (self._session.node.result() if self._session.node.done() else None)
        if node is None or node.application_state is not WebSocketState.CONNECTED:
            return
        with contextlib.suppress(TimeoutError, RuntimeError, WebSocketDisconnect, OSError):
            async with asyncio.timeout(SAY_LIMIT_S):
                await node.send_text('{"type":"close","reason":"the operator\'s side has ended it"}')


async def _within(work: Awaitable[Any], limit_s: float, failure: TerminalFailed) -> None:
    try:
        async with asyncio.timeout(limit_s):
            await work
    except TimeoutError:
        raise failure from None


async def _sent(sending: Awaitable[None], otherwise: str) -> None:
    try:
        await sending
    except (RuntimeError, WebSocketDisconnect, OSError):
        raise Over(otherwise) from None
