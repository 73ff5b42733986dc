"""The destructive test of one disk: write, verify, prove its capacity, leave it blank. Behind `stages.wipe_door` only.

Writing and verifying are two runs of fio over the same blocks, so that every write is done before the first read.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from probes.host import Host
from probes.tools import ToolError
from stages import fio, stamps
from stages.outcome import Finding, Measurement, ReasonCode, error, info
from stages.runner import tool_finding
from stages.stage import RunFacts
from stages.storage_disk import Subject, whereabouts
from stages.storage_plan import FILL, Options, block_size, spread
from stages.wipe_door import WipeRefused, Writable, open_for_writing
from stages.wipe_guard import HostDisks, Refused

DEPTH = 32
GRACE_S = 60.0
TRIAL_BLOCKS = 64
# Per block written: the write, its verification, and the blank pattern afterwards.
PASSES = 3
PATIENCE = 4.0
SLOWEST_BYTES_PER_S = 20e6
ZEROS = "00" * 8
VERIFY = ("--verify=crc32c", "--randrepeat=1", "--verify_fatal=0")


@dataclass(slots=True)
class WriteRun:
    """What the destructive test of one disk brought. Judged by `judge`."""

    subject: Subject
    refused: Refused | None = None
    size_bytes: int = 0
    planned_bytes: int = 0
    written_bytes: int = 0
    verified_bytes: int = 0
    write_ms: int = 0
    mismatches: list[int] = field(default_factory=list)
    io_errors: list[fio.IoError] = field(default_factory=list)
    problems: list[Finding] = field(default_factory=list)
    proof: stamps.Proof | None = None
    left_blank: bool | None = None
    gone: str | None = None


async def write_disk(
    host: Host,
    subject: Subject,
    others: HostDisks,
    facts: RunFacts,
    options: Options,
    time_s: float,
    planned: Callable[[float], None],
) -> WriteRun:
    """Decide, and if the disk may be written, test it. Raises nothing but a cancel."""
    run = WriteRun(subject)
    try:
        async with open_for_writing(host, subject.disk, others, facts) as disk:
            run.size_bytes = disk.size_bytes
            await exercise(host, disk, run, options, time_s, planned)
            run.gone = whereabouts(host, disk.fd, disk.size_bytes)
    except WipeRefused as refusal:
        run.refused = refusal.refused
    return run


async def exercise(
    host: Host, disk: Writable, run: WriteRun, options: Options, time_s: float, planned: Callable[[float], None]
) -> None:
    """All that is done to a disk that may be written. Stops at the first step that fails."""
    block = block_size(disk.size_bytes, rotational=run.subject.rotational, options=options)
    trial = spread(disk.size_bytes, block, TRIAL_BLOCKS)
    if not await _write_and_verify(host, disk, run, trial, GRACE_S):
        return
    block_s = max(run.write_ms, 1) / 1000 / sum(segment.count for segment in trial)
    wanted = _wanted(disk.size_bytes // block, block_s, options, time_s)
    main_s = wanted * block_s * PASSES / FILL
    proof_s = 2 * stamps.stamped_bytes(disk.size_bytes, stamps.span_of(disk.size_bytes)) / SLOWEST_BYTES_PER_S + GRACE_S
    planned(main_s + proof_s)
    main = spread(disk.size_bytes, block, wanted)
    if not await _write_and_verify(host, disk, run, main, PATIENCE * main_s + GRACE_S):
        return
    run.proof = await _guarded(run, stamps.prove(host, disk.fd, disk.size_bytes, PATIENCE * proof_s))
    if options.leave_blank:
        run.left_blank = await _make_blank(host, disk, run, [trial, main], PATIENCE * (main_s + proof_s))


def _wanted(blocks: int, block_s: float, options: Options, time_s: float) -> int:
    """How many blocks to write."""
    if options.write_fraction is not None:
        return max(1, math.ceil(options.write_fraction * blocks))
    return min(blocks, max(TRIAL_BLOCKS, int(time_s * FILL / PASSES / block_s)))


async def _write_and_verify(
    host: Host, disk: Writable, run: WriteRun, segments: Sequence[fio.Segment], limit_s: float
) -> bool:
    """True when every block was written, and every one read back as written."""
    wanted = sum(segment.io_bytes for segment in segments)
    run.planned_bytes, run.written_bytes, run.verified_bytes = wanted, 0, 0
    wrote = await _fio(host, disk, run, segments, (*VERIFY, "--do_verify=0"), limit_s)
    if wrote is None:
        return False
    run.written_bytes = sum(job.write_bytes for job in wrote.jobs.values())
    run.write_ms = sum(job.runtime_ms for job in wrote.jobs.values())
    if not _all_well(wrote) or run.written_bytes != wanted:
        return False
    verified = await _fio(host, disk, run, segments, (*VERIFY, "--verify_only=1"), limit_s)
    if verified is None:
        return False
    run.verified_bytes = sum(job.read_bytes for job in verified.jobs.values())
    return _all_well(verified) and run.verified_bytes == wanted


def _all_well(report: fio.Report) -> bool:
    jobs_well = all(job.error == 0 and job.total_errors == 0 for job in report.jobs.values())
    return jobs_well and not report.io_errors and not report.mismatches and not report.failed


async def _fio(
    host: Host, disk: Writable, run: WriteRun, segments: Sequence[fio.Segment], extra: Sequence[str], limit_s: float
) -> fio.Report | None:
    """One fio that writes; None when it gave no answer. Keeps errors, mismatches and problems in `run`."""
    argv = fio.argv(disk.fd, segments, write=True, depth=DEPTH, extra=extra)
    component = run.subject.component
    said: fio.Report | None = None
    report: fio.Report | None = None
    try:
        result = await host.tools.run(*argv, timeout_s=limit_s, accept=None, load=True, pass_fds=(disk.fd,))
        said = report = fio.parse(result)
        run.problems += _unexplained(report, component)
    except ToolError as problem:
        run.problems.append(tool_finding(problem, component))
        said = fio.messages(problem.result) if problem.result else None
    except fio.Unreadable as problem:
        run.problems.append(error(ReasonCode.OUTPUT_UNREADABLE, component, str(problem)))
        said = problem.report
    if said:
        run.io_errors += said.io_errors
        run.mismatches += said.mismatches
    return report


def _unexplained(report: fio.Report, component: str) -> list[Finding]:
    """A job that ended with an error of which no message tells: never to be overlooked."""
    if report.io_errors or report.mismatches:
        return []
    if report.failed:
        return [error(ReasonCode.TOOL_FAILED, component, report.failed)]
    bad = [job for job in report.jobs.values() if job.error or job.total_errors]
    if not bad:
        return []
    code = ReasonCode.DISK_VERIFY_MISMATCH if bad[0].error == fio.EILSEQ else ReasonCode.DISK_IO_ERROR
    text = f"fio ended {bad[0].name} with error {bad[0].error} ({bad[0].total_errors} in all) and said no more"
    return [error(code, component, text)]


async def _guarded(run: WriteRun, proving: Awaitable[stamps.Proof]) -> stamps.Proof | None:
    """The proof, or None and a problem."""
    try:
        return await proving
    except ToolError as problem:
        run.problems.append(tool_finding(problem, run.subject.component))
    except ValueError as problem:
        run.problems.append(error(ReasonCode.OUTPUT_UNREADABLE, run.subject.component, str(problem)))
    return None


async def _make_blank(
    host: Host, disk: Writable, run: WriteRun, parts: Sequence[Sequence[fio.Segment]], limit_s: float
) -> bool:
    """Write the disk's own blank pattern over all that was written, so that a second run finds it blank again."""
    pattern = disk.pattern or ZEROS
    for segments in parts:
        report = await _fio(host, disk, run, segments, (f"--buffer_pattern=0x{pattern}",), limit_s + GRACE_S)
        if report is None or not _all_well(report):
            return False
    try:
        return await stamps.fill(host, disk.fd, disk.size_bytes, pattern, limit_s + GRACE_S)
    except (ToolError, ValueError):
        return False


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
            f"written, {run.verified_bytes} verified, and the capacity was {'' if run.proof else 'not '}proven"
        )
        findings.append(error(ReasonCode.DISK_NOT_TESTED, component, text))
    if run.left_blank is False:
        text = f"The disk {label} could not be left blank: a further destructive test of it will need the wipe override"
        findings.append(info(ReasonCode.DISK_NOT_TESTED, component, text))
    return findings, _measurements(run)


def _complete(run: WriteRun) -> bool:
    return run.proof is not None and 0 < run.planned_bytes == run.written_bytes == run.verified_bytes


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
    if not run.mismatches:
        return []
    lba = run.mismatches[0] // (run.subject.disk.logical_block_size or 512)
    text = (
        f"The disk {run.subject.label} gave back other data than was written to it, in {len(run.mismatches)} block(s) "
        f"or more, the first at LBA {lba}"
    )
    places = ", ".join(str(offset) for offset in run.mismatches[:32])
    return [error(ReasonCode.DISK_VERIFY_MISMATCH, run.subject.component, text, f"byte offsets: {places}")]


def _measurements(run: WriteRun) -> list[Measurement]:
    component = run.subject.component
    if not run.size_bytes or not run.write_ms:
        return []
    rate = run.written_bytes / run.write_ms / 1000
    return [
        Measurement("write_throughput", component, round(rate, 1), "MB/s"),
        Measurement("written_and_verified", component, round(run.verified_bytes / run.size_bytes, 6), "1"),
    ]
