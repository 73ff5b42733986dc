"""Tells systemd that the agent is up and that its event loop still turns (sd_notify(3), Type=notify, WatchdogSec).

The sign of life comes from a task on the event loop itself: an agent whose loop is stuck is ended and started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass

SIGNS_PER_LIMIT = 4
SEND_LIMIT_S = 0.2


@dataclass(frozen=True, slots=True)
class Notifier:
    """Where to tell; `address` None: nobody listens. `watchdog_s` None: nobody waits for signs of life."""

    address: str | None = None
    watchdog_s: float | None = None

    @classmethod
    def of_environment(cls, environment: MutableMapping[str, str]) -> Notifier:
        """Takes the variables out of the environment: a tool that inherited them could speak for the agent."""
        address = environment.pop("NOTIFY_SOCKET", None) or None
        limit_us, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        meant = address is not None and limit_us.isdigit() and pid in {"", str(os.getpid())}
        return cls(address, int(limit_us) / 1e6 if meant and int(limit_us) > 0 else None)

    def tell(self, *lines: str) -> bool:
        """Send these assignments in one datagram; True when systemd has them."""
        if self.address is None:
            return False
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.settimeout(SEND_LIMIT_S)
            out.sendto("\n".join(lines).encode(), address)
            return True
        return False

    async def run(self) -> None:
        """Ready, then a sign of life four times in the limit, for ever."""
        self.tell("READY=1")
        if self.watchdog_s is None:
            return
        while True:
            self.tell("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_s / SIGNS_PER_LIMIT)
