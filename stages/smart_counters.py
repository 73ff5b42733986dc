"""The counters of lost, damaged and replaced data in a SMART report, where this model means by them what most do."""

from __future__ import annotations

import re

from probes.smart_report import SmartReport

REALLOCATED, REPORTED, PENDING, OFFLINE_UNCORRECTABLE, LINK_CRC = 5, 187, 197, 198, 199
# Attribute numbers are the makers' own; smartctl's drive database names what each means on this model.
MEANINGS = {
    REALLOCATED: ("realloc", "retired", "bad_block", "bad_blk", "grown", "defect"),
    REPORTED: ("uncor",),
    PENDING: ("pending",),
    OFFLINE_UNCORRECTABLE: ("uncor",),
    LINK_CRC: ("crc",),
}
# SSDs whose attribute 197 counts pages being corrected, comes and goes, and costs no data. smartctl's database calls it
# Current_Pending_ECC_Cnt on them and on their kin ("MX500: may flip 0 <> 1"); smartmontools issue 48, beszel pull 2308.
MISUSES_PENDING = re.compile(
    r"(?:Crucial[ _])?CT\d+(?:MX300|MX500|BX300|BX500)SSD|Micron[ _]1[13]00[ _]|ATP (?:I-Temp\. )?SATA ?III\b",
    re.IGNORECASE,
)
PENDING_ECC = "Current_Pending_ECC_Cnt"
SECTORS_PENDING = "sectors pending"
ERRORS_REPORTED = "errors reported as uncorrectable"
NVME_MEDIA_ERRORS = "NVMe media errors"


def counted(report: SmartReport, number: int) -> int | None:
    """The raw value of an attribute, where this model means by it what the number usually means."""
    row = report.attribute(number)
    if row is None or not any(word in row.name.lower() for word in MEANINGS[number]):
        return None
    return row.raw


def media_errors(report: SmartReport) -> dict[str, int]:
    """The counters of data that the disk could not give back, by what they count."""
    counts: dict[str, int | None] = {
        SECTORS_PENDING: counted(report, PENDING),
        ERRORS_REPORTED: counted(report, REPORTED),
        "sectors offline-uncorrectable": counted(report, OFFLINE_UNCORRECTABLE),
        NVME_MEDIA_ERRORS: report.nvme.media_errors if report.nvme else None,
        "uncorrected errors": report.scsi.uncorrected_errors if report.scsi else None,
        "defects pending": report.scsi.pending_defects if report.scsi else None,
    }
    return {what: count for what, count in counts.items() if count is not None}


def reallocated(report: SmartReport) -> int | None:
    """Sectors that the disk has replaced, None where it does not count them."""
    return report.scsi.grown_defects if report.scsi else counted(report, REALLOCATED)


def misuses_pending(report: SmartReport) -> bool:
    """Whether its pending sectors are none: only a warning, and a change of them no loss."""
    row = report.attribute(PENDING)
    flips = row is not None and row.name == PENDING_ECC and row.raw == 1
    return flips or MISUSES_PENDING.match(report.model) is not None
