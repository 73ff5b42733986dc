"""Switches the host off."""

from __future__ import annotations

from probes.tools import ToolError, ToolRunner
from vetting_agent.logs import LogBook
from vetting_agent.service_manager import beside_systemd

COMMANDS = (("systemctl", "poweroff"), ("shutdown", "-h", "now"))
LIMIT_S = 15.0


async def power_off(tools: ToolRunner, book: LogBook) -> bool:
    """Ask for it, one way after the other; True when one of them took the order."""
    tools = beside_systemd(tools)
    for command in COMMANDS:
        try:
            await tools.run(*command, timeout_s=LIMIT_S)
        except ToolError as problem:
            book.warn(f"{' '.join(command)} failed: {problem}")
        else:
            return True
    book.error("the host could not be powered off")
    return False
