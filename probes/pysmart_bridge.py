"""pySMART on our side of the door: its calls, made by our process runner.

pySMART blocks and has no time limit, so that it runs in a worker thread; its `Smartctl` runs programs itself, so that
ours overrides `_exec` and hands the command to the event loop: tools are forked on the main thread alone, because
their parent-death signal is tied to the thread that forked them. Used for discovery and for starting a test only; its
parsing of smartctl's text loses failed NVMe self-tests and the exit status.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
from collections.abc import Callable
from typing import Any

from probes.tools import ToolResult, ToolRunner

Action = Callable[[Any], object]
"""What to do with a pySMART `Smartctl`, for instance `lambda smartctl: smartctl.scan()`."""


async def call(tools: ToolRunner, action: Action, *, timeout_s: float) -> ToolResult:
    """Let pySMART do `action`, and return the last run of smartctl that it made. Any exit code is accepted.

    Raises a ToolError. A cancel kills smartctl and waits for the thread.
    """
    bridge = _Bridge(asyncio.get_running_loop(), tools, timeout_s)
    worker = asyncio.get_running_loop().run_in_executor(None, _work, bridge, action)
    worker.add_done_callback(_seen)
    try:
        await asyncio.shield(worker)
    except asyncio.CancelledError:
        bridge.cancel()
        await asyncio.wait([worker])
        with contextlib.suppress(BaseException):
            worker.result()
        raise
    assert bridge.result is not None, "the action ran no program"
    return bridge.result


def _seen(worker: asyncio.Future[None]) -> None:
    """Whoever is cancelled a second time does not wait for it: what it ends with is then nobody's, and no complaint."""
    if not worker.cancelled():
        worker.exception()


class _Bridge:
    """The way from a worker thread back to the event loop, for one call."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tools: ToolRunner, timeout_s: float) -> None:
        self._loop = loop
        self._tools = tools
        self._timeout_s = timeout_s
        self._running: asyncio.Task[ToolResult] | None = None
        self._cancelled = False
        self.result: ToolResult | None = None

    def run(self, argv: list[str]) -> ToolResult:
        """Called in the worker thread. Returns when the tool is gone, also after a cancel."""
        handed_over: concurrent.futures.Future[ToolResult] = concurrent.futures.Future()
        self._loop.call_soon_threadsafe(self._begin, argv, handed_over)
        self.result = handed_over.result()
        return self.result

    def _begin(self, argv: list[str], handed_over: concurrent.futures.Future[ToolResult]) -> None:
        """In the event loop. Not run_coroutine_threadsafe: its future is done before a cancelled tool is killed."""
        if self._cancelled:
            handed_over.cancel()
            return
        self._running = asyncio.ensure_future(self._tools.run(*argv, timeout_s=self._timeout_s, accept=None))
        self._running.add_done_callback(lambda task: _hand_over(task, handed_over))

    def cancel(self) -> None:
        """Called in the event loop."""
        self._cancelled = True
        if self._running is not None:
            self._running.cancel()


def _hand_over(task: asyncio.Task[ToolResult], to: concurrent.futures.Future[ToolResult]) -> None:
    if task.cancelled():
        to.cancel()
    elif (problem := task.exception()) is not None:
        to.set_exception(problem)
    else:
        to.set_result(task.result())


def _work(bridge: _Bridge, action: Action) -> None:
    """In the worker thread."""
    action(_smartctl(bridge))


def _smartctl(bridge: _Bridge) -> Any:
    language, logger_class = os.environ.get("LANG"), logging.getLoggerClass()
    from pySMART.smartctl import Smartctl

    # The import sets both for the whole process.
    logging.setLoggerClass(logger_class)
    if language is None:
        os.environ.pop("LANG", None)
    else:
        os.environ["LANG"] = language

    class Bridged(Smartctl):  # type: ignore[misc]  # pySMART has no types
        def _exec(self, cmd: list[str]) -> tuple[list[str], int]:
            result = bridge.run(cmd)
            return result.stdout.splitlines(), -1 if result.exit_code is None else result.exit_code

    return Bridged(smartctl_path="smartctl", options=[])
