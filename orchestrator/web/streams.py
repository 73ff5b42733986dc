"""Server-sent events: what a stream looks like, how long it lives, and when it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec
from starlette.requests import Request
from starlette.responses import StreamingResponse

from orchestrator.web.access import asker
from orchestrator.web.accounts import Accounts
from orchestrator.web.guard import Guard

CHECK_S = 20.0
"""How often a stream looks whether its session is still alive, and says that it is alive itself."""
LOGIN = b"event: login\ndata: {}\n\n"


@dataclass(frozen=True, slots=True)
class Streams:
    """`closing` is set when the server ends."""

    accounts: Accounts
    closing: asyncio.Event

    def answer(self, request: Request, events: AsyncIterator[bytes]) -> StreamingResponse:
        """The events as an answer; they end with the session and the server."""
        asker(request)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._guarded(request, events), media_type="text/event-stream", headers=headers)

    async def _guarded(self, request: Request, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        yield b"retry: 1000\n\n"
        checked_at = time.monotonic()
        async for event in events:
            if time.monotonic() - checked_at > CHECK_S:
                checked_at = time.monotonic()
                guard = Guard(app=request.app, accounts=self.accounts)
                # Watching is no use of a session: a page left open must not keep it alive for ever.
                if await guard.who(request, "", touch=False) is None:
                    yield LOGIN
                    return
                yield b": alive\n\n"
            if event:
                yield event

    async def pause(self, seconds: float) -> bool:
        """Wait; True when the server ends."""
        try:
            async with asyncio.timeout(seconds):
                await self.closing.wait()
        except TimeoutError:
            return False
        return True


def event(name: str, data: object, event_id: str | None = None) -> bytes:
    """One event. `data` becomes JSON, which has no line breaks."""
    head = f"event: {name}\n" + (f"id: {event_id}\n" if event_id else "")
    return head.encode() + b"data: " + msgspec.json.encode(data) + b"\n\n"
