"""The identify lamps: the host's, lit by its BMC, and that of a disk's bay, lit by ledctl or the kernel's enclosure.

Both are for the person at the rack. Nothing here touches a disk's data. `CannotIdentify` names each failure.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from probes import disks, ipmi
from probes.apart import apart
from probes.host import Host, entries_of
from probes.notes import Notes
from probes.tools import ToolError, ToolMissing, ToolTimeout, ToolUnkillable

NO_BMC = "no_bmc"
NO_DISK = "no_disk"
NO_ENCLOSURE = "no_enclosure"
TOOL_MISSING = "tool_missing"
TIMED_OUT = "timed_out"
TOOL_FAILED = "tool_failed"

LIMIT_S = 15.0
MOST_HOST_S = 255
"""What `chassis identify` takes: one byte (IPMI v2.0, section 28.5)."""
_ACCEPTED = "Chassis identify interval"
_NOT_DONE = ("not supported", "ignored")
"""What ledctl says, sometimes with exit code 0, of a disk that is in no bay it can light."""


class CannotIdentify(Exception):
    """The lamp was not switched. `reason` is one of this module's names, `str()` a sentence for a person."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


async def host_lamp(host: Host, seconds: int) -> None:
    """Light the chassis for so many seconds, up to MOST_HOST_S; 0: put it out. Raises CannotIdentify."""
    if not ipmi.present(host):
        hint = ", though its firmware names a BMC: ipmi_si or ipmi_devintf is not loaded" * ipmi.announced(host)
        raise CannotIdentify(NO_BMC, f"this host has no IPMI device{hint}")
    try:
        said = await ipmi.run(host, "chassis", "identify", str(seconds), limit_s=LIMIT_S)
    except ToolMissing as problem:
        raise CannotIdentify(TOOL_MISSING, str(problem)) from None
    except (ipmi.IpmiSilent, ToolUnkillable) as problem:
        raise CannotIdentify(TIMED_OUT, str(problem)) from None
    except ipmi.IpmiError as problem:
        raise CannotIdentify(TOOL_FAILED, str(problem)) from None
    if _ACCEPTED not in said:
        raise CannotIdentify(TOOL_FAILED, f"ipmitool does not say that the lamp was switched: {said.strip()[:100]!r}")


async def disk_lamp(host: Host, serial: str, *, on: bool) -> None:
    """Light the bay of the disk with this serial number, or put it out. Raises CannotIdentify."""
    name = await _name_of(host, serial)
    try:
        await _with_ledctl(host, name, on=on)
    except ToolMissing:
        if not await apart(lambda: _with_enclosure(host, name, on=on), "enclosure"):
            text = f"ledctl is not installed, and the kernel knows no enclosure with {name}"
            raise CannotIdentify(TOOL_MISSING, text) from None
    except (ToolTimeout, ToolUnkillable) as problem:
        raise CannotIdentify(TIMED_OUT, str(problem)) from None
    except (ToolError, CannotIdentify) as problem:
        if not await apart(lambda: _with_enclosure(host, name, on=on), "enclosure"):
            raise _enclosure_missing(name, problem) from None


async def _name_of(host: Host, serial: str) -> str:
    """The kernel's name of a disk, looked up each time: it may have changed. Serial numbers are compared whole."""
    try:
        found = await disks.collect(host, Notes())
    except OSError as problem:
        raise CannotIdentify(NO_DISK, f"the disks of this host cannot be read: {problem}") from None
    name = next((one.name for one in found if one.serial == serial), None)
    if name is None:
        raise CannotIdentify(NO_DISK, f"this host has no disk with the serial number {serial} now")
    return name


async def _with_ledctl(host: Host, name: str, *, on: bool) -> None:
    """`--listed-only`: all other lamps stay as they are."""
    pattern = "locate" if on else "locate_off"
    result = await host.tools.run("ledctl", "--listed-only", f"{pattern}=/dev/{name}", timeout_s=LIMIT_S)
    if any(words in result.stderr + result.stdout for words in _NOT_DONE):
        raise CannotIdentify(NO_ENCLOSURE, result.last_words())


def _enclosure_missing(name: str, problem: Exception) -> CannotIdentify:
    """Why neither way worked: a disk without a bay, or a tool that failed."""
    result = problem.result if isinstance(problem, ToolError) else None
    said = f"{result.stdout}\n{result.stderr}" if result is not None else str(problem)
    if isinstance(problem, CannotIdentify) or "not supported" in said:
        return CannotIdentify(NO_ENCLOSURE, f"{name} is in no bay with a lamp that ledctl or the kernel can switch")
    return CannotIdentify(TOOL_FAILED, str(problem))


def _with_enclosure(host: Host, name: str, *, on: bool) -> bool:
    """Switch the lamp by the kernel's enclosure (SES); False where there is none. Raises CannotIdentify."""
    device = host.sys("block", name, "device")
    bay = next((one for one in entries_of(device) if one.name.startswith("enclosure_device:")), None)
    if bay is None or not (bay / "locate").exists():
        return False
    wanted = "1" if on else "0"
    try:
        _put(bay / "locate", wanted)
    except OSError as problem:
        raise CannotIdentify(TOOL_FAILED, f"the enclosure of {name} refuses: {problem}") from None
    with suppress(OSError):
        if (is_now := (bay / "locate").read_text().strip()) != wanted:
            raise CannotIdentify(TOOL_FAILED, f"the enclosure of {name} says {is_now!r} after {wanted!r} was set")
    return True


def _put(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
