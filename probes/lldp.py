"""The neighbour at the other end of a cable, as it announces itself by LLDP (IEEE 802.1AB).

Frames are caught by a child (`lldp_child.py`) while something else goes on, for switches send one in 30 s. What they
say comes from outside: it is bounded and made printable here. A NIC whose firmware answers LLDP itself shows none.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from probes.host import Host
from probes.printable import printable
from probes.tools import ToolError

CHILD = (sys.executable, "-I", str(Path(__file__).with_name("lldp_child.py")))
_HEADER = 14
_ETHERTYPE = 0x88CC
_CHASSIS, _PORT, _PORT_TEXT, _SYSTEM = 1, 2, 4, 5
_MAC_KINDS = {_CHASSIS: 4, _PORT: 3}
"""The subtype of an identifier that is a MAC address."""


@dataclass(frozen=True, slots=True)
class Neighbor:
    """What stands at the other end."""

    system: str
    """Its name, else its chassis identifier."""
    port: str
    description: str = ""

    def __str__(self) -> str:
        return f"{self.system} {self.port}".strip()


def parse(frame: bytes) -> Neighbor | None:
    """The neighbour that sent an Ethernet frame; None when that is no sound LLDP frame."""
    if len(frame) < _HEADER or int.from_bytes(frame[12:_HEADER], "big") != _ETHERTYPE:
        return None
    values: dict[int, bytes] = {}
    place = _HEADER
    while place + 2 <= len(frame):
        head = int.from_bytes(frame[place : place + 2], "big")
        kind, length = head >> 9, head & 0x1FF
        value = frame[place + 2 : place + 2 + length]
        if kind == 0 or len(value) < length:
            break
        values.setdefault(kind, value)
        place += 2 + length
    chassis, port = _identifier(values, _CHASSIS), _identifier(values, _PORT)
    if not chassis or not port:
        return None
    return Neighbor(_text(values.get(_SYSTEM, b"")) or chassis, port, _text(values.get(_PORT_TEXT, b"")))


def _identifier(values: dict[int, bytes], kind: int) -> str:
    value = values.get(kind, b"")
    if len(value) == 7 and value[0] == _MAC_KINDS[kind]:
        return value[1:].hex(":")
    return _text(value[1:])


def _text(value: bytes) -> str:
    return printable(value.decode("utf-8", errors="replace"), 100)


class Listener:
    """Listens on ports in the background. `heard` is the neighbour by port; `problem` why nothing can be heard."""

    def __init__(self, host: Host, ports: Sequence[str], *, limit_s: float) -> None:
        self.heard: dict[str, Neighbor] = {}
        self.problem = ""
        self._arrived = asyncio.Event()
        self._task = asyncio.create_task(self._listen(host, tuple(ports), limit_s)) if ports else None

    async def _listen(self, host: Host, ports: Sequence[str], limit_s: float) -> None:
        asked = json.dumps({"ports": ports, "seconds": limit_s})
        try:
            await host.tools.run(*CHILD, asked, timeout_s=limit_s + 10, on_line=self._take)
        except ToolError as problem:
            self.problem = str(problem)

    def _take(self, line: str) -> None:
        try:
            said = json.loads(line)
            port, neighbor = str(said["port"]), parse(bytes.fromhex(said["frame"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        if neighbor is not None:
            self.heard[port] = neighbor
            self._arrived.set()

    async def wait_for(self, ports: Sequence[str], limit_s: float) -> None:
        """Until all of these are heard, the time is up, or the listening has ended."""
        ends = asyncio.get_running_loop().time() + limit_s
        while not set(ports) <= set(self.heard) and self._task is not None and not self._task.done():
            left = ends - asyncio.get_running_loop().time()
            if left <= 0:
                return
            self._arrived.clear()
            arrived = asyncio.create_task(self._arrived.wait())
            await asyncio.wait({arrived, self._task}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            arrived.cancel()
            await asyncio.wait({arrived})

    async def end(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
