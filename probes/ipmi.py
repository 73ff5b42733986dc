"""Asks the machine's own BMC through ipmitool, which can be killed when the BMC hangs.

ipmitool is run only where the kernel has an IPMI device. Errors: `IpmiError` when the BMC does not answer or answers
what cannot be read, `probes.tools.ToolMissing` when there is no ipmitool, `ToolUnkillable` from the door to processes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from probes.host import Host
from probes.tools import ToolError, ToolMissing, ToolTimeout, ToolUnkillable

ATTEMPTS = 2
RETRY_AFTER_S = 0.5
SENSORS_LIMIT_S = 60.0
"""Reading the whole sensor repository takes 5 to 20 s on many BMCs."""


class IpmiError(Exception):
    """The BMC could not be asked. `str()` says what was tried and what came back."""


class IpmiSilent(IpmiError):
    """The BMC did not answer within the limit."""


@dataclass(frozen=True, slots=True)
class SensorRow:
    """One row of `ipmitool sdr elist`: "PSU2 Status | 11h | ok | 10.2 | Presence detected, Failure detected".

    `reading` is what the sensor says. `status` is ipmitool's own column: "ns" means "no reading", and "ok" means
    nothing at all for a sensor of states, which reads "ok" with a failed supply too.
    """

    name: str
    status: str
    entity: int
    instance: int
    reading: str


@dataclass(frozen=True, slots=True)
class SelEntry:
    """One entry of the system event log. `text` is the row without its number and time."""

    record_id: int
    text: str


def present(host: Host) -> bool:
    """Whether the kernel has a device to talk to a BMC."""
    return any(host.dev(*parts).exists() for parts in (("ipmi0",), ("ipmi", "0"), ("ipmidev", "0")))


def announced(host: Host) -> bool:
    """Whether the firmware's tables name a BMC (SMBIOS type 38), driver loaded or not."""
    return host.sys("firmware", "dmi", "entries", "38-0").exists()


async def run(host: Host, *arguments: str, limit_s: float = 20.0, accept: Collection[int] | None = (0,)) -> str:
    """What ipmitool prints. Raises IpmiError.

    A refusal is asked once more, because some BMCs mix up their answers after an event; silence is not.
    """
    command = f"ipmitool {' '.join(arguments)}"
    for attempt in range(1, ATTEMPTS + 1):
        try:
            result = await host.tools.run("ipmitool", *arguments, timeout_s=limit_s, accept=accept)
        except (ToolMissing, ToolUnkillable):
            raise
        except ToolTimeout:
            raise IpmiSilent(f"The BMC did not answer `{command}` within {limit_s:g} s") from None
        except ToolError as problem:
            if attempt == ATTEMPTS:
                raise IpmiError(f"The BMC did not answer `{command}`: {problem}") from problem
            await asyncio.sleep(RETRY_AFTER_S)
        else:
            if result.truncated:
                raise IpmiError(f"`{command}` printed more than was kept")
            return result.stdout
    raise AssertionError("unreachable: the last attempt returns or raises")


async def sensors(host: Host, cache: Path | None = None) -> list[SensorRow]:
    """All sensors of the BMC. `cache` is a file to keep the sensor repository in, which makes later calls fast.

    Raises IpmiError.
    """
    if cache is None:
        return _read(rows(await run(host, "sdr", "elist", limit_s=SENSORS_LIMIT_S)))
    if not cache.exists():
        try:
            await run(host, "sdr", "dump", str(cache), limit_s=SENSORS_LIMIT_S)
        except BaseException:
            cache.unlink(missing_ok=True)  # half a repository would hide half the sensors from now on
            raise
    return _read(rows(await run(host, "-S", str(cache), "sdr", "elist", limit_s=SENSORS_LIMIT_S)))


def _read(found: list[SensorRow]) -> list[SensorRow]:
    """The rows, where any was read: a BMC that dies under a known repository has all its sensors without reading, which
    is no word about the supplies. Raises IpmiError."""
    if found and all(row.status == "ns" for row in found):
        raise IpmiError(f"The BMC lists {len(found)} sensors, and gives no reading of any: it is starting or failing")
    return found


async def sensors_of_type(host: Host, kind: int, *, limit_s: float) -> list[SensorRow]:
    """The sensors of one type (8: power supply). Reads only those, so that it is faster. Raises IpmiError."""
    return rows(await run(host, "sdr", "type", f"0x{kind:02x}", limit_s=limit_s))


