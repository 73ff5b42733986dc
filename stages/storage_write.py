"""The destructive test of one disk: write, verify, verify again, prove its capacity, leave it blank.

Behind `stages.wipe_door` only. Writing and verifying are runs of fio over the same blocks, so that every write is done
before the first read. What is written names this run and its place: data of an earlier run, or of another place, is
wrong (with verify=crc32c fio 3.33 takes any block whose checksum agrees with its own header, stale ones too).
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from probes.host import Host
from probes.tools import ToolError
from stages import fio, stamps
from stages.outcome import Finding, ReasonCode, error
from stages.runner import tool_finding
from stages.stage import RunFacts
from stages.storage_disk import Subject, whereabouts
from stages.storage_plan import FILL, Options, block_size, spread
from stages.storage_readings import WriteRun
from stages.wipe_door import WipeRefused, Writable, open_for_writing
from stages.wipe_guard import HostDisks

DEEPEST, SHALLOWEST = 32, 2
MEMORY = 2**30
"""For the requests of all disks together."""
GRACE_S = 60.0
EXAMINE_LIMIT_S = 60.0
TRIAL_BLOCKS = 64
# Per block written: the write, its two verifications, and the blank pattern afterwards.
PASSES = 4
PATIENCE = 4.0
SLOWEST_BYTES_PER_S = 20e6
ZEROS = "00" * 8
NONCE_BYTES = 504
"""What fio repeats: so many bytes of this run's own, then the 8 bytes of the request's offset."""


@dataclass(slots=True)
class Writing:
    """The state of one write test while it goes on; `done` makes its readings."""

    subject: Subject
    nonce: str = field(default_factory=lambda: secrets.token_hex(NONCE_BYTES))
    memory_bytes: int = MEMORY
    size_bytes: int = 0
    planned_bytes: int = 0
    written_bytes: int = 0
    verified_bytes: int = 0
    kept_bytes: int = 0
    write_ms: int = 0
    mismatches: list[int] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    examined: tuple[stamps.Wrong, ...] = ()
    io_errors: list[fio.IoError] = field(default_factory=list)
    problems: list[Finding] = field(default_factory=list)
    proof: stamps.Proof | None = None
    left_blank: bool | None = None
    gone: str | None = None

    @property
    def verify(self) -> tuple[str, ...]:
        """fio's arguments for what is written and expected back."""
        return ("--verify=pattern", f"--verify_pattern=0x{self.nonce}%o", "--verify_fatal=0")

    def depth(self, block: int) -> int:
        """Requests at once, so that no number of disks fills the memory."""
        return max(SHALLOWEST, min(DEEPEST, self.memory_bytes // block))

    def done(self) -> WriteRun:
        """What it brought."""
        return WriteRun(
            self.subject,
            size_bytes=self.size_bytes,
            planned_bytes=self.planned_bytes,
            written_bytes=self.written_bytes,
            verified_bytes=self.verified_bytes,
            kept_bytes=self.kept_bytes,
            write_ms=self.write_ms,
            mismatches=tuple(self.mismatches),
            changed=tuple(self.changed),
            examined=self.examined,
            io_errors=tuple(self.io_errors),
            problems=tuple(self.problems),
            proof=self.proof,
            left_blank=self.left_blank,
            gone=self.gone,
        )


def write_memory(disks: int) -> int:
    """Bytes of requests that each of so many disks may have under way at once."""
    return MEMORY // max(1, disks)


async def write_disk(
    host: Host,
    subject: Subject,
    others: HostDisks,
    facts: RunFacts,
    options: Options,
    time_s: float,
    planned: Callable[[float], None],
    memory_bytes: int = MEMORY,
) -> WriteRun:
    """Decide, and if the disk may be written, test it. Raises nothing but a cancel."""
    run = Writing(subject, memory_bytes=memory_bytes)
    try:
        async with open_for_writing(host, subject.disk, others, facts) as disk:
            run.size_bytes = disk.size_bytes
            await exercise(host, disk, run, options, time_s, planned)
            run.gone = whereabouts(host, disk.fd, disk.size_bytes)
    except WipeRefused as refusal:
        return WriteRun(subject, refused=refusal.refused)
    return run.done()


async def exercise(
    host: Host, disk: Writable, run: Writing, options: Options, time_s: float, planned: Callable[[float], None]
) -> None:
    """All that is done to a disk that may be written. Stops at the first step that fails; where that is data that
    came back wrong, its cause is looked for all the same."""
    block = block_size(disk.size_bytes, rotational=run.subject.rotational, options=options)
    proof_bytes = stamps.stamped_bytes(disk.size_bytes, stamps.span_of(disk.size_bytes))
    proof_s = 3 * proof_bytes / SLOWEST_BYTES_PER_S + GRACE_S
    trial = spread(disk.size_bytes, block, TRIAL_BLOCKS)
    parts: list[Sequence[fio.Segment]] = [trial]
    well = await _write_and_verify(host, disk, run, trial, GRACE_S)
    if well:
        block_s = max(run.write_ms, 1) / 1000 / sum(segment.count for segment in trial)
        wanted = _wanted(disk.size_bytes // block, block_s, options, time_s)
        main_s = wanted * block_s * PASSES / FILL
        planned(main_s + proof_s + 2 * options.retention_s)
        parts.append(spread(disk.size_bytes, block, wanted))
        limit_s = PATIENCE * main_s + GRACE_S
        well = await _write_and_verify(host, disk, run, parts[-1], limit_s)
        well = well and await _verify_again(host, disk, run, parts[-1], limit_s, options.retention_s)
    if run.mismatches:
        run.examined = await _examined(host, disk, run)
    if not well and not run.mismatches:
        return
    run.proof = await _guarded(
        run, stamps.prove(host, disk.fd, disk.size_bytes, PATIENCE * proof_s, options.retention_s)
    )
    if options.leave_blank:
        run.left_blank = await _make_blank(host, disk, run, parts, PATIENCE * proof_s + time_s * PATIENCE)


def _wanted(blocks: int, block_s: float, options: Options, time_s: float) -> int:
    """How many blocks to write."""
    if options.write_fraction is not None:
        return max(1, math.ceil(options.write_fraction * blocks))
    return min(blocks, max(TRIAL_BLOCKS, int(time_s * FILL / PASSES / block_s)))


async def _write_and_verify(
    host: Host, disk: Writable, run: Writing, segments: Sequence[fio.Segment], limit_s: float
) -> bool:
    """True when every block was written, and every one read back as written."""
    wanted = sum(segment.io_bytes for segment in segments)
    run.planned_bytes, run.written_bytes, run.verified_bytes = wanted, 0, 0
    wrote = await _fio(host, disk, run, segments, (*run.verify, "--do_verify=0"), limit_s)
    if wrote is None:
        return False
    run.written_bytes = sum(job.write_bytes for job in wrote.jobs.values())
    run.write_ms = sum(job.runtime_ms for job in wrote.jobs.values())
    if not _all_well(wrote) or run.written_bytes != wanted:
        return False
    verified = await _fio(host, disk, run, segments, (*run.verify, "--verify_only=1"), limit_s)
    if verified is None:
        return False
    run.verified_bytes = sum(job.read_bytes for job in verified.jobs.values())
    return _all_well(verified) and run.verified_bytes == wanted


async def _verify_again(
    host: Host, disk: Writable, run: Writing, segments: Sequence[fio.Segment], limit_s: float, retention_s: float
) -> bool:
    """True when every block still holds what it held. A disk can lose data that it gave back once."""
    await asyncio.sleep(retention_s)
    seen = len(run.mismatches)
    report = await _fio(host, disk, run, segments, (*run.verify, "--verify_only=1"), limit_s)
    run.changed, run.mismatches = run.mismatches[seen:], run.mismatches[:seen]
    if report is None:
        return False
    run.kept_bytes = sum(job.read_bytes for job in report.jobs.values())
    return _all_well(report) and run.kept_bytes == run.planned_bytes


async def _examined(host: Host, disk: Writable, run: Writing) -> tuple[stamps.Wrong, ...]:
    """A closer look at some of the blocks that were wrong. Nothing when it fails: they are wrong anyway."""
    try:
        return await stamps.examine(
            host, disk.fd, disk.size_bytes, run.nonce[:32], sorted(set(run.mismatches)), EXAMINE_LIMIT_S
        )
    except (ToolError, ValueError):
        return ()


def _all_well(report: fio.Report) -> bool:
    jobs_well = all(job.error == 0 and job.total_errors == 0 for job in report.jobs.values())
    return jobs_well and not report.io_errors and not report.mismatches and not report.failed


async def _fio(
    host: Host, disk: Writable, run: Writing, segments: Sequence[fio.Segment], extra: Sequence[str], limit_s: float
) -> fio.Report | None:
    """One fio that writes; None when it gave no answer. Keeps errors, mismatches and problems in `run`."""
    argv = fio.argv(disk.fd, segments, write=True, depth=run.depth(segments[0].block), extra=extra)
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


async def _guarded(run: Writing, proving: Awaitable[stamps.Proof]) -> stamps.Proof | None:
    """The proof, or None and a problem."""
    try:
        return await proving
    except ToolError as problem:
        run.problems.append(tool_finding(problem, run.subject.component))
    except ValueError as problem:
        run.problems.append(error(ReasonCode.OUTPUT_UNREADABLE, run.subject.component, str(problem)))
    return None


async def _make_blank(
    host: Host, disk: Writable, run: Writing, parts: Sequence[Sequence[fio.Segment]], limit_s: float
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
