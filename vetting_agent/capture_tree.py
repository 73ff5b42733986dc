"""From the paths that probes asked for to a tree of files, links and folders that can be written anywhere.

Links stay links, made relative; of a folder that was listed all entries are there, those that nobody read as empty
files. A file that cannot be read is kept as the error that it gave.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from probes.apart import apart
from probes.recorded import EMPTY

FOLLOWED = frozenset({"proc", "sys", "dev", "run"})
FILE_LIMIT = 2**20
TREE_LIMIT = 32 * 2**20
READ_LIMIT_S = 5.0
MOST_LINKS = 40
KERNEL_LOG = "dev/kmsg"
OS_RELEASE = "etc/os-release"
RECORD_BYTES = 8192


class TooLarge(ValueError):
    """The tree would be larger than anybody would send."""


@dataclass
class Tree:
    """Paths are relative to the machine's root."""

    files: dict[str, bytes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    unreadable: dict[str, str] = field(default_factory=dict)
    """The name of the error ("EACCES") by path."""
    cut: list[str] = field(default_factory=list)
    """Files of which only the beginning is there."""

    @property
    def size(self) -> int:
        return sum(map(len, self.files.values()))


async def build(root: Path, touched: Iterable[str], listed: Iterable[str]) -> Tree:
    """The tree of what was asked for. Raises TooLarge."""
    builder = _Builder(Path(str(root)), Tree())
    for path in sorted(touched):
        await builder.add(os.path.relpath(path, builder.root))
    for path in sorted(listed):
        await builder.add_entries(os.path.relpath(path, builder.root))
    return builder.tree


@dataclass
class _Builder:
    root: Path
    tree: Tree

    async def add(self, path: str) -> None:
        if path == OS_RELEASE:  # on most machines a link to where nothing else is recorded
            await self._read(path)
        elif path.partition("/")[0] in FOLLOWED and (real := self._follow(path)) is not None:
            await self._keep(real)

    async def add_entries(self, path: str) -> None:
        real = self._follow(path) if path.partition("/")[0] in FOLLOWED else None
        if real is None or not (self.root / real).is_dir():
            return
        try:
            entries = [entry for entry in os.scandir(self.root / real) if entry.name != EMPTY]
        except OSError as problem:
            self._failed(real, problem)
            return
        for entry in entries:
            place = f"{real}/{entry.name}"
            if entry.is_symlink():
                self._follow(place)
            elif entry.is_dir(follow_symlinks=False):
                self.tree.folders.add(place)
            else:
                self.tree.files.setdefault(place, b"")

    def _follow(self, path: str) -> str | None:
        """The place behind all links on the way, which are kept; None where there is nothing, or nothing of ours."""
        left, place, hops = path.split("/"), "", 0
        while left:
            name = left.pop(0)
            if name in {"", "."}:
                continue
            if name == "..":
                place = place.rpartition("/")[0]
                continue
            here = f"{place}/{name}" if place else name
            target = self._target(here)
            if target is None:
                place = here
                continue
            hops += 1
            if hops > MOST_LINKS:
                return None
            if target.startswith("/"):
                place, target = "", target.lstrip("/")
                self.tree.links[here] = os.path.relpath(target, here.rpartition("/")[0] or ".")
            else:
                self.tree.links[here] = target
            left = target.split("/") + left
        if place.partition("/")[0] not in FOLLOWED or not os.path.lexists(self.root / place):
            return None
        return place

    def _target(self, place: str) -> str | None:
        try:
            return str((self.root / place).readlink())
        except OSError:
            return None

    async def _keep(self, place: str) -> None:
        if self.tree.files.get(place):
            return
        try:
            mode = (self.root / place).stat().st_mode
        except OSError as problem:
            self._failed(place, problem)
            return
        if stat.S_ISDIR(mode):
            self.tree.folders.add(place)
        elif place == KERNEL_LOG and stat.S_ISCHR(mode):
            try:
                self.tree.files[place] = await apart(lambda: _kernel_log(self.root / place), "kernel log")
            except OSError:
                return  # an empty file would read as a log without an entry
        elif stat.S_ISREG(mode):
            await self._read(place)
        else:
            self.tree.files[place] = b""

    async def _read(self, place: str) -> None:
        try:
            async with asyncio.timeout(READ_LIMIT_S):
                content = await apart(lambda: _content(self.root / place), "capture")
        except OSError as problem:  # TimeoutError is one too
            self._failed(place, problem)
            return
        if len(content) > FILE_LIMIT:
            self.tree.cut.append(place)
        self.tree.files[place] = content[:FILE_LIMIT]
        if self.tree.size > TREE_LIMIT:
            raise TooLarge(f"the files that the probes read are more than {TREE_LIMIT // 2**20} MiB")

    def _failed(self, place: str, problem: OSError) -> None:
        code = errno.ETIMEDOUT if isinstance(problem, TimeoutError) else problem.errno or errno.EIO
        if code != errno.ENOENT:
            self.tree.unreadable[place] = errno.errorcode[code]
            self.tree.files.setdefault(place, b"")


def _content(path: Path) -> bytes:
    with path.open("rb", buffering=0) as file:
        content = b""
        while len(content) <= FILE_LIMIT and (part := file.read(FILE_LIMIT)):
            content += part
    return content


def _kernel_log(path: Path) -> bytes:
    """The newest records of the kernel's log, each as its device gives it. Raises OSError."""
    device = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        records = list(_records(device))
    finally:
        os.close(device)
    size, kept = 0, []
    for record in reversed(records):
        size += len(record)
        if size > FILE_LIMIT // 4:
            break
        kept.append(record)
    return b"".join(reversed(kept))


def _records(device: int) -> Iterator[bytes]:
    while True:
        try:
            yield os.read(device, RECORD_BYTES).rstrip(b"\n") + b"\n"
        except BlockingIOError:
            return
        except BrokenPipeError:
            continue  # records were overwritten while we read
