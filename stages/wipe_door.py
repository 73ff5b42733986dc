"""Gathers the facts for `stages.wipe_guard`, asks it, and opens a disk for writing if it agrees. Nobody else does.

All is decided twice: on a descriptor for reading, and again on the one for writing, which is opened exclusively
(O_EXCL: no mount, holder or swap can come in between) and held for as long as the block lasts.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass

from probes import blank, block_use, reservation
from probes.apart import apart
from probes.disks import Disk
from probes.host import Host
from stages.outcome import ReasonCode
from stages.stage import RunFacts
from stages.storage_disk import open_apart
from stages.wipe_guard import Allowed, Decision, DiskFacts, HostDisks, Refused, decide

READ_FLAGS = os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC
WRITE_FLAGS = os.O_RDWR | os.O_DIRECT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class WipeRefused(Exception):
    """The disk must not be written; `refused` says why."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.sentence)
        self.refused = refused


@dataclass(frozen=True, slots=True)
class Writable:
    """A disk that may be written, through this descriptor and nothing else."""

    fd: int
    size_bytes: int
    allowed: Allowed
    pattern: str | None
    """The eight bytes (hex) that the blank disk was filled with; None when it was not blank."""


@dataclass(frozen=True, slots=True)
class Examined:
    """What was decided about a disk, and on which facts."""

    decision: Decision
    facts: DiskFacts
    pattern: str | None = None


def host_disks(disks: list[Disk]) -> HostDisks:
    """The identities of all disks of the host."""
    return HostDisks(tuple(disk.serial or "" for disk in disks), tuple(disk.wwn for disk in disks if disk.wwn))


async def examine(host: Host, fd: int, disk: Disk, others: HostDisks, run: RunFacts) -> Examined:
    """Decide about the disk that `fd` is open on. Reads of its data are spared when the other rules refuse it.

    Raises OSError when `fd` is no whole block device (any more).
    """
    use = await apart(lambda: block_use.read(host, fd), "block use")
    reserved, why = await _reserved(host, fd, use)
    facts = DiskFacts(use, disk.serial, disk.wwn, reserved, (), blank=True, unread=(*use.unread, *why))
    early = decide(facts, others, run)
    if isinstance(early, Refused) and early.code is not ReasonCode.WIPE_REFUSED_DATA_PRESENT:
        unlooked = DiskFacts(use, disk.serial, disk.wwn, reserved, None, None, facts.unread)
        return Examined(early, unlooked)
    content = await blank.look(host, fd, use.size_bytes or 0)
    facts = DiskFacts(
        use, disk.serial, disk.wwn, reserved, content.signatures, content.blank, (*facts.unread, *content.unread)
    )
    return Examined(decide(facts, others, run), facts, content.pattern)


async def _reserved(host: Host, fd: int, use: block_use.BlockUse) -> tuple[bool | None, tuple[str, ...]]:
    try:
        return await reservation.is_reserved(host, fd, use.transport), ()
    except reservation.Unreadable as problem:
        return None, (f"reservation: {problem}",)


async def examine_for_reading(host: Host, disk: Disk, others: HostDisks, run: RunFacts) -> Examined | Refused:
    """The first decision, on a descriptor that cannot write. Refused alone when not even that can be opened."""
    try:
        fd = await open_apart(host.dev(disk.name), READ_FLAGS)
    except OSError as problem:
        return Refused(ReasonCode.WIPE_REFUSED_IN_USE, f"it could not be opened: {problem.strerror}")
    try:
        return await examine(host, fd, disk, others, run)
    except OSError as problem:
        return Refused(ReasonCode.WIPE_REFUSED_IN_USE, str(problem))
    finally:
        os.close(fd)


@contextlib.asynccontextmanager
async def open_for_writing(host: Host, disk: Disk, others: HostDisks, run: RunFacts) -> AsyncIterator[Writable]:
    """Lends a descriptor that may write to `disk` while the block lasts. Raises WipeRefused."""
    first = await examine_for_reading(host, disk, others, run)
    if isinstance(first, Refused):
        raise WipeRefused(first)
    if isinstance(first.decision, Refused):
        raise WipeRefused(first.decision)
    fd = await _open_exclusively(host, disk)
    try:
        yield await _confirmed(host, fd, disk, others, run, first)
    finally:
        os.close(fd)


async def _open_exclusively(host: Host, disk: Disk) -> int:
    try:
        return await open_apart(host.dev(disk.name), WRITE_FLAGS)
    except OSError as problem:
        said = f"it could not be opened for exclusive use: {problem.strerror}"
        raise WipeRefused(Refused(ReasonCode.WIPE_REFUSED_IN_USE, said)) from problem


async def _confirmed(host: Host, fd: int, disk: Disk, others: HostDisks, run: RunFacts, first: Examined) -> Writable:
    """The second decision, on the descriptor that will write."""
    try:
        second = await examine(host, fd, disk, others, run)
    except OSError as problem:
        raise WipeRefused(Refused(ReasonCode.WIPE_REFUSED_IN_USE, str(problem))) from problem
    if isinstance(second.decision, Refused):
        raise WipeRefused(second.decision)
    was, now = first.facts.use, second.facts.use
    if (was.device, was.size_bytes, was.serial) != (now.device, now.size_bytes, now.serial):
        said = "another disk took its name while it was being looked at"
        raise WipeRefused(Refused(ReasonCode.WIPE_REFUSED_NOT_EXPECTED, said))
    assert now.size_bytes, "the guard allows no disk of unknown size"
    return Writable(fd, now.size_bytes, second.decision, second.pattern)
