"""What the kernel keeps of a SCSI or ATA disk's own answers about itself.

Sources: SPC-5 for the vital product data pages 80h (unit serial number), SAT-4 for page 89h (ATA information), which
holds the IDENTIFY DEVICE data of ACS-4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE_LIMIT = 4096
_IDENTIFY_AT = 60
_IDENTIFY_SIZE = 512


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a disk says it is."""

    serial: str | None = None
    vendor: str | None = None
    model: str | None = None
    firmware: str | None = None


def first_known(identities: Sequence[Identity]) -> Identity:
    """Each value from the first identity that has it."""

    def first(name: str) -> str | None:
        return next((value for one in identities if (value := readable(getattr(one, name)))), None)

    return Identity(first("serial"), first("vendor"), first("model"), first("firmware"))


def readable(text: str | None) -> str | None:
    """The text on one line without blanks around it; None when nothing printable is left."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text or "").split()) or None


def bytes_of(path: Path) -> bytes:
    """The content of a page; empty when absent or unreadable."""
    try:
        with path.open("rb") as page:
            return page.read(PAGE_LIMIT)
    except OSError:
        return b""


def from_serial_page(page: bytes) -> str | None:
    """The serial number in page 80h."""
    if len(page) < 4 or page[1] != 0x80:
        return None
    length = int.from_bytes(page[2:4], "big")
    return readable(page[4 : 4 + length].decode("ascii", errors="replace"))


def from_ata_page(page: bytes) -> Identity:
    """The identity in page 89h: uncut, unlike what SCSI shows of an ATA disk."""
    identify = page[_IDENTIFY_AT : _IDENTIFY_AT + _IDENTIFY_SIZE]
    if len(identify) < _IDENTIFY_SIZE or page[1] != 0x89:
        return Identity()
    return Identity(
        serial=_ata_text(identify, 10, 20), model=_ata_text(identify, 27, 47), firmware=_ata_text(identify, 23, 27)
    )


def _ata_text(identify: bytes, first_word: int, end_word: int) -> str | None:
    """The text in some words of IDENTIFY data, where each word has its two letters swapped."""
    words = identify[2 * first_word : 2 * end_word]
    swapped = bytearray(len(words))
    swapped[0::2], swapped[1::2] = words[1::2], words[0::2]
    return readable(swapped.decode("ascii", errors="replace"))
