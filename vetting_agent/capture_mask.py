"""Takes secrets out of a capture, and on request all that identifies a machine: serials, MACs, UUIDs, IP addresses.

A mask has the length and the kinds of letters of what it stands for, and the same value has the same mask everywhere in
one capture: in files, in names, in tool output, and as the bytes of an ATA or SCSI page. It cannot be computed back: it
depends on a salt that is thrown away. Of a MAC address the first half, which names the maker, stays.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

SHORTEST = 4
ROUNDS = 8
"""A mask that happens to be what it masks is drawn again."""
REMOVED = b"[removed]"
_SECRET = re.compile(
    rb"((?:token|passwd|password|secret|psk|api[_-]?key|private[_-]?key)[\"']?[=:] ?)[^\s\"',&]+", re.I
)
_MAC = re.compile(rb"(?<![0-9A-Fa-f:-])(?:[0-9A-Fa-f]{2}:){5}(?:[0-9A-Fa-f]{2}:){0,14}[0-9A-Fa-f]{2}(?![0-9A-Fa-f:-])")
_UUID = re.compile(rb"(?<![0-9A-Za-z])[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}(?![0-9A-Za-z])")
_IPV4 = re.compile(
    rb"(?<![\w.])(?!0\.0\.0\.0|127\.|255\.)(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\w.])"
)
_IPV6 = re.compile(
    rb"(?<![\w:])(?:fe80:(?::[0-9a-f]{1,4}){1,4}|(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}|2[0-9a-f]{3}(?::[0-9a-f]{0,4}){2,6})(?![\w:])",
    re.I,
)
_VERSION = re.compile(rb"(?i)version|firmware|revision|release|bios")
# Where tools print a serial number or another name of one unit; of an endless one the start.
_LABELLED = (
    re.compile(
        rb'"(?:serial_number|serial|sn|logical_unit_id|wwn|nguid|eui64|uuid|sas_address)"\s*:\s*"([^"]{4,200})', re.I
    ),
    re.compile(rb'"(?:serial|uuid)"\s*:\s*\{"value"\s*:\s*"([^"]{4,200})'),  # probes.nvml_child
    re.compile(
        rb"(?m)^[ \t]{0,40}(?:[\w /]{0,40}Serial(?: Number)?|UUID|Asset Tag|LU WWN Device Id)\s{0,40}:\s{0,40}"
        rb"(\S[^\n]{1,200}\S)\s*$"
    ),
    re.compile(
        rb"(?m)^E:(?:ID_SERIAL|ID_SERIAL_SHORT|ID_SCSI_SERIAL|SCSI_IDENT_SERIAL|ID_WWN|ID_WWN_WITH_EXTENSION)=(.{4,200})"
    ),
)
# smartctl prints these names as numbers.
_NUMBERED = re.compile(rb'("(?:wwn|eui64)"\s*:\s*\{[^}]{0,400}"(?:id|ext_id)"\s*:\s*)(\d+)')
_PREFIX = re.compile(rb"^(?:0[xX]|naa\.|eui\.|GPU-)")
_EMPTY = re.compile(
    rb"(?i)not (?:specified|provided|present)|unknown|none|n/?a|default string|to be filled.*|[0x.: -]*|"
    rb"no (?:dimm|module).*"
)


def without_secrets(content: bytes) -> bytes:
    """Without the values of whatever calls itself a token, password or key."""
    return _SECRET.sub(rb"\1" + REMOVED, content)


@dataclass
class Masker:
    """Masks with one salt. `learn` first, then `mask`."""

    salt: bytes
    _masks: dict[bytes, bytes] = field(default_factory=dict)
    _pattern: re.Pattern[bytes] | None = None

    def learn(self, content: bytes) -> None:
        """Note the serial numbers that stand in a tool's output."""
        for pattern in _LABELLED:
            self.add(found[1].strip() for found in pattern.finditer(content))

    def add(self, values: Iterable[bytes]) -> None:
        """Mask these values wherever they stand."""
        for value in values:
            if len(value) >= SHORTEST and not _EMPTY.fullmatch(value):
                self._masks.update(_forms(value, self._with_prefix(value)))
        self._pattern = None

    def _with_prefix(self, value: bytes) -> bytes:
        """Masked but for the prefix that says what kind of number it is."""
        prefix = _PREFIX.match(value)
        start = prefix.end() if prefix else 0
        return value[:start] + self._masked(value[start:])

    def mask(self, content: bytes) -> bytes:
        """`content` with everything masked that identifies one machine."""
        if self._pattern is None:
            # Longest first: a serial that holds another one must not be left half.
            known = sorted(self._masks, key=len, reverse=True) or [b"\0" * 64]
            self._pattern = re.compile(b"|".join(map(re.escape, known)))
        content = self._pattern.sub(lambda found: self._masks[found[0]], content)
        content = _NUMBERED.sub(lambda found: found[1] + self._masked(found[2]), content)
        content = _UUID.sub(lambda found: self._masks.get(found[0]) or self._masked(found[0]), content)
        content = _MAC.sub(lambda found: self._mac(found[0]), content)
        content = _IPV6.sub(lambda found: self._masked(found[0]), content)
        return b"\n".join(self._addresses(line) for line in content.split(b"\n"))

    def text(self, text: str) -> str:
        """The same for a name."""
        return self.mask(text.encode(errors="surrogateescape")).decode(errors="surrogateescape")

    def _addresses(self, line: bytes) -> bytes:
        if _VERSION.search(line):
            return line
        return _IPV4.sub(lambda found: self._ip(found[0]), line)

    def _ip(self, address: bytes) -> bytes:
        return b".".join(_within(self._letters(address, place), part) for place, part in enumerate(address.split(b".")))

    def _mac(self, address: bytes) -> bytes:
        """InfiniBand's longer ones end in the GUID, whose first half names the maker too."""
        keep = 9 if len(address) == 17 else len(address) - 15
        return address[:keep] + self._masked(address.lower(), address)[keep:]

    def _masked(self, value: bytes, like: bytes | None = None) -> bytes:
        """Letters of the same kind in their places, chosen by the salt and the value in lower case."""
        masks = (bytes(map(_one, like or value, self._letters(value.lower(), round_))) for round_ in range(ROUNDS))
        return next((mask for mask in masks if mask != (like or value)), value)

    def _letters(self, value: bytes, round_: int) -> bytes:
        count = len(value) // 32 + 1
        parts = (hmac.new(self.salt, b"%d.%d %b" % (round_, part, value), hashlib.sha256) for part in range(count))
        return b"".join(part.digest() for part in parts)


