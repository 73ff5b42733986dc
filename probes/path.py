"""The way from one port to another host: does it carry full-size packets, and does anybody else use our address?

A child (`path_child.py`) sends ARP probes for the port's own IPv4 address (RFC 5227) and ICMP echoes that must not be
fragmented, a small one and one of the port's whole MTU. IPv4 only.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from probes.host import Host
from probes.tools import ToolError

CHILD = (sys.executable, "-I", str(Path(__file__).with_name("path_child.py")))
LIMIT_S = 20.0


@dataclass(frozen=True, slots=True)
class PathReading:
    """What came back. `small` and `full`: whether an echo of that size did; None where it was not tried."""

    small: bool | None = None
    full: bool | None = None
    mtu: int | None = None
    claimed_by: tuple[str, ...] = ()
    """MAC addresses of others that answer for our IP address."""
    problem: str = ""
    """Why nothing could be found out: no right to raw sockets, a child that fails."""


async def check(host: Host, device: str, source: str, target: str) -> PathReading | None:
    """None for another family than IPv4."""
    if ":" in source or ":" in target:
        return None
    asked = json.dumps({"device": device, "source": source, "target": target})
    try:
        result = await host.tools.run(*CHILD, asked, timeout_s=LIMIT_S)
        said = json.loads(result.stdout)
        small, full, mtu = said["small"], said["full"], said["mtu"]
        claimed = tuple(sorted({str(mac) for mac in said["claimed_by"]}))
    except ToolError as problem:
        return PathReading(problem=problem.result.last_words() if problem.result else str(problem))
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        return PathReading(problem=f"the answer could not be read: {problem!r:.80}")
    if not isinstance(small, bool) or not isinstance(full, bool) or not isinstance(mtu, int):
        return PathReading(problem="the answer could not be read")
    return PathReading(small, full, mtu, claimed)
