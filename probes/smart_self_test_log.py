"""The self-test logs of ATA, SCSI and NVMe disks, in one shape.

Three sources: smartctl's JSON (`ata_smart_self_test_log`, `scsi_self_test_N`, `nvme_self_test_log`) and, for NVMe disks
where smartctl is older than 7.4, `nvme self-test-log -o json`. Newest entry first in all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from probes.json_paths import dig, number, rows

ATA_IN_PROGRESS = 15
ATA_FAILED = range(3, 9)
SCSI_IN_PROGRESS = 15
SCSI_FAILED = range(3, 8)
SCSI_ENTRIES = 20
NVME_FAILED = range(5, 8)
NVME_UNUSED = 15
# What the standards allow a short test: SBC and NVM Express both say two minutes.
SHORT_TEST_S = 120.0


class TestEnd(StrEnum):
    """How a self-test in the log ended."""

    __test__ = False  # the name starts like a test class of pytest

    GOOD = "good"
    FAILED = "failed"
    ABORTED = "aborted"
    UNREADABLE = "unreadable"
    """There is an entry, and what it says cannot be read: it may be of a failure."""


@dataclass(frozen=True, slots=True)
class SelfTestEntry:
    """One finished self-test. `hours` is the disk's power-on time then (ATA drives count it modulo 65,536)."""

    extended: bool
    end: TestEnd
    text: str
    hours: int | None = None
    lba: int | None = None


@dataclass(frozen=True, slots=True)
class SelfTests:
    """What a disk says of its self-tests. `fraction_done` is None while running where the disk does not tell."""

    supported: bool | None
    """None: the disk's data does not say."""
    running: bool
    fraction_done: float | None
    short_s: float
    """How long the disk says that its short test takes."""
    entries: tuple[SelfTestEntry, ...]
    status: SelfTestEntry | None = None
    """ATA only: how the last test ended, by the drive's status byte."""
    logged: bool = False
    """The data holds a self-test log, if only an empty one."""

    @property
    def any_failure(self) -> bool:
        """Whether the log holds a failed test at all."""
        return any(entry.end is TestEnd.FAILED for entry in self.entries)

    @property
    def unresolved_failure(self) -> SelfTestEntry | None:
        """The newest failed test that no later good one of the same or greater extent supersedes."""
        good_short = good_extended = False
        for entry in self.entries:
            if entry.end is TestEnd.FAILED and not good_extended and (entry.extended or not good_short):
                return entry
            if entry.end is TestEnd.GOOD:
                good_extended |= entry.extended
                good_short = True
        return None


def parse_self_tests(document: Mapping[str, Any]) -> SelfTests:
    """From any smartctl JSON document that holds a self-test log, or none."""
    readers = {"ATA": _of_ata, "NVMe": _of_nvme}
    return readers.get(str(dig(document, "device", "protocol")), _of_scsi)(document)


def _of_ata(document: Mapping[str, Any]) -> SelfTests:
    data = dig(document, "ata_smart_data", "self_test")
    value = number(dig(data, "status", "value"))
    running = value is not None and value >> 4 == ATA_IN_PROGRESS
    minutes = number(dig(data, "polling_minutes", "short"))
    log = document.get("ata_smart_self_test_log")
    table = rows(log, "extended", "table") or rows(log, "standard", "table")
    supported = dig(document, "ata_smart_data", "capabilities", "self_tests_supported")
    return SelfTests(
        supported=supported if isinstance(supported, bool) else None,
        running=running,
        fraction_done=1 - (value & 15) / 10 if running and value is not None else None,
        short_s=minutes * 60.0 if minutes else SHORT_TEST_S,
        entries=tuple(entry for row in table if (entry := _ata_entry(row)) is not None),
        status=None if running or value is None else _entry_of_status(value, dig(data, "status", "string")),
        logged=isinstance(log, Mapping),
    )


def _ata_entry(row: object) -> SelfTestEntry | None:
    value = number(dig(row, "status", "value"))
    text = str(dig(row, "status", "string") or "")
    if value is not None and value >> 4 == ATA_IN_PROGRESS:
        return None
    return SelfTestEntry(
        extended=(number(dig(row, "type", "value")) or 0) & 0x7F == 2,
        end=_end_in_words(text) if value is None else _ata_end(value),
        text=text,
        hours=number(dig(row, "lifetime_hours")),
        lba=number(dig(row, "lba")),
    )


def _entry_of_status(value: int, text: object) -> SelfTestEntry:
    return SelfTestEntry(extended=False, end=_ata_end(value), text=str(text or ""))


def _ata_end(value: int) -> TestEnd:
    code = value >> 4
    if code == 0:
        return TestEnd.GOOD
    return TestEnd.FAILED if code in ATA_FAILED else TestEnd.ABORTED


