"""The event loop that serves many hosts: uvloop's where it is installed, else Python's own.

TLS in Python's own loop takes several times as much CPU a call, and 256 KiB of memory for each connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_fast(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on the fastest loop that is installed."""
    with asyncio.Runner(loop_factory=_factory()) as runner:
        return runner.run(work)


def _factory() -> Any:
    try:
        from uvicorn.loops.uvloop import uvloop_loop_factory
    except ImportError:
        return None
    return uvloop_loop_factory()
