"""Whether a disk holds data: signatures that libblkid knows, and whether its blocks are all one pattern.

Both read through a descriptor that is already open. Signatures alone do not do: encrypted and raw data has none.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from probes.host import Host
from probes.json_paths import dig, number, parsed
from probes.tools import ToolError

CHILD = Path(__file__).with_name("blank_child.py")
EDGE_BYTES = 64 * 2**20
SPREAD_BLOCKS = 1024
BLOCK = 4096
SIGNATURES_LIMIT_S = 30.0
BLANK_LIMIT_S = 180.0


@dataclass(frozen=True, slots=True)
class Content:
    """What was seen on a disk. None: could not be found out; `unread` says why."""

    signatures: tuple[str, ...] | None
    """Partition tables and file systems: "gpt at 0x200"."""
    blank: bool | None
    """True: every block read holds the same eight bytes over and over."""
    pattern: str | None = None
    """Those eight bytes in hex, when blank."""
    differs_at: int | None = None
    """The offset of the first other content, when not blank."""
    unread: tuple[str, ...] = ()


async def look(host: Host, fd: int, size_bytes: int) -> Content:
    """Look for signatures first, then for blankness, as far as there is any doubt left."""
    unread: list[str] = []
    signatures = await _signatures(host, fd, unread)
    if signatures:
        return Content(signatures, blank=False)
    seen = await _blankness(host, fd, size_bytes, unread)
    if seen is None:
        return Content(signatures, None, unread=tuple(unread))
    return Content(signatures, seen.pattern is not None, seen.pattern, seen.differs_at, tuple(unread))


async def _signatures(host: Host, fd: int, unread: list[str]) -> tuple[str, ...] | None:
    """`wipefs` without --all only lists. `blkid -p` was tried: it says "nothing found" of what it cannot open, too."""
    try:
        result = await host.tools.run(
            "wipefs", "--json", "--no-act", f"/dev/fd/{fd}", timeout_s=SIGNATURES_LIMIT_S, pass_fds=(fd,)
        )
        return parse_signatures(result.stdout)
    except (ToolError, ValueError) as problem:
        unread.append(f"signatures: {problem}")
        return None


def parse_signatures(text: str) -> tuple[str, ...]:
    """What `wipefs --json` found; () only when it says so in so many words. Raises ValueError."""
    found = dig(parsed(text), "signatures")
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise ValueError("wipefs printed no list of signatures")
    return tuple(f"{entry.get('type')} at {entry.get('offset')}" for entry in found)


@dataclass(frozen=True, slots=True)
class _Seen:
    pattern: str | None
    differs_at: int | None


async def _blankness(host: Host, fd: int, size_bytes: int, unread: list[str]) -> _Seen | None:
    argv = (sys.executable, "-I", "-S", "-B", str(CHILD), str(fd), str(size_bytes), str(EDGE_BYTES), str(SPREAD_BLOCKS))
    try:
        result = await host.tools.run(*argv, timeout_s=BLANK_LIMIT_S, pass_fds=(fd,))
        return parse_blankness(result.stdout, size_bytes)
    except (ToolError, ValueError) as problem:
        unread.append(f"blank blocks: {problem}")
        return None


def parse_blankness(text: str, size_bytes: int) -> _Seen:
    """The child's answer; blank only if it read all that it had to. Raises ValueError."""
    answer = parsed(text)
    if not isinstance(answer, dict):
        raise ValueError("the reader's answer is no object")  # noqa: TRY004  # one kind of error for all garbage
    pattern, differs_at = answer.get("pattern"), answer.get("differs_at")
    if isinstance(differs_at, int):
        return _Seen(None, differs_at)
    if not isinstance(pattern, str) or len(bytes.fromhex(pattern)) != 8:
        raise ValueError("the reader gave neither a pattern nor a difference")
    edges = min(size_bytes, 2 * EDGE_BYTES)
    blocks = min(SPREAD_BLOCKS, (size_bytes - edges) // BLOCK)
    if (number(answer.get("edge_bytes")) or 0) < edges or (number(answer.get("blocks")) or 0) < blocks:
        raise ValueError(f"the reader read too little: {text.strip()}")
    return _Seen(pattern, None)
