"""The one place that decides whether a disk may be written.

`decide` is pure: what is known of the disk, of the host's other disks and of the run, in; Allowed, or Refused with
the reason, out. Each rule must be shown to hold; a fact that could not be read refuses. `stages.wipe_door` gathers
the facts, asks here, and opens the disk; nothing else in this program opens a disk for writing.

The rules in their order. Those about data come last, because only a refusal for data can be overridden:

    run        the agent may destroy (live image or --allow-destructive), and the claim's non_destructive is false
    expected   serial and size match one of the claim's expected disks (a size that was not said matches none)
    identity   it has a serial, and no other disk here has that serial or that WWN
    local      SATA, SAS, SCSI on a local adapter, NVMe over PCIe, virtio, MMC; not USB, not removable, no BMC's image
    unused     not mounted, no swap, no holder, no reservation or registration of any host, not booted from, writable
    no data    no signature, and blank; or the operator's override for this execution names it
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from probes.block_use import BlockUse, Transport
from stages.outcome import ReasonCode
from stages.stage import RunFacts

SIZE_TOLERANCE = 0.01
GB = 1e9
LOCAL = frozenset(
    {Transport.SATA, Transport.SAS, Transport.SCSI, Transport.NVME, Transport.VIRTIO, Transport.MMC},
)


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """What is known of one disk. None: could not be found out."""

    use: BlockUse
    listed_serial: str | None
    """The serial by which the inventory lists the disk; must be the one that sysfs shows."""
    wwn: str | None
    """None: the disk states none."""
    reserved: bool | None
    signatures: tuple[str, ...] | None
    blank: bool | None
    unread: tuple[str, ...] = ()
    """Why facts are None, for a person."""


@dataclass(frozen=True, slots=True)
class HostDisks:
    """Identities of all disks of the host, the one in question included."""

    serials: tuple[str, ...]
    wwns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Allowed:
    """The disk of this serial may be written."""

    serial: str
    by_override: bool
    """True: it holds data, or may; the operator's word covers it."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The disk must not be written."""

    code: ReasonCode
    sentence: str


Decision = Allowed | Refused

_NOT_EXPECTED = ReasonCode.WIPE_REFUSED_NOT_EXPECTED
_IN_USE = ReasonCode.WIPE_REFUSED_IN_USE
_DATA = ReasonCode.WIPE_REFUSED_DATA_PRESENT


def decide(disk: DiskFacts, host: HostDisks, run: RunFacts) -> Decision:
    """Whether `disk` may be written. The first rule that does not hold gives the reason."""
    for code, rules in ((_NOT_EXPECTED, _identity_rules(disk, host, run)), (_IN_USE, _use_rules(disk))):
        for problem in rules:
            return Refused(code, _with_reasons(problem, disk))
    serial = _plain(disk.listed_serial)
    data = next(_data_rules(disk), None)
    if data is None:
        return Allowed(serial, by_override=False)
    if _override_names(serial, run):
        return Allowed(serial, by_override=True)
    return Refused(_DATA, _with_reasons(data, disk))


def _identity_rules(disk: DiskFacts, host: HostDisks, run: RunFacts) -> Iterator[str]:
    """One sentence for each rule of run, expected, identity and local that does not hold."""
    if run.allow_destructive is not True:
        yield "this agent was not started with leave to write to disks"
    if run.non_destructive is not False:
        yield "the run is non-destructive"
    serial = _plain(disk.listed_serial)
    if not serial:
        yield "it has no serial number, so that it cannot be told for sure which disk it is"
    if serial != _plain(disk.use.serial):
        yield f"it is listed with the serial {serial!r} but the kernel shows {disk.use.serial!r}"
    if [_folded(other) for other in host.serials].count(_folded(serial)) != 1:
        yield f"the serial {serial!r} is not unique among the disks of this host"
    if disk.wwn and [_folded(other) for other in host.wwns].count(_folded(disk.wwn)) != 1:
        yield f"the WWN {disk.wwn!r} is not unique among the disks of this host: two paths to one disk"
    yield from _expected_rules(serial, disk.use.size_bytes, run)
    yield from _attachment_rules(disk.use)


def _expected_rules(serial: str, size_bytes: int | None, run: RunFacts) -> Iterator[str]:
    if run.expected_disks is None:
        yield "the claim does not say which disks this host has"
        return
    sizes = [expected.size_gb for expected in run.expected_disks if _plain(expected.serial) == serial]
    if not sizes:
        yield f"the claim does not expect a disk with the serial {serial!r} here"
    if not size_bytes or size_bytes < 0:
        yield "its size could not be read"
        return
    for size_gb in sizes:
        if size_gb is None or not math.isfinite(size_gb) or size_gb <= 0:
            yield "the claim does not say the size of this disk"
        elif abs(size_bytes - size_gb * GB) > SIZE_TOLERANCE * size_gb * GB:
            yield f"it has {size_bytes / GB:.1f} GB where the claim expects {size_gb:.1f} GB"


def _attachment_rules(use: BlockUse) -> Iterator[str]:
    if use.transport not in LOCAL:
        yield f"it is not known to be a local disk (attached by: {use.transport or 'unknown'})"
    if use.removable is not False:
        yield "it is removable, or may be"
    if use.virtual_media is not False:
        yield "it is virtual media of a BMC, or may be"


_USES: tuple[tuple[Callable[[BlockUse], tuple[str, ...] | None], str], ...] = (
    (lambda use: use.mounted_at, "it is mounted at"),
    (lambda use: use.swaps, "it is used as swap:"),
    (lambda use: use.holders, "it is part of"),
    (lambda use: use.boot_medium, "this machine was booted from it:"),
)


def _use_rules(disk: DiskFacts) -> Iterator[str]:
    for field, said in _USES:
        users = field(disk.use)
        if users is None:
            yield f"it could not be found out whether {said.rstrip(':')} anything"
        elif users:
            yield f"{said} {', '.join(users)}"
    if disk.use.partitions is None:
        yield "its partitions could not be listed, so that it is not known whether one is in use"
    if disk.reserved is not False:
        yield "another host has reserved it" if disk.reserved else "it may be reserved by another host"
    if disk.use.read_only is not False:
        yield "it is write-protected, or may be"


def _data_rules(disk: DiskFacts) -> Iterator[str]:
    if disk.use.partitions:
        yield f"it has partitions ({', '.join(disk.use.partitions)})"
    if disk.signatures is None:
        yield "it could not be searched for partition tables and file systems"
    elif disk.signatures:
        yield f"it holds data ({', '.join(disk.signatures[:4])})"
    if disk.blank is None:
        yield "it could not be shown to be blank"
    elif not disk.blank:
        yield "it holds data: its blocks are not all alike (encrypted or raw data looks like this)"


def _override_names(serial: str, run: RunFacts) -> bool:
    if run.override is None:
        return False
    named = run.refused_serials if run.override.serials is None else run.override.serials
    return serial in {_plain(name) for name in named}


def _with_reasons(problem: str, disk: DiskFacts) -> str:
    """Add why a fact could not be read, where that is what the problem may be."""
    return f"{problem} [{'; '.join(disk.unread)}]" if disk.unread else problem


def _plain(serial: str | None) -> str:
    """Kernels and vendors pad serials with blanks."""
    return (serial or "").strip()


def _folded(identity: str | None) -> str:
    """Two serials that differ in case or blanks only are too alike to be told apart."""
    return "".join((identity or "").split()).casefold()
