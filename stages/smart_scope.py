"""Which disks SMART applies to. Where it does not, that is no fault; where it should, its absence is unknown."""

from __future__ import annotations

import re

from probes.smart import SELDOM_SMART, WITHOUT_SMART, Reading
from probes.smart_report import SmartReport

RAID_VOLUME = re.compile(
    r"\bRAID\b|PERC|LOGICAL VOLUME|MegaRAID|ServeRAID|Smart ?Array|^(?:AVAGO|LSI|LSILOGIC|BROADCOM|Adaptec)\b",
    re.IGNORECASE,
)
VIRTUAL_DISK = re.compile(r"^(?:QEMU|VMware|VBOX|Msft|Google|Xen|Nutanix|Virtual|LIO-ORG)\b", re.IGNORECASE)


def why_not_applicable(reading: Reading, *, expected: bool, behind_raid: bool) -> str | None:
    """Why SMART does not apply to this disk; None where it does.

    `behind_raid`: some disk behind a RAID controller could be read.
    """
    target, report = reading.target, reading.report
    if target.transport in WITHOUT_SMART:
        return f"SMART does not apply to {target.transport} disks"
    if report is not None and has_smart(report):
        return None
    if is_raid_volume(reading):
        return "a RAID volume; the disks behind it are judged each by itself" if behind_raid else None
    if report is not None and VIRTUAL_DISK.search(report.model):
        return f"a virtual disk ({report.model}) without SMART"
    if target.transport in SELDOM_SMART and not expected:
        return f"a disk on {target.transport} whose bridge passes no SMART data, and nobody expects it"
    return None


def is_raid_volume(reading: Reading) -> bool:
    """A volume that a RAID controller made up, rather than a disk."""
    if reading.target.pass_through:
        return False
    return reading.target.transport == "raid" or RAID_VOLUME.search(reading.model) is not None


def has_smart(report: SmartReport) -> bool:
    """Whether the disk tells anything of its health."""
    return report.available is True or report.passed is not None