def _of_scsi(document: Mapping[str, Any]) -> SelfTests:
    slots = [document.get(f"scsi_self_test_{index}") for index in range(SCSI_ENTRIES)]
    table = [row for row in slots if isinstance(row, Mapping)]
    known = bool(table) or "scsi_extended_self_test_seconds" in document
    return SelfTests(
        supported=True if known else None,
        running=any(_scsi_runs(row) for row in table),
        fraction_done=None,
        short_s=SHORT_TEST_S,
        entries=tuple(_scsi_entry(row) for row in table if not _scsi_runs(row)),
        logged=known,
    )


def _scsi_runs(row: Mapping[str, Any]) -> bool:
    text = str(dig(row, "result", "string") or "")
    value = number(dig(row, "result", "value"))
    return row.get("self_test_in_progress") is True or value == SCSI_IN_PROGRESS or "in progress" in text.lower()


def _scsi_entry(row: Mapping[str, Any]) -> SelfTestEntry:
    text = str(dig(row, "result", "string") or "")
    kind = str(dig(row, "code", "string") or "").lower()
    return SelfTestEntry(
        extended="long" in kind or "extended" in kind,
        end=_scsi_end(number(dig(row, "result", "value")), text),
        text=text,
        hours=number(dig(row, "power_on_time", "hours")),
        lba=number(dig(row, "lba_first_failure", "value")),
    )


def _scsi_end(value: int | None, text: str) -> TestEnd:
    """smartctl 7.3 gives the words only. Codes 1 and 2: aborted by a command or a reset (SPC, log page 10h)."""
    if value is None:
        return _end_in_words(text)
    if value == 0:
        return TestEnd.GOOD
    return TestEnd.FAILED if value in SCSI_FAILED else TestEnd.ABORTED


def _end_in_words(text: str) -> TestEnd:
    """For a log without codes. What is neither good nor aborted is a failure; no words at all say nothing."""
    words = text.lower()
    if not words:
        return TestEnd.UNREADABLE
    if words.startswith("completed") and not any(word in words for word in ("fail", "error:", "fatal")):
        return TestEnd.GOOD
    return TestEnd.ABORTED if "abort" in words or "interrupted" in words else TestEnd.FAILED


def _of_nvme(document: Mapping[str, Any]) -> SelfTests:
    log = document.get("nvme_self_test_log")
    supported = dig(document, "nvme_optional_admin_commands", "self_test")
    if not isinstance(supported, bool):
        supported = True if isinstance(log, Mapping) else None
    return _nvme_tests(
        supported,
        dig(log, "current_self_test_operation", "value"),
        dig(log, "current_self_test_completion_percent"),
        (
            row is not None
            and (
                dig(row, "self_test_result", "value"),
                dig(row, "self_test_code", "value"),
                dig(row, "self_test_result", "string"),
                dig(row, "power_on_hours"),
                dig(row, "lba"),
                dig(row, "status_code_type"),
                dig(row, "status_code"),
            )
            for row in rows(log, "table")
        ),
        logged=isinstance(log, Mapping),
    )


def parse_nvme_cli(document: Mapping[str, Any]) -> SelfTests:
    """From `nvme self-test-log -o json`."""
    return _nvme_tests(
        True,
        document.get("Current Device Self-Test Operation"),
        document.get("Current Device Self-Test Completion"),
        (
            row is not None
            and (
                dig(row, "Self test result"),
                dig(row, "Self test code"),
                None,
                dig(row, "Power on hours"),
                dig(row, "Failing LBA"),
                dig(row, "Status Code Type"),
                dig(row, "Status Code"),
            )
            for row in rows(document, "List of Valid Reports")
        ),
        logged=True,
    )


def _nvme_tests(
    supported: bool | None, operation: object, percent: object, table: Iterable[Any], *, logged: bool
) -> SelfTests:
    running = (number(operation) or 0) & 15 != 0
    done = number(percent)
    return SelfTests(
        supported=supported,
        running=running,
        fraction_done=(done & 127) / 100 if running and done is not None else None,
        short_s=SHORT_TEST_S,
        entries=tuple(entry for row in table if row and (entry := _nvme_entry(*row)) is not None),
        logged=logged,
    )


def _nvme_entry(
    result: object, code: object, text: object, hours: object, lba: object, status_type: object, status: object
) -> SelfTestEntry | None:
    """None for a slot of the log that was never used; smartctl leaves a null for such a slot between others."""
    value = number(result)
    if value == NVME_UNUSED:
        return None
    words = text if isinstance(text, str) else f"result code {value}"
    if value is None:
        end = _end_in_words(text if isinstance(text, str) else "")
    else:
        end = TestEnd.GOOD if value == 0 else TestEnd.FAILED if value in NVME_FAILED else TestEnd.ABORTED
    if end is TestEnd.FAILED and number(status) is not None:
        words += f" (status code type {number(status_type) or 0:X}h, status code {number(status):02X}h)"
    return SelfTestEntry(number(code) == 2, end, words, number(hours), number(lba))
