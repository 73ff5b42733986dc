"""Blocking work beside the event loop, in daemon threads: a read that hangs must not keep the agent alive."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable
from typing import TypeVar

ResultT = TypeVar("ResultT")


async def in_thread(work: Callable[[], ResultT]) -> ResultT:
    """The result of `work`, run in a thread of its own. On a cancel the thread is left to finish alone.

    Raises what it raises, and OSError on a host that has no room for one more thread.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[ResultT] = loop.create_future()

    def settle(result: ResultT | None, problem: BaseException | None) -> None:
        if done.done():
            return
        if problem is not None:
            done.set_exception(problem)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def body() -> None:
        result, problem = None, None
        try:
            result = work()
        except Exception as caught:  # handed to the waiting task
            problem = caught
        try:
            loop.call_soon_threadsafe(settle, result, problem)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    try:
        threading.Thread(target=body, daemon=True, name=getattr(work, "__name__", "work")).start()
    except RuntimeError as problem:  # as a failed fork, which is an OSError
        raise OSError(errno.EAGAIN, f"{problem}: this host has too many processes, or too little memory") from None
    return await done
