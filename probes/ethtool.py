"""Driver, firmware and permanent address of a network interface, as `ethtool -i` and `ethtool -P` print them.

On the real machine they come from the kernel calls behind those commands (SIOCETHTOOL of linux/ethtool.h), which
take microseconds where the tool takes its start-up time; on a recorded one from the recorded tool.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from dataclasses import dataclass

from probes.host import Host
from probes.notes import Notes
from probes.tools import ToolError

_SIOCETHTOOL = 0x8946
_GET_DRIVER_INFO = 0x03
_GET_PERMANENT_ADDRESS = 0x20
_LONGEST_ADDRESS = 32
# struct ethtool_drvinfo: cmd, driver, version, fw_version, bus_info, erom_version, reserved, five counts.
_DRIVER_INFO = struct.Struct("=I32s32s32s32s32s12s5I")
TIME_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What the driver tells of itself and of the card; None where it does not."""

    driver: str | None = None
    driver_version: str | None = None
    firmware: str | None = None
    permanent_mac: str | None = None


async def facts(host: Host, name: str, notes: Notes) -> Facts:
    """The facts of one interface. A failure is a note."""
    try:
        return from_kernel(name) if host.is_real else await from_tool(host, name)
    except (OSError, ToolError) as problem:
        notes.add(f"nic {name}: ethtool", problem)
        return Facts()


def from_kernel(name: str) -> Facts:
    """By kernel call. Raises OSError."""
    data = _call(name, _DRIVER_INFO.pack(_GET_DRIVER_INFO, *[b""] * 6, *[0] * 5))
    _, driver, version, firmware, *_ = _DRIVER_INFO.unpack(data)
    return Facts(_text(driver), _text(version), _text(firmware), _permanent_address(name))


async def from_tool(host: Host, name: str) -> Facts:
    """By the tool. Raises ToolError."""
    info = await host.tools.run("ethtool", "-i", name, timeout_s=TIME_LIMIT_S)
    address = await host.tools.run("ethtool", "-P", name, timeout_s=TIME_LIMIT_S)
    values = dict(line.partition(": ")[::2] for line in info.stdout.splitlines())
    return Facts(
        driver=values.get("driver") or None,
        driver_version=values.get("version") or None,
        firmware=_known(values.get("firmware-version", "")),
        permanent_mac=address.stdout.partition("Permanent address: ")[2].strip() or None,
    )


def _permanent_address(name: str) -> str | None:
    try:
        data = _call(name, struct.pack(f"=II{_LONGEST_ADDRESS}s", _GET_PERMANENT_ADDRESS, _LONGEST_ADDRESS, b""))
    except OSError:  # not every driver knows it
        return None
    _, size, address = struct.unpack(f"=II{_LONGEST_ADDRESS}s", data)
    return ":".join(f"{byte:02x}" for byte in address[:size]) or None


def _call(name: str, request: bytes) -> bytes:
    """One SIOCETHTOOL: `struct ifreq` holds the name and a pointer to the request, which the kernel fills in."""
    data = array.array("B", request)
    pointer, _ = data.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        fcntl.ioctl(door, _SIOCETHTOOL, struct.pack("16sP16x", name.encode()[:15], pointer))
    return data.tobytes()


def _text(field: bytes) -> str | None:
    return _known(field.partition(b"\x00")[0].decode("ascii", errors="replace"))


def _known(text: str) -> str | None:
    text = text.strip()
    return None if text in {"", "N/A", "n/a"} else text
