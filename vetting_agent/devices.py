"""Waits until the drivers have found the machine's devices: a disk that is still being looked for is not lost."""

from __future__ import annotations

from probes.tools import ToolError, ToolRunner
from vetting_agent.logs import LogBook
from vetting_agent.service_manager import beside_systemd

LIMIT_S = 120.0


async def settled(tools: ToolRunner, book: LogBook, limit_s: float = LIMIT_S) -> None:
    """Until udev has nothing left to do. What does not settle in time is told, and the stages see what there is."""
    try:
        await beside_systemd(tools).run("udevadm", "settle", f"--timeout={limit_s:.0f}", timeout_s=limit_s + 5)
    except ToolError as problem:
        book.warn(f"this host's devices are not all settled: {problem}")
