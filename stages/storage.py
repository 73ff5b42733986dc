"""Storage: reads every disk's surface, all disks at once; where the run may destroy, writes and verifies them too.

Plan: `storage_plan`. Run: `storage_read`, `storage_write`. Readings: `storage_readings`. Judge: `storage_judge`.
Whether a disk may be written is decided in `wipe_guard` and nowhere else; a refusal fails that disk, and it is
read all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from probes import disks as disks_probe
from probes import kernel_log
from probes.apart import apart
from probes.bus import bus_of
from probes.disks import Disk
from probes.notes import Notes
from stages import storage_judge
from stages.stage import RunFacts, Stage, StageContext
from stages.storage_disk import Moved, Subject, is_foreign, moved, subjects_of
from stages.storage_plan import ALONE_S, Options
from stages.storage_read import look_again, looks_slow, read_disk
from stages.storage_readings import ReadRun, StorageReadings, WriteRun
from stages.storage_write import write_disk, write_memory
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


async def run(context: StageContext, options: Options) -> StorageReadings:
    """Test all disks. Raises nothing but a cancel."""
    expected = context.facts.expected_disks
    try:
        found = await disks_probe.collect(context.host, Notes())
    except OSError as problem:
        return StorageReadings(unlisted=str(problem), expected_disks=expected)
    subjects = subjects_of([disk for disk in found if not is_foreign(disk, expected)])
    log_before = await apart(lambda: kernel_log.read(context.host), "kernel log")
    reads, writes = await _test(context, options, subjects, found) if subjects else ([], [])
    log_after = await apart(lambda: kernel_log.read(context.host), "kernel log")
    reads = [_if_still_there(context, read) for read in reads]
    readings = StorageReadings(
        found=tuple(found),
        expected_disks=expected,
        reads=tuple(reads),
        destructive=is_destructive(context.facts),
        writes=tuple(writes),
        kernel_log_unreadable=log_before.unreadable or log_after.unreadable or "",
        kernel_lines=kernel_lines(context, subjects, log_after.since(log_before)),
    )
    _keep_zones(context, reads)
    for finding in storage_judge.judge(readings, options).errors:
        context.error(finding.message)
    return readings


def _if_still_there(context: StageContext, read: ReadRun) -> ReadRun:
    """A disk can leave after its own part was done, while others are still read or written."""
    number = read.subject.disk.device_number
    if read.plan is None or read.gone or number is None or context.host.sys("dev", "block", number).exists():
        return read
    return replace(read, gone="it left the bus after it had been read: the kernel does not list it any more")


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
        reads = await _second_looks(context, options, reads, clock)
        if not destructive:
            return reads, []
        context.info(f"Deciding about {len(subjects)} disk(s), then writing those that may be written")
        others = host_disks(list(found))
        memory = write_memory(len(subjects))
        writes = await _all(
            write_disk(
                context.host,
                one,
                others,
                context.facts,
                options,
                share_s,
                lambda s: clock.plan(context, "write", s),
                memory,
            )
            for one in subjects
        )
    return reads, writes


async def _second_looks(
    context: StageContext, options: Options, reads: Sequence[ReadRun], clock: _Clock
) -> list[ReadRun]:
    """Disks that looked slow beside the others, measured with their bus to themselves: one at a time on each bus."""
    slow: defaultdict[str, list[ReadRun]] = defaultdict(list)
    for read in reads:
        if looks_slow(read, options):
            slow[bus_of(context.host, read.subject.disk.name)].append(read)
    if not slow:
        return list(reads)
    clock.plan(context, "second look", 2 * ALONE_S * max(len(waiting) for waiting in slow.values()))
    names = ", ".join(read.subject.disk.name for waiting in slow.values() for read in waiting)
    context.info(f"Looking again at what was slow beside the others, one disk of each bus at a time: {names}")
    looked = await _all(_one_by_one(context, options, waiting) for waiting in slow.values())
    again = {read.subject.component: read for bus in looked for read in bus}
    return [again.get(read.subject.component, read) for read in reads]


async def _one_by_one(context: StageContext, options: Options, waiting: Sequence[ReadRun]) -> list[ReadRun]:
    return [await look_again(context.host, read, options) for read in waiting]


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


def kernel_lines(
    context: StageContext, subjects: Sequence[Subject], lines: Sequence[str]
) -> Mapping[str, tuple[str, ...]]:
    """The kernel's lines about errors of each disk, by component; only disks with any."""
    found = {}
    for subject in subjects:
        name = subject.disk.name
        if events := kernel_log.disk_events(lines, name, kernel_log.ata_port(context.host, name)):
            found[subject.component] = tuple(event.line for event in events)
    return found


def _keep_zones(context: StageContext, reads: Sequence[ReadRun]) -> None:
    """`zones.json`: what each part of each disk gave, so that a weak zone shows in the report's chart."""
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
    readings=StorageReadings,
    judge=storage_judge.judge,
    counters_needed=True,
    tools=("fio", "wipefs", "nvme", "sg_persist"),
    destructive=True,
    follows_disks=True,
)
