"""Whether this machine was booted from a disk: by the kernel command line, and by the firmware's own word.

A live image may have copied itself into memory and unmounted its stick, so that mounts alone do not tell.
"""

from __future__ import annotations

import os
import re
import stat
import uuid
from collections.abc import Collection
from pathlib import Path

from probes.host import Host, entries_of

EFI_GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
_BOOT_KEYS = {"root", "boot", "resume", "live-media", "bootfrom", "fromiso", "findiso", "img_dev", "archisodevice"}
_TAGS = {
    "UUID": "by-uuid",
    "LABEL": "by-label",
    "CDLABEL": "by-label",
    "PARTUUID": "by-partuuid",
    "PARTLABEL": "by-partlabel",
}


def boot_devices(host: Host, family: Collection[str | None]) -> tuple[str, ...]:
    """What names a device of `family` (major:minor of a disk and its partitions) as booted from.

    Raises OSError when the command line, or a firmware variable that is there, cannot be read.
    """
    said = [word for word in host.proc("cmdline").read_text().split() if _named_by(host, word) in family]
    return (*said, *_firmware(host, family))


def _named_by(host: Host, word: str) -> str | None:
    """The device that a word of the command line names, as major:minor; None when it names none."""
    key, _, value = word.partition("=")
    if key not in _BOOT_KEYS:
        return None
    value = value.removeprefix("live:").strip('"')
    tag, _, rest = value.partition("=")
    if tag in _TAGS:
        return _number(host.dev("disk", _TAGS[tag], rest))
    match = re.match(r"/dev/([^:]+)", value)
    return _number(host.dev(match[1])) if match else None


def _number(path: Path) -> str | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}" if stat.S_ISBLK(status.st_mode) else None


def _firmware(host: Host, family: Collection[str | None]) -> tuple[str, ...]:
    """The UEFI boot entry that is current names its partition by GPT GUID, in the entry's device path."""
    variables = host.sys("firmware", "efi", "efivars")
    current = variables / f"BootCurrent-{EFI_GLOBAL}"
    if not current.exists():
        return ()
    number = int.from_bytes(current.read_bytes()[4:6], "little")
    entry = variables / f"Boot{number:04X}-{EFI_GLOBAL}"
    if not entry.exists():
        return ()
    path = entry.read_bytes()
    links = [link for link in entries_of(host.dev("disk", "by-partuuid")) if _number(link) in family]
    return tuple(f"Boot{number:04X}" for link in links if _guid(link.name) in path)[:1]


def _guid(text: str) -> bytes:
    try:
        return uuid.UUID(text).bytes_le
    except ValueError:
        return text.encode()  # an MBR's short id: never in a GPT device path
