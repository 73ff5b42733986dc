"""Storage: reads every disk's surface, all disks at once; where the run may destroy, writes and verifies them too.

Plan: `storage_plan`. Run: `storage_read`, `storage_write`. Judge: `storage_judge` and the `judge` of `storage_write`
and `stamps`.
Whether a disk may be written is decided in `wipe_guard` and nowhere else; a refusal fails that disk, and it is
read all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from probes import disks as disks_probe
from probes import kernel_log
from probes.apart import apart
from probes.disks import Disk
from probes.notes import Notes
from stages import storage_judge, storage_write
from stages.outcome import Finding, Measurement, Outcome, ReasonCode, Severity, error, info
from stages.stage import RunFacts, Stage, StageContext
from stages.storage_disk import Moved, Subject, is_foreign, moved, subjects_of
from stages.storage_plan import Options
from stages.storage_read import ReadRun, read_disk
from stages.storage_write import WriteRun, write_disk
from stages.wipe_door import host_disks

TICK_S = 1.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Clock:
    """When the stage began, and when its phases say that they will be done."""

    started: float
    planned: dict[str, float] = field(default_factory=dict)

    def elapsed_s(self) -> float:
        return time.monotonic() - self.started

    def plan(self, context: StageContext, phase: str, seconds: float) -> None:
        """A disk says how long a phase will take from its beginning; the slowest disk decides."""
        self.planned[phase] = max(seconds, self.planned.get(phase, 0.0))
        context.plan.set(sum(self.planned.values()))


async def run(context: StageContext, options: Options) -> Outcome:
    """Test all disks. Raises nothing but a cancel."""
    notes = Notes()
    try:
        found = await disks_probe.collect(context.host, notes)
    except OSError as problem:
        text = f"The disks of this machine could not be listed: {problem}"
        return Outcome(text, (error(ReasonCode.PROBE_ERROR, "disks", text),))
    tested = [disk for disk in found if not is_foreign(disk, context.facts)]
    findings = [*_foreign([disk for disk in found if disk not in tested]), *_absent(found, context.facts)]
    if not tested:
        return Outcome("No disks", tuple(findings), hardware_present=False)
    subjects = subjects_of(tested, options)
    log_before = await apart(lambda: kernel_log.read(context.host), "kernel log")
    reads, writes = await _test(context, options, subjects, found)
    log_after = await apart(lambda: kernel_log.read(context.host), "kernel log")
    findings += kernel_findings(context, subjects, log_before, log_after)
    return _judged(context, options, reads, writes, findings)


def is_destructive(facts: RunFacts) -> bool:
    """Whether the run asks for the write test. Which disks may be written, and whether any may, the guard decides:
    an agent without leave to write then fails each disk as refused, instead of passing a read for a write test."""
    return facts.non_destructive is False


async def _test(
    context: StageContext, options: Options, subjects: Sequence[Subject], found: Sequence[Disk]
) -> tuple[list[ReadRun], list[WriteRun]]:
    destructive = is_destructive(context.facts)
    share_s = options.duration_s / 2 if destructive else options.duration_s
    clock = _Clock(time.monotonic())
    for phase in ("read", "write") if destructive else ("read",):
        clock.plan(context, phase, share_s)
    context.info(f"Reading {len(subjects)} disk(s) for about {share_s:.0f} s: " + ", ".join(s.label for s in subjects))
    async with _ticking(context, subjects, clock):
        reads = await _all(
            read_disk(context.host, one, options, share_s, lambda s: clock.plan(context, "read", s)) for one in subjects
        )
        if not destructive:
            return reads, []
        context.info(f"Deciding about {len(subjects)} disk(s), then writing those that may be written")
        others = host_disks(list(found))
        writes = await _all(
            write_disk(
                context.host, one, others, context.facts, options, share_s, lambda s: clock.plan(context, "write", s)
            )
            for one in subjects
        )
    return reads, writes


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All at once; when one is cancelled or crashes, the others are ended before that is let through."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in work]
    return [task.result() for task in tasks]


@contextlib.asynccontextmanager
async def _ticking(context: StageContext, subjects: Sequence[Subject], clock: _Clock) -> AsyncIterator[None]:
    """Reports progress and each disk's throughput while the block lasts."""
    ticker = asyncio.ensure_future(_tick(context, subjects, clock))
    try:
        yield
    finally:
        ticker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ticker


async def _tick(context: StageContext, subjects: Sequence[Subject], clock: _Clock) -> None:
    before: dict[str, tuple[float, Moved]] = {}
    while True:
        for subject in subjects:
            number = subject.disk.device_number
            count = moved(context.host, number) if number else None
            if count is None:
                continue
            now = time.monotonic()
            if subject.component in before:
                _sample(context, subject, before[subject.component], (now, count))
            before[subject.component] = (now, count)
        planned_s, elapsed_s = context.plan.planned_s, clock.elapsed_s()
        context.progress(min(0.99, elapsed_s / planned_s), max(0.0, planned_s - elapsed_s))
        await asyncio.sleep(TICK_S)


