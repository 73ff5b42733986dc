"""All that Storage brings back and all that its judge looks at: plain values that survive JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from probes.disks import Disk
from stages.fio import IoError, Job
from stages.outcome import Finding
from stages.stage import ExpectedDisk
from stages.stamps import Proof, Wrong
from stages.storage_disk import Subject
from stages.storage_plan import ReadPlan, Speed
from stages.wipe_guard import Refused


@dataclass(frozen=True, slots=True)
class ReadRun:
    """What was read of one disk, as it came."""

    subject: Subject
    refused_open: str | None = None
    """Why the disk could not even be opened."""
    plan: ReadPlan | None = None
    speed: Speed | None = None
    jobs: Mapping[str, Job] = field(default_factory=dict)
    rechecked: Mapping[str, Job] = field(default_factory=dict)
    """Zones that were slow, read again while the disk had its bus to itself."""
    alone: Job | None = None
    """The rate of a disk that was below its floor, measured again while it had its bus to itself."""
    io_errors: tuple[IoError, ...] = ()
    problems: tuple[Finding, ...] = ()
    """Of the tool, not of the disk."""
    gone: str | None = None
    kernel_read_bytes: int | None = None
    """By the kernel's count, during the test."""
    fio_version: str = ""


@dataclass(frozen=True, slots=True)
class WriteRun:
    """What the destructive test of one disk brought."""

    subject: Subject
    refused: Refused | None = None
    size_bytes: int = 0
    planned_bytes: int = 0
    written_bytes: int = 0
    verified_bytes: int = 0
    kept_bytes: int = 0
    """Read back as written a second time, after `Options.retention_s`."""
    write_ms: int = 0
    mismatches: tuple[int, ...] = ()
    """Offsets of blocks that did not hold what had been written."""
    changed: tuple[int, ...] = ()
    """Offsets of blocks that did at first, and not when they were read again."""
    examined: tuple[Wrong, ...] = ()
    """Some of the blocks of `mismatches` and `changed`, looked at closely."""
    io_errors: tuple[IoError, ...] = ()
    problems: tuple[Finding, ...] = ()
    proof: Proof | None = None
    left_blank: bool | None = None
    gone: str | None = None


@dataclass(frozen=True, slots=True)
class StorageReadings:
    """What the stage saw of all disks."""

    unlisted: str = ""
    """Why the disks of the machine could not be listed; "" when they could."""
    found: tuple[Disk, ...] = ()
    expected_disks: tuple[ExpectedDisk, ...] | None = None
    """The claim's, for the judge knows no claim."""
    reads: tuple[ReadRun, ...] = ()
    destructive: bool = False
    """Whether the run asked for the write test."""
    writes: tuple[WriteRun, ...] = ()
    kernel_log_unreadable: str = ""
    kernel_lines: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What the kernel logged of a disk's errors during the test, by component."""
