"""Blocking reads off the event loop, in threads that can be left behind.

A read of a kernel file can hang for minutes when the device behind it is sick. The loop must go on meanwhile (the
heartbeat lives there), and neither a cancel nor the end of the process may wait for such a read; hence
daemon threads instead of the executor, which joins its threads at exit.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")


async def apart(work: Callable[[], ResultT], name: str = "reader") -> ResultT:
    """The result of `work()`, called in a thread of its own. Raises what it raises.

    When the caller is cancelled the thread is left alone and its result dropped.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[ResultT] = loop.create_future()

    def settle(put: Callable[[Any], None], value: object) -> None:
        if not future.done():
            put(value)

    def body() -> None:
        put: Callable[[Any], None] = future.set_result
        value: object
        try:
            value = work()
        except Exception as problem:
            put, value = future.set_exception, problem
        with contextlib.suppress(RuntimeError):  # the loop may be closed by now
            loop.call_soon_threadsafe(settle, put, value)

    threading.Thread(target=body, name=name, daemon=True).start()
    return await future
