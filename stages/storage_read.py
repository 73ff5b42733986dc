"""Reads the surface of one disk: probe, plan, read; and once more what was slow. Its descriptors cannot write.

All disks are read at once. A disk that looks slow then may only have shared its bus with the others: when all have
been read, `look_again` measures it while the others of its bus are at rest.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from probes.block_use import device_number, size_of
from probes.host import Host
from probes.tools import ToolError
from stages import fio
from stages.outcome import Finding, ReasonCode, error
from stages.runner import tool_finding
from stages.storage_disk import Subject, floor_of, moved, open_apart, whereabouts
from stages.storage_plan import (
    ALONE,
    ALONE_S,
    SEQUENTIAL,
    SMALLEST_BLOCK,
    SPARSE,
    ZONE_AGAIN_S,
    ZONE_PATIENCE,
    Options,
    ReadPlan,
    alone_segment,
    block_size,
    budget_s,
    plan_read,
    probe_segments,
    rest_of,
    speed_of,
    thinned,
)
from stages.storage_readings import ReadRun

DEPTH = 4
# Beyond the planned time, for requests that a sick disk holds back.
GRACE_S = 20.0
# The first look takes a second; a machine that is busy or slow with something else must not be called a sick disk.
PROBE_LIMIT_S = 60.0
# Less is not worth another fio.
LEAST_SPARE_S = 0.5
# Shorter zones are too noisy to compare.
COMPARABLE_MS = 50
WEAK = 0.25
RECHECKED_ZONES = 8
READ_FLAGS = os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC


@dataclass(slots=True)
class _Reading:
    """The state of one read test while it goes on."""

    host: Host
    subject: Subject
    fd: int
    size_bytes: int
    io_errors: list[fio.IoError] = field(default_factory=list)
    problems: list[Finding] = field(default_factory=list)
    version: str = ""

    async def fio(self, segments: Sequence[fio.Segment], limit_s: float) -> Mapping[str, fio.Job]:
        """Run fio over the segments. What fails is kept as a problem; its messages count whatever else it said."""
        argv = fio.argv(self.fd, segments, depth=DEPTH)
        try:
            result = await self.host.tools.run(*argv, timeout_s=limit_s, accept=None, load=True, pass_fds=(self.fd,))
            report = fio.parse(result)
        except ToolError as problem:
            self.problems.append(tool_finding(problem, self.subject.component))
            if problem.result:
                self.io_errors += fio.messages(problem.result).io_errors
            return {}
        except fio.Unreadable as problem:
            self.problems.append(error(ReasonCode.OUTPUT_UNREADABLE, self.subject.component, str(problem)))
            self.io_errors += problem.report.io_errors
            return {}
        self.io_errors += report.io_errors
        self.version = report.version
        if report.failed:
            self.problems.append(error(ReasonCode.TOOL_FAILED, self.subject.component, report.failed))
        return report.jobs


async def read_disk(
    host: Host, subject: Subject, options: Options, time_s: float, planned: Callable[[float], None]
) -> ReadRun:
    """Probe the disk's speed, then read as much of it as `time_s` allows. `planned` is told how long that will take.

    Raises nothing but a cancel.
    """
    try:
        fd = await open_apart(host.dev(subject.disk.name), READ_FLAGS)
    except OSError as problem:
        return ReadRun(subject, refused_open=str(problem.strerror or problem))
    try:
        size_bytes = size_of(fd)
        if size_bytes < SMALLEST_BLOCK:
            return ReadRun(subject, refused_open=f"it has no medium: its size is {size_bytes} bytes")
        return await _read(_Reading(host, subject, fd, size_bytes), options, time_s, planned)
    except OSError as problem:
        return ReadRun(subject, refused_open=str(problem.strerror or problem))
    finally:
        os.close(fd)


async def _read(reading: _Reading, options: Options, time_s: float, planned: Callable[[float], None]) -> ReadRun:
    started = time.monotonic()
    number = device_number(os.fstat(reading.fd).st_rdev)
    before = moved(reading.host, number)
    block = block_size(reading.size_bytes, rotational=reading.subject.rotational, options=options)
    probe = await reading.fio(probe_segments(reading.size_bytes, block, time_s), PROBE_LIMIT_S)
    speed = speed_of(probe.get(SEQUENTIAL), probe.get(SPARSE), block)
    left_s = max(time_s / 2, time_s - (time.monotonic() - started))
    left_s = budget_s(reading.size_bytes, block, speed, left_s, options)
    planned(time.monotonic() - started + left_s)
    plan = plan_read(reading.size_bytes, block, speed, left_s)
    began = time.monotonic()
    jobs = await reading.fio(plan.segments, ZONE_PATIENCE * left_s + GRACE_S)
    if options.until_covered:
        spare_s = ZONE_PATIENCE * left_s - (time.monotonic() - began)
        jobs = await _with_rests(reading, plan, jobs, options.coverage_floor, spare_s)
    after = moved(reading.host, number)
    return ReadRun(
        subject=reading.subject,
        plan=plan,
        speed=speed if (sequential := probe.get(SEQUENTIAL)) and sequential.read_bytes else None,
        jobs={**probe, **jobs},
        io_errors=tuple(reading.io_errors),
        problems=tuple(reading.problems),
        gone=whereabouts(reading.host, reading.fd, reading.size_bytes),
        kernel_read_bytes=after.read - before.read if before and after else None,
        fio_version=reading.version,
    )


async def _with_rests(
    reading: _Reading, plan: ReadPlan, jobs: Mapping[str, fio.Job], floor: float, spare_s: float
) -> Mapping[str, fio.Job]:
    """Goes on with zones that were cut short, where less than the floor was read, in the time that the others left.

    A disk that stood still for a moment is no sick disk. One that goes on being slow is cut short here once more.
    """
    begun = [(zone, job) for zone in plan.zones if (job := jobs.get(zone.name)) and not (job.error or job.total_errors)]
    rests = [rest for zone, job in begun if (rest := rest_of(zone, job.read_bytes))]
    enough = sum(job.read_bytes for _, job in begun) >= floor * plan.size_bytes
    if enough or not rests or spare_s < LEAST_SPARE_S:
        return jobs
    more = await reading.fio([replace(rest, limit_s=spare_s / len(rests)) for rest in rests], spare_s + GRACE_S)
    return {**jobs, **{name: jobs[name].followed_by(job) for name, job in more.items()}}


# --- a second look ---------------------------------------------------------------------------------------------------


def looks_slow(run: ReadRun, options: Options) -> bool:
    """Whether the disk, or a part of it, was slow while all others were read as well."""
    return _below_floor(run, options) or bool(_weak_segments(run))


def _below_floor(run: ReadRun, options: Options) -> bool:
    floor = floor_of(run.subject.disk, options)
    return run.speed is not None and floor is not None and run.speed.sequential_bytes_per_s < floor * 1e6


def _weak_segments(run: ReadRun) -> list[fio.Segment]:
    """The weakest zones first, each cut down to what takes seconds."""
    if run.plan is None:
        return []
    weak = weak_zones(run.jobs, run.plan)
    zones = sorted((zone for zone in run.plan.zones if zone.name in weak), key=lambda zone: weak[zone.name])
    return [thinned(zone, weak[zone.name] * 1e6, ZONE_AGAIN_S) for zone in zones[:RECHECKED_ZONES]]


async def look_again(host: Host, run: ReadRun, options: Options) -> ReadRun:
    """Read again what was slow, while nobody else uses the bus. Raises nothing but a cancel."""
    assert run.plan is not None
    try:
        fd = await open_apart(host.dev(run.subject.disk.name), READ_FLAGS)
    except OSError:
        return run  # what was seen first stands
    try:
        if run.gone or whereabouts(host, fd, run.plan.size_bytes):
            return run
        reading = _Reading(host, run.subject, fd, run.plan.size_bytes)
        segments = _weak_segments(run)
        if _below_floor(run, options):
            segments.insert(0, alone_segment(run.plan.size_bytes, run.plan.block))
        limit_s = GRACE_S + ALONE_S + 2 * ZONE_AGAIN_S * len(segments)
        jobs = dict(await reading.fio(segments, limit_s))
        alone = jobs.pop(ALONE, None)
        return replace(
            run,
            alone=alone,
            rechecked=jobs,
            io_errors=(*run.io_errors, *reading.io_errors),
            problems=(*run.problems, *reading.problems),
            gone=whereabouts(host, fd, run.plan.size_bytes),
        )
    finally:
        os.close(fd)


def weak_zones(jobs: Mapping[str, fio.Job], plan: ReadPlan) -> dict[str, float]:
    """Zones slower than a quarter of the disk's median, and their rate in MB/s."""
    rates = zone_rates(jobs, plan)
    if len(rates) < 2:
        return {}
    median = statistics.median(rates.values())
    return {
        name: rate
        for name, rate in rates.items()
        if rate < WEAK * median and jobs[name].runtime_ms >= COMPARABLE_MS and not jobs[name].error
    }


def zone_rates(jobs: Mapping[str, fio.Job], plan: ReadPlan) -> dict[str, float]:
    """MB/s of each zone that was read."""
    read = (jobs[zone.name] for zone in plan.zones if zone.name in jobs)
    return {job.name: job.bytes_per_s / 1e6 for job in read if job.read_bytes}
