"""Judges the destructive test of one disk. Pure: takes what `stages.storage_write` brought back."""

from __future__ import annotations

from dataclasses import replace

from stages import stamps
from stages.outcome import Finding, Measurement, ReasonCode, error, info
from stages.storage_readings import WriteRun


def judge(run: WriteRun) -> tuple[list[Finding], list[Measurement]]:
    """What the destructive test says of the disk. Whatever was not done to its end is an error."""
    component, label = run.subject.component, run.subject.label
    if run.refused is not None:
        text = f"The disk {label} was not written to: {run.refused.sentence}"
        return [error(run.refused.code, component, text)], []
    findings = [*_lost(run), *_io(run), *_mismatch(run), *run.problems]
    if run.proof is not None:
        findings += stamps.judge(run.proof, component, label)
    if not findings and not _complete(run):
        text = (
            f"The write test of {label} did not come to its end: {run.written_bytes} of {run.planned_bytes} bytes were "
            f"written, {run.verified_bytes} verified, {run.kept_bytes} verified again later, and the capacity was "
            f"{'' if run.proof else 'not '}proven"
        )
        findings.append(error(ReasonCode.DISK_NOT_TESTED, component, text))
    if run.left_blank is False:
        text = f"The disk {label} could not be left blank: a further destructive test of it will need the wipe override"
        findings.append(info(ReasonCode.DISK_NOT_TESTED, component, text))
    return findings, _measurements(run)


def _complete(run: WriteRun) -> bool:
    done = {run.written_bytes, run.verified_bytes, run.kept_bytes}
    return run.proof is not None and done == {run.planned_bytes} and run.planned_bytes > 0


def _lost(run: WriteRun) -> list[Finding]:
    if run.gone is None:
        return []
    text = f"The disk {run.subject.label} was lost during the write test: {run.gone}"
    return [error(ReasonCode.DISK_LOST, run.subject.component, text)]


def _io(run: WriteRun) -> list[Finding]:
    if not run.io_errors:
        return []
    first = run.io_errors[0]
    lba = first.offset // (run.subject.disk.logical_block_size or 512)
    text = (
        f"The disk {run.subject.label} failed {len(run.io_errors)} request(s) of the write test, the first a "
        f"{first.direction} at LBA {lba}: {first.reason}"
    )
    return [error(ReasonCode.DISK_IO_ERROR, run.subject.component, text)]


def _mismatch(run: WriteRun) -> list[Finding]:
    """What fio found wrong: at once, or only when it read again."""
    findings = []
    changed = [stamps.Wrong(offset, None, stamps.Kind.CHANGED) for offset in run.changed]
    unnamed = [stamps.Wrong(offset, None) for offset in run.mismatches]
    for found, examples in ((run.mismatches, run.examined or unnamed), (run.changed, changed)):
        if found:
            one = stamps.mismatch(len(found), examples, run.subject.component, run.subject.label)
            lba = found[0] // (run.subject.disk.logical_block_size or 512)
            places = ", ".join(str(offset) for offset in found[:32])
            evidence = f"byte offsets: {places}\n{one.evidence}"
            findings.append(replace(one, message=f"{one.message} (LBA {lba})", evidence=evidence))
    return findings


def _measurements(run: WriteRun) -> list[Measurement]:
    component = run.subject.component
    if not run.size_bytes or not run.write_ms:
        return []
    rate = run.written_bytes / run.write_ms / 1000
    stamped = run.proof.read / run.size_bytes if run.proof else 0.0
    return [
        Measurement("write_throughput", component, round(rate, 1), "MB/s"),
        Measurement("written_and_verified", component, round(run.verified_bytes / run.size_bytes, 6), "1"),
        Measurement("stamped", component, round(stamped, 6), "1"),
    ]
