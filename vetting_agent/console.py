"""Shows the outlook on the host's own screens: painted whole on a virtual terminal, as lines on a serial one.

A screen never holds the agent up: what a device does not take at once is lost there, and only there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vetting_agent import outlook
from vetting_agent.outlook import Outlook

LOOK_EVERY_S = 1.0
PAINT_EVERY_S = 5.0
CLEAR = "\x1b[H\x1b[2J"
RULE = "-" * 8


@dataclass(slots=True)
class Screen:
    """One device. `painted`: it can be cleared, and shows the present; else it is a log of what changed."""

    path: Path
    painted: bool
    shown: str = ""
    shown_at: float = 0.0

    def show(self, now: Outlook, at: float) -> None:
        """Bring the device up to date."""
        text = outlook.text(now)
        if self.painted:
            if text != self.shown and (at - self.shown_at >= PAINT_EVERY_S or _key(text) != _key(self.shown)):
                self._put(CLEAR + "vetting-agent\n\n" + text + "\n", text, at)
            return
        lasting = outlook.text(_lasting(now))
        if lasting != self.shown:
            self._put(f"\n{RULE} vetting-agent {RULE}\n{lasting}\n", lasting, at)

    def _put(self, content: str, shown: str, at: float) -> None:
        self.shown, self.shown_at = shown, at
        with contextlib.suppress(OSError):
            # O_NOCTTY: a terminal that hangs up must not take the agent along.
            handle = os.open(self.path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
            try:
                os.write(handle, content.replace("\n", "\r\n").encode())
            finally:
                os.close(handle)


def screen(path: Path) -> Screen:
    """The virtual terminals are painted, everything else gets lines."""
    return Screen(path, painted=path.name.startswith("tty") and path.name[3:].isdigit())


async def run(look: Callable[[], Outlook], screens: list[Screen]) -> None:
    """For ever."""
    loop = asyncio.get_running_loop()
    try:
        while screens:
            now = look()
            for one in screens:
                one.show(now, loop.time())
            await asyncio.sleep(LOOK_EVERY_S)
    finally:  # the end stays on the screen
        now = look()
        for one in screens:
            one.show(now, loop.time())


def _lasting(now: Outlook) -> Outlook:
    """The same without what changes every second: a serial line may be slow, and is often recorded."""
    return msgspec.structs.replace(now, elapsed_s=None, progress=None, eta_s=None, last_line="")


def _key(text: str) -> str:
    """The part of a text that is worth an immediate repaint: all but the running stage's line and the last log line."""
    return "\n".join(line for line in text.splitlines()[:-1] if not line.startswith("Stage "))