def _one(letter: int, random: int) -> int:
    """A letter of the same kind: a digit, a to f, g to z; anything else as it is."""
    for first, last in ((48, 57), (65, 70), (71, 90), (97, 102), (103, 122)):
        if first <= letter <= last:
            return first + random % (last - first + 1)
    return letter


def _within(letters: bytes, part: bytes) -> bytes:
    """An octet of an address with as many digits."""
    low, high = {1: (1, 9), 2: (10, 99)}.get(len(part), (100, 199))
    return b"%d" % (low + letters[0] % (high - low + 1))


def _forms(value: bytes, masked: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The value and its mask, as they may stand: in either case, without colons, word by word swapped, as bytes."""
    yield value, masked
    yield value.lower(), masked.lower()
    yield value.upper(), masked.upper()
    for separator in (b":", b"-", b" "):
        if separator in value and len(value.replace(separator, b"")) >= 8:
            yield value.replace(separator, b""), masked.replace(separator, b"")
    for lead in (b"", b" "):
        before, after = _swapped(lead + value), _swapped(lead + masked)
        if len(before) >= 8:
            yield before, after
    digits, masked_digits = (_PREFIX.sub(b"", text) for text in (value, masked))
    if re.fullmatch(rb"(?:[0-9A-Fa-f]{2}){8,16}", digits) and len(digits) == len(masked_digits):
        number, masked_number = bytes.fromhex(digits.decode()), bytes.fromhex(masked_digits.decode())
        yield digits, masked_digits
        yield number, masked_number
        yield _swapped(number), _swapped(masked_number)


def _swapped(text: bytes) -> bytes:
    """As ATA keeps text: the two letters of each word changed about, blanks to its end."""
    padded = bytearray(text + b" " * (len(text) % 2))
    padded[0::2], padded[1::2] = padded[1::2], padded[0::2]
    return bytes(padded)
