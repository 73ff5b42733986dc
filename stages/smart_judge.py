"""What SMART data says of a disk: readings in, findings and measurements out. Nothing here touches the machine.

Each disk ends judged (with or without findings), unknown (`smart_unreadable`), or not applicable.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from probes.smart import Reading
from probes.smart_report import (
    BIT_ERROR_LOG,
    BIT_FAILING,
    BIT_PAST_THRESHOLD,
    BIT_PREFAIL,
    BIT_SELF_TEST_LOG,
    SmartReport,
)
from probes.smart_self_test import SelfTestEnd, SelfTestResult
from probes.smart_self_test_log import TestEnd
from stages.outcome import Finding, Measurement, ReasonCode, error, info, warning
from stages.smart_counters import (
    ERRORS_REPORTED,
    LINK_CRC,
    NVME_MEDIA_ERRORS,
    SECTORS_PENDING,
    counted,
    media_errors,
    misuses_pending,
    reallocated,
)
from stages.smart_scope import has_smart, is_raid_volume, why_not_applicable

UNJUDGED = frozenset({ReasonCode.SMART_UNREADABLE, ReasonCode.DISK_LOST})
NVME_WARNINGS = (
    "spare below its threshold",
    "temperature out of its limits",
    "reliability degraded",
    "media read-only",
    "volatile memory backup failed",
    "persistent memory region unreliable",
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Thresholds that a profile may change, in percent of an NVMe disk's rated endurance."""

    wear_warning_percent: float
    wear_failed_percent: float


@dataclass(frozen=True, slots=True)
class Case:
    """All that was read of one disk. `after` is None when nothing ran in between; `test` when none was asked for."""

    before: Reading
    after: Reading | None = None
    test: SelfTestResult | None = None
    expected: bool = False
    """The claim names this disk."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is said of one disk. `applies` is False where SMART does not apply to it."""

    component: str
    applies: bool
    findings: tuple[Finding, ...] = ()
    measurements: tuple[Measurement, ...] = ()

    @property
    def judged(self) -> bool:
        """Whether its data could be read and judged."""
        return self.applies and UNJUDGED.isdisjoint(finding.reason_code for finding in self.findings)


def judge_disk(case: Case, limits: Limits, *, behind_raid: bool) -> Judgement:
    """Everything about one disk."""
    reading = case.before
    reason = why_not_applicable(reading, expected=case.expected, behind_raid=behind_raid)
    if reason is not None:
        note = info(ReasonCode.SMART_UNREADABLE, reading.component, f"{reading.target.name}: {reason}")
        return Judgement(reading.component, False, (note,))
    last = case.after if case.after and case.after.report else reading
    findings = [*_unreadable(case)]
    measurements: list[Measurement] = []
    if last.report is not None and has_smart(last.report):
        disk = _Disk(last.component, f"{last.model or 'disk'} {last.target.name}", last.report)
        first = reading.report if reading.report else last.report
        findings += [*_health(disk), *_media(disk, first), *_reallocated(disk, first), *_nvme(disk, limits)]
        findings += [
            *_worn(disk, limits),
            *_link(disk, first),
            *_temperature(disk),
            *_history(disk, case.test),
            *_old_trouble(disk),
        ]
        measurements += _measurements(disk, limits)
    findings += _self_test(case)
    return Judgement(reading.component, True, tuple(findings), tuple(measurements))


@dataclass(frozen=True, slots=True)
class _Disk:
    component: str
    called: str
    report: SmartReport

    @property
    def evidence(self) -> str:
        return f"smartctl exit status {self.report.exit_status}"


def _unreadable(case: Case) -> Iterator[Finding]:
    reading, component = case.before, case.before.component
    name = f"{reading.model} {reading.target.name}".strip()
    if reading.report is None:
        yield _no(component, f"{name}: its SMART data could not be read: {reading.problem}")
    elif not has_smart(reading.report):
        what = "a RAID volume whose disks could not be reached" if is_raid_volume(reading) else "it tells no SMART data"
        yield _no(component, f"{name}: {what}", "; ".join(reading.report.messages))
    elif reading.report.enabled is False:
        yield _no(component, f"{name}: SMART is switched off on it; switch it on with smartctl -s on")
    elif reading.report.missing:
        yield _no(component, f"{name}: its SMART data lacks: {', '.join(reading.report.missing)}")
    elif case.after is not None:
        yield from _unreadable_after(name, reading.report, case.after)


def _unreadable_after(name: str, before: SmartReport, after: Reading) -> Iterator[Finding]:
    component = f"disk:{before.serial}" if before.serial else after.component
    if after.report is None and after.unreachable:
        text = f"{name}: it had answered before and was gone when the stage ended: {after.problem}"
        yield error(ReasonCode.DISK_LOST, component, text)
    elif after.report is None:
        text = f"{name}: it could be read when the stage began and not when it ended: {after.problem}"
        yield _no(component, text)
    elif after.report.serial != before.serial:
        yield _no(component, f"{name}: when the stage ended another disk answered there ({after.report.serial})")
    elif after.report.missing:
        text = f"{name}: when the stage ended its SMART data lacked: {', '.join(after.report.missing)}"
        yield _no(component, text)