def rows(text: str) -> list[SensorRow]:
    """Parse the table. Raises IpmiError when there is text but no table in it."""
    found = []
    for line in _whole_lines(text, "sensor table"):
        if (row := _row(line)) is not None:
            found.append(row)
        elif "|" in line:  # one row less may be one failed supply less
            raise IpmiError(f"The BMC's sensor table cannot be read: {line[:100]!r}")
    if not found and text.strip():
        raise IpmiError(f"The BMC's sensor table cannot be read: {text.strip().splitlines()[0][:100]!r}")
    return found


def _whole_lines(text: str, what: str) -> list[str]:
    """The lines of a table that came to its end. Raises IpmiError for one that was cut off."""
    if text.strip() and not text.endswith("\n"):
        raise IpmiError(f"The BMC's {what} is cut off: it ends in {text[-60:]!r}")
    return text.split("\n")


def _row(line: str) -> SensorRow | None:
    fields = [field.strip() for field in line.split("|", 4)]
    entity = re.fullmatch(r"([0-9]{1,3})\.([0-9]{1,3})", fields[3]) if len(fields) == 5 else None
    if entity is None:
        return None
    return SensorRow(fields[0], fields[2], int(entity[1]), int(entity[2]), fields[4])


async def serials(host: Host) -> dict[str, str]:
    """Serial numbers by the name of the part, as the BMC's inventory of parts (FRU) has them. Raises IpmiError."""
    # Its exit code is 1 where one of the many parts has no readable record, with the others printed.
    result = await run(host, "fru", "print", limit_s=SENSORS_LIMIT_S, accept=None)
    return fru_serials(result)


def fru_serials(text: str) -> dict[str, str]:
    """{"PSU1 FRU": serial} of `ipmitool fru print`; the product's serial goes before the board's."""
    found: dict[str, str] = {}
    part = ""
    for line in text.splitlines():
        name, _, value = (field.strip() for field in line.partition(":"))
        if name == "FRU Device Description":
            part = re.sub(r"\s*\(ID \d+\)$", "", value)
        elif value and name == "Product Serial":
            found[part] = value
        elif value and name == "Board Serial":
            found.setdefault(part, value)
    return found


async def events(host: Host, count: int) -> list[SelEntry]:
    """The newest `count` entries of the system event log, oldest first. Raises IpmiError."""
    return sel_entries(await run(host, "sel", "elist", "last", str(count), limit_s=SENSORS_LIMIT_S))


def sel_entries(text: str) -> list[SelEntry]:
    """Parse "   7 | 09/08/2021 | 06:34:15 | Power Supply #0x3b | Failure detected | Asserted" (hexadecimal number).

    Before the clock is set it reads "   1 |  Pre-Init  |0000002467| Power Supply PSU2 Status | … | Asserted".
    """
    found = []
    for line in _whole_lines(text, "event log"):
        fields = [field.strip() for field in line.split("|")]
        # The second field is the date: where it is the time of day, the front of the row is missing.
        dated = len(fields) >= 5 and ":" not in fields[1]
        whole = dated or (len(fields) >= 2 and re.match(r"OEM record|Linux kernel panic", fields[1]))
        if whole and re.fullmatch(r"[0-9a-fA-F]{1,8}", fields[0]):
            # A maker's own record has no time: "   3 | OEM record df | 000157 | 302000000137"
            found.append(SelEntry(int(fields[0], 16), " | ".join(fields[3 if len(fields) >= 5 else 1 :])))
        elif len(fields) >= 2:
            raise IpmiError(f"The BMC's event log cannot be read: {line[:100]!r}")
    if not found and text.strip():
        raise IpmiError(f"The BMC's event log cannot be read: {text.strip().splitlines()[0][:100]!r}")
    return found


def new_entries(before: Iterable[SelEntry], after: Iterable[SelEntry]) -> list[SelEntry]:
    """The entries of `after` that came later than the last one of `before`.

    When that one is not among them (more were added than were read, or the log was cleared), all of `after` are new.
    Raises IpmiError where entries were there before and none are now: an empty answer is no log without events.
    """
    last = max((entry.record_id for entry in before), default=None)
    entries = list(after)
    if last is not None and not entries:
        raise IpmiError("The BMC's event log held entries before, and shows none any more")
    if last is None:
        return entries
    places = [place for place, entry in enumerate(entries) if entry.record_id == last]
    return entries[places[-1] + 1 :] if places else entries
