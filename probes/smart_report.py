"""What smartctl said of one disk, as a value: `SmartReport`, and the bits of smartctl's exit status.

The exit status of smartctl is a bit mask (smartctl(8), EXIT STATUS): bit 0 command line, bit 1 device open,
bit 2 some command to the disk failed, bit 3 disk failing, bit 4 prefail attribute below its threshold now,
bits 5 to 7 older trouble. Only bits 0 and 1 say that there is nothing to parse.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from probes.smart_self_test_log import SelfTests

BIT_COMMAND_LINE = 1 << 0
BIT_OPEN = 1 << 1
BIT_COMMAND_FAILED = 1 << 2
BIT_FAILING = 1 << 3
BIT_PREFAIL = 1 << 4
BIT_PAST_THRESHOLD = 1 << 5
BIT_ERROR_LOG = 1 << 6
BIT_SELF_TEST_LOG = 1 << 7
NVME_SELF_TESTS_SINCE = (7, 4)
"""The smartctl that first shows the self-test log of NVMe disks."""


class Protocol(StrEnum):
    """What a disk speaks behind its bus, as smartctl names it."""

    ATA = "ATA"
    NVME = "NVMe"
    SCSI = "SCSI"


@dataclass(frozen=True, slots=True)
class AtaAttribute:
    """One row of an ATA drive's attribute table. `raw` is the number that smartctl shows first."""

    id: int
    name: str
    value: int
    threshold: int
    prefail: bool
    failing_now: bool
    raw: int


@dataclass(frozen=True, slots=True)
class NvmeHealth:
    """The NVMe SMART / Health Information log (page 02h). Spare and use in percent; None: not reported."""

    critical_warning: int | None
    available_spare: int | None
    available_spare_threshold: int | None
    percentage_used: int | None
    media_errors: int | None


@dataclass(frozen=True, slots=True)
class ScsiHealth:
    """A SCSI drive's own counters. None: the drive does not report it."""

    uncorrected_errors: int | None
    grown_defects: int | None
    pending_defects: int | None


@dataclass(frozen=True, slots=True)
class SmartReport:
    """What one `smartctl --json -x` said of one disk."""

    protocol: Protocol
    serial: str
    model: str
    size_bytes: int | None
    exit_status: int
    version: tuple[int, ...]
    """Of smartctl, for instance (7, 3)."""
    available: bool | None
    """SMART support; None: not said."""
    enabled: bool | None
    passed: bool | None
    """The disk's own overall health; None: not said."""
    temperature_c: int | None
    temperature_limit_c: int | None
    """The highest temperature that the disk itself allows."""
    temperature_recommended_c: int | None
    """Where the maker recommends to stay below; None where it is the limit, or not said."""
    power_on_hours: int | None
    written_bytes: int | None
    endurance_used_percent: int | None
    """Of an ATA or SCSI SSD, by its own word; NVMe disks have it in their health log."""
    attributes: tuple[AtaAttribute, ...]
    nvme: NvmeHealth | None
    scsi: ScsiHealth | None
    self_tests: SelfTests
    messages: tuple[str, ...]
    health_words: str = ""
    """SCSI: the informational exception behind a failed health, with its additional sense code."""

    def bit(self, mask: int) -> bool:
        """Whether that bit of the exit status is set."""
        return bool(self.exit_status & mask)

    def attribute(self, number: int) -> AtaAttribute | None:
        """The ATA attribute of that number."""
        return next((row for row in self.attributes if row.id == number), None)

    @property
    def missing(self) -> tuple[str, ...]:
        """What a verdict needs and this report lacks, in words."""
        lacks = [] if self.passed is not None else ["overall health"]
        if self.protocol is Protocol.ATA and not self.attributes:
            lacks.append("attribute table")
        if self.protocol is Protocol.NVME:
            lacks += _missing_of_nvme(self.nvme)
            if self.version >= NVME_SELF_TESTS_SINCE and self.self_tests.supported and not self.self_tests.logged:
                lacks.append("self-test log")
        if self.protocol is Protocol.SCSI:
            lacks += self._missing_of_scsi()
        return tuple(lacks)

    def _missing_of_scsi(self) -> list[str]:
        """A bridge or a virtual disk counts nothing; what lists its defects is a disk, and counts its errors too."""
        is_disk = self.scsi is not None and self.scsi.grown_defects is not None
        counts = self.scsi is not None and self.scsi.uncorrected_errors is not None
        return ["error counters"] if (is_disk or self.bit(BIT_COMMAND_FAILED)) and not counts else []


def _missing_of_nvme(health: NvmeHealth | None) -> list[str]:
    if health is None:
        return ["health log"]
    wanted = {
        "critical warning": health.critical_warning,
        "available spare": health.available_spare,
        "spare threshold": health.available_spare_threshold,
        "percentage used": health.percentage_used,
        "media errors": health.media_errors,
    }
    return [name for name, value in wanted.items() if value is None]