def _no(component: str, message: str, evidence: str = "") -> Finding:
    return error(ReasonCode.SMART_UNREADABLE, component, message, evidence)


def _health(disk: _Disk) -> Iterator[Finding]:
    report = disk.report
    warned = report.nvme is not None and bool(report.nvme.critical_warning)
    if (report.passed is False or report.bit(BIT_FAILING)) and not warned:
        text = f"{disk.called}: the disk itself says that it is failing (SMART overall health)"
        evidence = "; ".join(filter(None, (report.health_words, disk.evidence)))
        yield error(ReasonCode.SMART_HEALTH_FAILED, disk.component, text, evidence)
    rows = [row for row in report.attributes if row.failing_now and row.prefail]
    for row in rows:
        text = f"{disk.called}: {row.name} is at {row.value}, its maker's failure threshold is {row.threshold}"
        yield error(ReasonCode.SMART_PREFAIL, disk.component, text, f"attribute {row.id}, raw {row.raw}")
    if report.bit(BIT_PREFAIL) and not rows:
        text = f"{disk.called}: smartctl says that a prefail attribute is below its threshold"
        yield error(ReasonCode.SMART_PREFAIL, disk.component, text, disk.evidence)


def _media(disk: _Disk, first: SmartReport) -> Iterator[Finding]:
    earlier = media_errors(first)
    for what, count in media_errors(disk.report).items():
        misused = what == SECTORS_PENDING and misuses_pending(disk.report)
        if count > earlier.get(what, count) and not misused:
            text = f"{disk.called}: {what} rose from {earlier[what]} to {count} during the stage"
            yield error(ReasonCode.DISK_MEDIA_ERRORS, disk.component, text)
        elif count > 0:
            # What was once reported may long be replaced and forgotten; what is pending now is not.
            mild = misused or what in {NVME_MEDIA_ERRORS, ERRORS_REPORTED}
            text = f"{disk.called}: {count} {what}"
            yield (warning if mild else error)(ReasonCode.DISK_MEDIA_ERRORS, disk.component, text)


def _reallocated(disk: _Disk, first: SmartReport) -> Iterator[Finding]:
    before, now = reallocated(first), reallocated(disk.report)
    what = "defects on its grown list" if disk.report.scsi else "reallocated sectors"
    if now is not None and before is not None and now > before:
        text = f"{disk.called}: {what} rose from {before} to {now} during the stage"
        yield error(ReasonCode.DISK_REALLOCATED, disk.component, text)
    elif now:
        yield warning(ReasonCode.DISK_REALLOCATED, disk.component, f"{disk.called}: {now} {what}")


def _nvme(disk: _Disk, limits: Limits) -> Iterator[Finding]:
    health = disk.report.nvme
    if health is None:
        return
    if health.critical_warning:
        words = [word for bit, word in enumerate(NVME_WARNINGS) if health.critical_warning >> bit & 1]
        text = f"{disk.called}: NVMe critical warning: {', '.join(words) or 'reserved bits'}"
        evidence = f"critical_warning 0x{health.critical_warning:02x}"
        yield error(ReasonCode.NVME_CRITICAL_WARNING, disk.component, text, evidence)
    spare, threshold = health.available_spare, health.available_spare_threshold
    if spare is not None and threshold is not None and spare < threshold:
        text = f"{disk.called}: {spare} % spare blocks left, the maker's threshold is {threshold} %"
        yield error(ReasonCode.NVME_SPARE_LOW, disk.component, text)
    used = health.percentage_used
    if used is not None and used > min(limits.wear_warning_percent, limits.wear_failed_percent):
        text = f"{disk.called}: {used} % of its rated endurance is used"
        grade = error if used > limits.wear_failed_percent else warning
        yield grade(ReasonCode.NVME_WORN, disk.component, text)


def _worn(disk: _Disk, limits: Limits) -> Iterator[Finding]:
    """SATA and SAS SSDs: a warning, since far from all of them count what they were rated for."""
    used = disk.report.endurance_used_percent
    if used is not None and used > limits.wear_warning_percent:
        yield warning(ReasonCode.DISK_WORN, disk.component, f"{disk.called}: {used} % of its rated endurance is used")


def _link(disk: _Disk, first: SmartReport) -> Iterator[Finding]:
    """CRC errors on the cable while we watched. Old ones stay in the counter for ever, whatever was done about them."""
    before, now = counted(first, LINK_CRC), counted(disk.report, LINK_CRC)
    if before is not None and now is not None and now > before:
        text = f"{disk.called}: CRC errors on its link rose from {before} to {now} during the stage"
        yield warning(ReasonCode.DISK_LINK_ERRORS, disk.component, text)


