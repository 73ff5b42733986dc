"""The executions of stages in a run's folder, a stage's folder, or an archive of one: their files as bytes.

Nothing is unpacked to disk, no link is followed, and what is not asked for is not kept. Evidence comes from elsewhere:
an archive that reaches out of itself, or that is larger than evidence ever is, is refused as a whole.
"""

from __future__ import annotations

import errno
import gzip
import os
import re
import stat
import tarfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from stages import conclusion
from vetting_agent.evidence import NOTE, UNPACKED_LIMIT_BYTES

WANTED = (
    conclusion.OPTIONS,
    conclusion.READINGS,
    conclusion.ENDINGS,
    conclusion.BEFORE,
    conclusion.AFTER,
    conclusion.OUTCOME,
    NOTE,
)
FILE_LIMIT_BYTES = 64 * 2**20
ARCHIVE_LIMIT_BYTES = UNPACKED_LIMIT_BYTES + 64 * 2**20
"""Unpacked, the archive's own bookkeeping included."""
MEMBERS_LIMIT = 20_000
CHUNK_BYTES = 2**20
EXECUTION = re.compile(r"(\d{2,9})-(\w{1,64})")


class Refused(Exception):
    """There is nothing here that could be judged. `str()` names the place and says why."""


@dataclass(frozen=True, slots=True)
class Execution:
    """One execution of a stage, as its evidence has it."""

    stage: str
    place: str
    """Its folder, for messages: "03-SMART"."""
    number: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    """Those asked for that are there, by name."""
    problems: dict[str, str] = field(default_factory=dict)
    """File name → why it could not be read."""


def newest(path: Path, wanted: Collection[str] = WANTED) -> list[Execution]:
    """The newest execution of each stage in `path`, in the order they ran, with the `wanted` files. Raises Refused."""
    try:
        found = _of_folder(path, wanted) if path.is_dir() else _of_archive(path, wanted)
    except OSError as problem:
        raise Refused(f"{path}: {problem.strerror or problem}") from None
    if not found:
        raise Refused(f"{path}: there is no execution of a stage in it (no folder named like 01-Inventory)")
    latest = {one.stage: one for one in sorted(found, key=lambda one: (one.number, one.place))}
    return sorted(latest.values(), key=lambda one: (one.number, one.place))


def _of_folder(path: Path, wanted: Collection[str]) -> list[Execution]:
    if any(os.path.lexists(path / name) for name in wanted):
        return [_of_stage_folder(path, path.resolve().name, wanted)]
    if EXECUTION.fullmatch(path.resolve().name):
        return [_empty(path.resolve().name)]
    stages = (child for child in path.iterdir() if EXECUTION.fullmatch(child.name))
    return [_of_stage_folder(child, child.name, wanted) for child in stages]


def _empty(folder: str) -> Execution:
    match = EXECUTION.fullmatch(folder)
    return Execution(match[2], folder, int(match[1])) if match else Execution(folder, folder)


def _of_stage_folder(path: Path, name: str, wanted: Collection[str]) -> Execution:
    execution = _empty(name)
    if path.is_symlink() or not path.is_dir():
        execution.problems["."] = "it is no folder" if not path.is_symlink() else "it is a link, which is not followed"
        return execution
    for file_name in wanted:
        try:
            execution.files[file_name] = _content(path / file_name)
        except FileNotFoundError:
            continue
        except OSError as problem:
            link = problem.errno == errno.ELOOP
            execution.problems[file_name] = "it is a link, which is not followed" if link else _words(problem)
    return execution


def _words(problem: OSError) -> str:
    return problem.strerror or str(problem)


def _content(path: Path) -> bytes:
    """Raises OSError, also for what is no file. Non-blocking: a FIFO would never open."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as handle:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no ordinary file")
        content = handle.read(FILE_LIMIT_BYTES + 1)
    if len(content) > FILE_LIMIT_BYTES:
        raise OSError(errno.EFBIG, _too_large())
    return content


def _too_large() -> str:
    return f"it is larger than {FILE_LIMIT_BYTES // 2**20} MiB, as no evidence is"


class _Bounded:
    """The unpacked bytes of an archive, of which there may not be more than evidence ever has."""

    def __init__(self, packed: BinaryIO | gzip.GzipFile) -> None:
        self._packed = packed
        self._left = ARCHIVE_LIMIT_BYTES

    def read(self, size: int = CHUNK_BYTES) -> bytes:
        content = self._packed.read(min(size, CHUNK_BYTES))
        self._left -= len(content)
        if self._left < 0:
            raise Refused(f"it unpacks to more than {ARCHIVE_LIMIT_BYTES // 2**20} MiB, as no evidence does")
        return content


def _of_archive(path: Path, wanted: Collection[str]) -> list[Execution]:
    if not path.is_file():
        raise Refused(f"{path}: it is neither a folder nor an archive" if path.exists() else f"{path}: it is not there")
    try:
        with gzip.open(path, "rb") as packed:
            bounded = _Bounded(packed)
            with tarfile.open(fileobj=bounded, mode="r|") as tar:  # type: ignore[call-overload]  # a reader is enough
                found = _executions(tar, wanted)
            while bounded.read():
                pass  # to its end: only there does gzip tell whether the bytes are the ones that were packed
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, OverflowError) as problem:
        raise Refused(f"{path}: it is no whole tar.gz archive: {problem}") from None
    except Refused as problem:
        raise Refused(f"{path}: refused: {problem}") from None
    return list(found.values())


def _executions(tar: tarfile.TarFile, wanted: Collection[str]) -> Mapping[PurePosixPath, Execution]:
    found: dict[PurePosixPath, Execution] = {}
    for member, name in _members(tar):
        depth = next((at for at, part in enumerate(name.parts[:2]) if EXECUTION.fullmatch(part)), None)
        if depth is None:
            continue
        folder = PurePosixPath(*name.parts[: depth + 1])
        execution = found.setdefault(folder, _empty(folder.name))
        if len(name.parts) != depth + 2 or name.name not in wanted:
            continue
        handle = tar.extractfile(member) if member.isreg() else None
        if handle is None:
            execution.problems[name.name] = "it is no ordinary file"
        elif member.size > FILE_LIMIT_BYTES:
            execution.problems[name.name] = _too_large()
        else:
            execution.files[name.name] = handle.read()
    return found


def _members(tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, PurePosixPath]]:
    """Every member of an archive that packs plain files and folders under itself. Raises Refused for any other."""
    seen: set[PurePosixPath] = set()
    for member in tar:
        name = PurePosixPath(member.name)
        shown = repr(member.name[:100])
        if name.is_absolute() or ".." in name.parts or "\0" in member.name:
            raise Refused(f"its member {shown} reaches out of it")
        if not (member.isdir() or member.isreg()) or member.issparse():
            raise Refused(f"its member {shown} is neither a file nor a folder")
        if name in seen and not member.isdir():
            raise Refused(f"its member {shown} is there twice")
        seen.add(name)
        if len(seen) > MEMBERS_LIMIT:
            raise Refused(f"it has more than {MEMBERS_LIMIT} members")
        yield member, name
