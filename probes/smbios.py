"""SMBIOS tables as `dmidecode` prints them: one run, split into structures with named values.

Source: dmidecode(8), and the SMBIOS reference specification (DSP0134) for what the types mean.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from probes.host import Host

PROCESSOR = 4
MEMORY_ARRAY = 16
MEMORY_DEVICE = 17
WANTED = (PROCESSOR, MEMORY_ARRAY, MEMORY_DEVICE)
TIME_LIMIT_S = 10.0

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


async def read(host: Host) -> tuple[Structure, ...]:
    """The processor and memory structures. Raises ToolError and UnreadableTables."""
    kinds = ",".join(str(kind) for kind in WANTED)
    result = await host.tools.run("dmidecode", "--type", kinds, timeout_s=TIME_LIMIT_S)
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