def _temperature(disk: _Disk) -> Iterator[Finding]:
    report = disk.report
    now, limit, recommended = report.temperature_c, report.temperature_limit_c, report.temperature_recommended_c
    if now is None:
        return
    if limit is not None and now >= limit:
        text = f"{disk.called}: {now} °C, its own limit is {limit} °C"
        yield error(ReasonCode.DISK_OVERHEATED, disk.component, text)
    elif recommended is not None and now >= recommended:
        text = f"{disk.called}: {now} °C, its maker recommends less than {recommended} °C"
        yield warning(ReasonCode.DISK_OVERHEATED, disk.component, text)


def _history(disk: _Disk, test: SelfTestResult | None) -> Iterator[Finding]:
    """A test that failed before, and that no later good one supersedes."""
    if test is not None and test.end is SelfTestEnd.FAILED:
        return  # that one is the newest, and is reported as the one we ran
    failed = disk.report.self_tests.unresolved_failure
    if failed is not None:
        where = f" at LBA {failed.lba}" if failed.lba is not None else ""
        kind = "an extended" if failed.extended else "a short"
        text = f"{disk.called}: {kind} self-test failed{where}, and no later good one supersedes it: {failed.text}"
        yield error(ReasonCode.SMART_SELF_TEST_FAILED, disk.component, text, f"at {failed.hours} power-on hours")
    elif any(entry.end is TestEnd.UNREADABLE for entry in disk.report.self_tests.entries):
        yield _no(disk.component, f"{disk.called}: an entry of its self-test log could not be read", disk.evidence)
    elif disk.report.bit(BIT_SELF_TEST_LOG) and not disk.report.self_tests.any_failure:
        text = f"{disk.called}: smartctl says that its self-test log holds errors, and the log with them was not read"
        yield _no(disk.component, text, disk.evidence)


def _old_trouble(disk: _Disk) -> Iterator[Finding]:
    if disk.report.bit(BIT_PAST_THRESHOLD):
        text = f"{disk.called}: some attribute was at or below its threshold at some time"
        yield info(ReasonCode.EARLIER_EVENTS, disk.component, text, disk.evidence)
    if disk.report.bit(BIT_ERROR_LOG):
        yield info(
            ReasonCode.EARLIER_EVENTS, disk.component, f"{disk.called}: its error log holds entries", disk.evidence
        )


def _self_test(case: Case) -> Iterator[Finding]:
    test, component = case.test, case.before.component
    if test is None or test.end is SelfTestEnd.PASSED:
        return
    name = f"{case.before.model} {case.before.target.name}".strip()
    where = f" at LBA {test.lba}" if test.lba is not None else ""
    grade, code, text = {
        SelfTestEnd.FAILED: (error, ReasonCode.SMART_SELF_TEST_FAILED, f"its short self-test failed{where}"),
        SelfTestEnd.TIMEOUT: (error, ReasonCode.SMART_SELF_TEST_TIMEOUT, "its short self-test did not end in time"),
        SelfTestEnd.NOT_RUN: (error, ReasonCode.SMART_SELF_TEST_NOT_RUN, "its short self-test gave no result"),
        SelfTestEnd.TOOL_MISSING: (error, ReasonCode.TOOL_MISSING, "its short self-test could not be run"),
        SelfTestEnd.NOT_SUPPORTED: (info, ReasonCode.SMART_SELF_TEST_NOT_RUN, "no short self-test"),
        SelfTestEnd.SKIPPED: (info, ReasonCode.SMART_SELF_TEST_NOT_RUN, "short self-test left out"),
    }[test.end]
    yield grade(code, component, f"{name}: {text}: {test.detail}")


def _measurements(disk: _Disk, limits: Limits) -> Iterator[Measurement]:
    report, component = disk.report, disk.component
    if report.temperature_c is not None:
        limit = report.temperature_limit_c
        ok = None if limit is None else report.temperature_c < limit
        yield Measurement("temperature", component, report.temperature_c, "C", limit, ok)
    if report.power_on_hours is not None:
        yield Measurement("power_on_hours", component, report.power_on_hours, "h")
    if report.written_bytes is not None:
        yield Measurement("written", component, round(report.written_bytes / 1e9, 1), "GB")
    if report.nvme is not None and report.nvme.percentage_used is not None:
        used, limit_ = report.nvme.percentage_used, limits.wear_failed_percent
        yield Measurement("percentage_used", component, used, "%", limit_, used <= limit_)
    if report.nvme is not None and report.nvme.available_spare is not None:
        spare, least = report.nvme.available_spare, report.nvme.available_spare_threshold
        yield Measurement("available_spare", component, spare, "%", least, None if least is None else spare >= least)
    if report.endurance_used_percent is not None:
        used, limit_ = report.endurance_used_percent, limits.wear_warning_percent
        yield Measurement("percentage_used", component, used, "%", limit_, used <= limit_)
    if (crc := counted(report, LINK_CRC)) is not None:
        yield Measurement("link_crc_errors", component, crc, "count")
    if (count := reallocated(report)) is not None:
        yield Measurement("reallocated", component, count, "count")
    counts = media_errors(report)
    if counts:
        yield Measurement("media_errors", component, sum(counts.values()), "count", 0, not any(counts.values()))
