"""Opens the SSH server for a hold, and shuts it afterwards. Outside the live image there is none to open.

Which key it shows to who comes: in the live image one that is made when it is opened for the first time.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Protocol

from probes.host import Host, text_of
from probes.tools import ToolError, ToolRunner
from vetting_agent.service_manager import beside_systemd

LIMIT_S = 30.0
HOST_KEY = ("ssh", "ssh_host_ed25519_key.pub")


class Door(Protocol):
    """What a hold needs of an SSH server that runs only for it."""

    async def open(self) -> str | None:
        """Start it; what went wrong, or None."""
        ...

    async def shut(self) -> str | None:
        """Stop it; what went wrong, or None."""
        ...


class OpenDoor:
    """The host has its own SSH server, which is nobody's business here."""

    async def open(self) -> str | None:
        return None

    async def shut(self) -> str | None:
        return None


@dataclass(frozen=True, slots=True)
class UnitDoor:
    """A systemd unit."""

    tools: ToolRunner
    unit: str

    async def open(self) -> str | None:
        return await self._systemctl("start")

    async def shut(self) -> str | None:
        # Without waiting: in the agent's own stop hook systemd would wait for itself.
        return await self._systemctl("stop", "--no-block")

    async def _systemctl(self, *words: str) -> str | None:
        try:
            await self.tools.run("systemctl", *words, self.unit, timeout_s=LIMIT_S)
        except ToolError as problem:
            return f"systemctl {words[0]} {self.unit}: {problem}"
        return None


def host_key_of(host: Host) -> str | None:
    """The fingerprint of the host's SSH key, as `ssh` shows it to newcomers; None: there is none yet."""
    words = (text_of(host.etc(*HOST_KEY)) or "").split()
    try:
        digest = hashlib.sha256(base64.b64decode(words[1], validate=True)).digest()
    except (IndexError, binascii.Error):
        return None
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def door_of(tools: ToolRunner, unit: str | None) -> Door:
    """The unit's door, or none at all."""
    return OpenDoor() if unit is None else UnitDoor(beside_systemd(tools), unit)
