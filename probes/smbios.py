"""SMBIOS tables as `dmidecode` prints them: one run, split into structures with named values.

Source: dmidecode(8), and the SMBIOS reference specification (DSP0134) for what the types mean.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from probes.host import Host

PROCESSOR = 4
MEMORY_ARRAY = 16
MEMORY_DEVICE = 17
WANTED = (PROCESSOR, MEMORY_ARRAY, MEMORY_DEVICE)
DEVICE_ADDRESS = 20
POWER_SUPPLY = 39
MAPPED = (MEMORY_DEVICE, DEVICE_ADDRESS)
"""What tells which module an address lies on: modules, and "Memory Device Mapped Address"."""
TIME_LIMIT_S = 10.0

_ARRAY = "Memory Array Mapped Address Handle"
_HANDLE = re.compile(r"^Handle 0x([0-9A-Fa-f]{1,8}), DMI type ([0-9]{1,3}), \d+ bytes")
# What vendors leave in a field they did not fill in. Such a value says nothing, and must not pass for a serial.
_PLACEHOLDERS = frozenset(
    {
        *("", "none", "unknown", "n/a", "na", "null", "other", "default string", "default", "empty"),
        *("not specified", "not provided", "not present", "not available", "<out of spec>", "<bad index>"),
        *("no dimm", "no module installed", "undefined", "unspecified", "system serial number", "system product name"),
        *("to be filled by o.e.m.", "to be filled by o.e.m", "o.e.m.", "oem", "system manufacturer", "chassis serial"),
    }
)
_NUMBERED_PLACEHOLDER = re.compile(
    r"(?i)^(?:(?:dimm|chan|a\d*_|p\d*_).*(?:serialnum|partnum|manufacturer)\S*|sernum\d+)$"
)


class UnreadableTables(ValueError):
    """What dmidecode printed holds no SMBIOS structure."""


@dataclass(frozen=True, slots=True)
class Structure:
    """One structure: its handle, type number, and values by their dmidecode names ("Size", "Locator")."""

    handle: int
    kind: int
    values: Mapping[str, str]

    def text(self, name: str) -> str | None:
        """A value; None when absent or a vendor's placeholder."""
        return meaningful(self.values.get(name))


def meaningful(text: str | None) -> str | None:
    """The text without the blanks around it; None for what vendors write where they had nothing to say."""
    if text is None:
        return None
    text = text.strip()
    if text.lower() in _PLACEHOLDERS or _NUMBERED_PLACEHOLDER.match(text) or not text.strip("0xX.-_ Ff"):
        return None
    return text


def present(host: Host) -> bool:
    """Whether this machine's firmware gives SMBIOS tables at all; many virtual and some Arm machines do not."""
    return host.sys("firmware", "dmi").exists()


async def read(host: Host, kinds: Sequence[int] = WANTED) -> tuple[Structure, ...]:
    """The structures of these types, by default processors and memory. Raises ToolError and UnreadableTables."""
    listed = ",".join(str(kind) for kind in kinds)
    result = await host.tools.run("dmidecode", "--type", listed, timeout_s=TIME_LIMIT_S)
    return parse(result.stdout)


def parse(text: str) -> tuple[Structure, ...]:
    """The structures in dmidecode's output. Raises UnreadableTables when there are none in it."""
    structures: list[Structure] = []
    values: dict[str, str] = {}
    for line in text.splitlines():
        if match := _HANDLE.match(line):
            values = {}
            structures.append(Structure(int(match[1], 16), int(match[2]), values))
        elif line[:1] in {"\t", " "} and ":" in line and not line.startswith("\t\t"):
            name, _, value = line.partition(":")
            values.setdefault(name.strip(), value.strip())
    if not structures:
        words = " ".join(text.split())[:120] or "nothing"
        raise UnreadableTables(f"dmidecode printed no SMBIOS structure, but: {words}")
    return tuple(structures)


def slots_at(structures: Sequence[Structure], address: int) -> tuple[str, ...]:
    """The locators of the modules on which a physical address may lie, by the firmware's own table.

    Where the record says that it is interleaved (or that this is unknown) its range is only a share: then all modules
    mapped into the same array may be meant. Empty where the table does not tell; type 20 is optional. Some firmware
    leaves out the hole below 4 GiB, and some does not tell of interleaving: a hint, to be held against EDAC.
    """
    modules = {one.handle: one.text("Locator") for one in structures if one.kind == MEMORY_DEVICE}
    mapped = [one for one in structures if one.kind == DEVICE_ADDRESS]
    meant = [one for one in mapped if _covers(one, address)]
    arrays = {one.values.get(_ARRAY) for one in meant if "Interleave Position" in one.values}
    meant += [one for one in mapped if one.values.get(_ARRAY) in arrays and one not in meant]
    names = [modules.get(_hex(one.values.get("Physical Device Handle")) or 0) for one in meant]
    known = [name for name in names if name is not None]
    return tuple(dict.fromkeys(known)) if len(known) == len(names) else ()


def _covers(mapped: Structure, address: int) -> bool:
    start, end = mapped.values.get("Starting Address"), mapped.values.get("Ending Address")
    low, high = _hex(start), _hex(end)
    if low is None or high is None or end is None:
        return False
    return low <= address <= high + (1023 if end.endswith("k") else 0)


def _hex(text: str | None) -> int | None:
    """0x1F of "0x1F"; newer tables print "0x0000000400000000k" for addresses in KiB."""
    match = re.fullmatch(r"0x([0-9A-Fa-f]{1,16})(k?)", text or "")
    return int(match[1], 16) * (1024 if match[2] else 1) if match else None
