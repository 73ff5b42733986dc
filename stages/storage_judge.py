"""Judges the readings of Storage. Pure: for a live run and for evidence that is judged again."""

from __future__ import annotations

from collections.abc import Sequence

from probes.disks import Disk
from stages import storage_judge_read, storage_judge_write
from stages.outcome import Finding, Measurement, Outcome, ReasonCode, Severity, error, info
from stages.storage_disk import is_foreign
from stages.storage_judge_read import coverage_of, zones_evidence
from stages.storage_plan import Options
from stages.storage_readings import ReadRun, StorageReadings

__all__ = ["judge", "zones_evidence"]
KEPT_LINES = 16


def judge(readings: StorageReadings, options: Options) -> Outcome:
    """The outcome of the stage. Each disk found is judged, or said to be no part of this server."""
    if readings.unlisted:
        text = f"The disks of this machine could not be listed: {readings.unlisted}"
        return Outcome(text, (error(ReasonCode.PROBE_ERROR, "disks", text),))
    findings = [*_foreign(readings), *_absent(readings)]
    if not readings.reads and not _expected_to_be_read(readings):
        return Outcome("No disks", tuple(findings), hardware_present=False)
    findings += [*_unread(readings), *_kernel(readings)]
    measurements: list[Measurement] = []
    for read in readings.reads:
        more, figures = storage_judge_read.judge(read, options)
        findings += more
        measurements += figures
    for write in readings.writes:
        more, figures = storage_judge_write.judge(write)
        findings += more
        measurements += figures
    findings += _unwritten(readings)
    bad = [finding for finding in findings if finding.severity is Severity.ERROR]
    return Outcome(
        bad[0].message if bad else _headline(readings),
        tuple(findings),
        tuple(measurements),
        {read.subject.component: round(coverage_of(read), 6) for read in readings.reads},
        tool_versions=dict([("fio", read.fio_version) for read in readings.reads if read.fio_version][:1]),
    )


def _expected_to_be_read(readings: StorageReadings) -> list[Disk]:
    return [disk for disk in readings.found if not is_foreign(disk, readings.expected_disks)]


def _foreign(readings: StorageReadings) -> list[Finding]:
    return [
        info(
            ReasonCode.DISK_NOT_TESTED,
            disk.component,
            f"{disk.name} ({disk.model or 'unknown model'}) is removable or virtual media and is not expected here: "
            "not part of this server, not tested",
        )
        for disk in readings.found
        if is_foreign(disk, readings.expected_disks)
    ]


def _absent(readings: StorageReadings) -> list[Finding]:
    """Expected disks that are not there cannot have been tested."""
    here = {(disk.serial or "").strip() for disk in readings.found}
    return [
        error(
            ReasonCode.DISK_NOT_TESTED,
            f"disk:{expected.serial}",
            f"The expected disk with the serial {expected.serial} is not there, so that it could not be tested",
        )
        for expected in readings.expected_disks or ()
        if expected.serial.strip() not in here
    ]


def _unread(readings: StorageReadings) -> list[Finding]:
    """A disk of which there is no reading is never passed over."""
    seen = {read.subject.disk.name for read in readings.reads}
    text = "was found, but there is no reading of it: it was not tested"
    return [
        error(ReasonCode.DISK_NOT_TESTED, disk.component, f"The disk {disk.name} {text}")
        for disk in _expected_to_be_read(readings)
        if disk.name not in seen
    ]


def _unwritten(readings: StorageReadings) -> list[Finding]:
    """Where the run asked for the write test, each disk was written or refused."""
    if not readings.destructive:
        return []
    seen = {write.subject.component for write in readings.writes}
    return [
        error(
            ReasonCode.DISK_NOT_TESTED,
            read.subject.component,
            f"The disk {read.subject.label} was to be written and verified, and there is no reading of that",
        )
        for read in readings.reads
        if read.subject.component not in seen
    ]


def _kernel(readings: StorageReadings) -> list[Finding]:
    """What the kernel logged about each disk while it was tested."""
    if readings.kernel_log_unreadable:
        text = f"Whether the kernel saw disk errors is not known: {readings.kernel_log_unreadable}"
        return [error(ReasonCode.PROBE_ERROR, "kernel_log", text)]
    labels = {read.subject.component: read.subject.label for read in readings.reads}
    return [
        error(
            ReasonCode.DISK_IO_ERROR,
            component,
            f"The kernel logged {len(lines)} error(s) of {labels[component]} during the test: {lines[0]}",
            "\n".join(lines[:KEPT_LINES]),
        )
        for component, lines in readings.kernel_lines.items()
        if lines and component in labels
    ]


def _headline(readings: StorageReadings) -> str:
    reads: Sequence[ReadRun] = readings.reads
    least = min((coverage_of(read) for read in reads), default=0.0)
    done = f"{len(reads)} disk(s) read without error, at least {least:.0%} of each"
    written = [write for write in readings.writes if write.refused is None]
    return f"{done}; {len(written)} written and verified" if written else done
