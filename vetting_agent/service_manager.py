"""A way to systemd for the agent's own orders: power-off, and the SSH unit of a hold."""

from __future__ import annotations

from dataclasses import replace

from probes.tools import Isolation, ToolRunner, Tools


def beside_systemd(tools: ToolRunner) -> ToolRunner:
    """The same tools without a PID namespace of their own.

    systemctl in another PID namespace cannot tell who is at the other end of systemd's socket, and gives up:
    "Failed to connect to system scope bus via local transport: No data available" (systemd 257).
    """
    return replace(tools, isolation=Isolation.GROUP) if isinstance(tools, Tools) else tools