def _sample(context: StageContext, subject: Subject, before: tuple[float, Moved], after: tuple[float, Moved]) -> None:
    """MB/s that the kernel moved to and from the disk."""
    seconds = after[0] - before[0]
    read = (after[1].read - before[1].read) / seconds / 1e6
    written = (after[1].written - before[1].written) / seconds / 1e6
    context.sample("throughput", subject.component, round(read + written, 1), "MB/s")


def _foreign(disks: Sequence[Disk]) -> list[Finding]:
    return [
        info(
            ReasonCode.DISK_NOT_TESTED,
            disk.component,
            f"{disk.name} ({disk.model or 'unknown model'}) is removable or virtual media and is not expected here: "
            "not part of this server, not tested",
        )
        for disk in disks
    ]


def _absent(disks: Sequence[Disk], facts: RunFacts) -> list[Finding]:
    """Expected disks that are not there cannot have been tested."""
    here = {(disk.serial or "").strip() for disk in disks}
    return [
        error(
            ReasonCode.DISK_NOT_TESTED,
            f"disk:{expected.serial}",
            f"The expected disk with the serial {expected.serial} is not there, so that it could not be tested",
        )
        for expected in facts.expected_disks or ()
        if expected.serial.strip() not in here
    ]


def kernel_findings(
    context: StageContext, subjects: Sequence[Subject], before: kernel_log.KernelLog, after: kernel_log.KernelLog
) -> list[Finding]:
    """What the kernel logged about each disk while it was tested."""
    unreadable = before.unreadable or after.unreadable
    if unreadable:
        text = f"Whether the kernel saw disk errors is not known: {unreadable}"
        return [error(ReasonCode.PROBE_ERROR, "kernel_log", text)]
    lines = after.since(before)
    findings = []
    for subject in subjects:
        name = subject.disk.name
        events = kernel_log.disk_events(lines, name, kernel_log.ata_port(context.host, name))
        if events:
            text = f"The kernel logged {len(events)} error(s) of {subject.label} during the test: {events[0].line}"
            evidence = "\n".join(event.line for event in events[:16])
            findings.append(error(ReasonCode.DISK_IO_ERROR, subject.component, text, evidence))
    return findings


def _judged(
    context: StageContext,
    options: Options,
    reads: Sequence[ReadRun],
    writes: Sequence[WriteRun],
    findings: list[Finding],
) -> Outcome:
    measurements: list[Measurement] = []
    for read in reads:
        more, figures = storage_judge.judge(read, options)
        findings += more
        measurements += figures
    for write in writes:
        more, figures = storage_write.judge(write)
        findings += more
        measurements += figures
    _keep_zones(context, reads)
    bad = [finding for finding in findings if finding.severity is Severity.ERROR]
    for finding in bad:
        context.error(finding.message)
    headline = bad[0].message if bad else _headline(reads, writes)
    versions = dict([("fio", read.fio_version) for read in reads if read.fio_version][:1])
    coverage = {read.subject.component: round(storage_judge.coverage_of(read), 6) for read in reads}
    return Outcome(headline, tuple(findings), tuple(measurements), coverage, tool_versions=versions)


def _headline(reads: Sequence[ReadRun], writes: Sequence[WriteRun]) -> str:
    least = min(storage_judge.coverage_of(read) for read in reads)
    done = f"{len(reads)} disk(s) read without error, at least {least:.0%} of each"
    written = [write for write in writes if write.refused is None]
    return f"{done}; {len(written)} written and verified" if written else done


def _keep_zones(context: StageContext, reads: Sequence[ReadRun]) -> None:
    """`zones.json`: what each part of each disk gave, so that a weak zone shows."""
    content = {
        read.subject.component: {
            "name": read.subject.disk.name,
            "size_bytes": read.plan.size_bytes if read.plan else None,
            "whole": read.plan.whole if read.plan else None,
            "zones": storage_judge.zones_evidence(read),
        }
        for read in reads
    }
    try:
        context.evidence.mkdir(parents=True, exist_ok=True)
        (context.evidence / "zones.json").write_text(json.dumps(content, indent=1) + "\n")
    except OSError as problem:
        context.warn(f"zones.json could not be written: {problem}")


STAGE = Stage(
    name="Storage",
    state="Storage",
    title="Disks: surface, speed, and write-verify where allowed",
    options=Options,
    planned_s=lambda options: options.duration_s,
    run=run,
    counters_needed=True,
    tools=("fio", "wipefs", "nvme", "sg_persist"),
    destructive=True,
)
