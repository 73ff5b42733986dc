"""Reads the surface of one disk: probe, plan, read, read weak zones again. Only on a descriptor that cannot write."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from probes.block_use import device_number, size_of
from probes.host import Host
from probes.tools import ToolError
from stages import fio
from stages.outcome import Finding, ReasonCode, error
from stages.runner import tool_finding
from stages.storage_disk import Subject, moved, open_apart, whereabouts
from stages.storage_plan import (
    SEQUENTIAL,
    SMALLEST_BLOCK,
    SPARSE,
    Options,
    ReadPlan,
    Speed,
    block_size,
    budget_s,
    plan_read,
    probe_segments,
    speed_of,
)

DEPTH = 4
# Beyond the planned time, for requests that a sick disk holds back.
GRACE_S = 20.0
# Shorter zones are too noisy to compare.
COMPARABLE_MS = 50
WEAK = 0.25
RECHECKED_ZONES = 8


@dataclass(frozen=True, slots=True)
class ReadRun:
    """What was read of one disk, as it came. Judged by `judge`."""

    subject: Subject
    refused_open: str | None = None
    """Why the disk could not even be opened."""
    plan: ReadPlan | None = None
    speed: Speed | None = None
    jobs: Mapping[str, fio.Job] = field(default_factory=dict)
    rechecked: Mapping[str, fio.Job] = field(default_factory=dict)
    io_errors: tuple[fio.IoError, ...] = ()
    problems: tuple[Finding, ...] = ()
    """Of the tool, not of the disk."""
    gone: str | None = None
    kernel_read_bytes: int | None = None
    """By the kernel's count, during the test."""
    fio_version: str = ""


@dataclass(slots=True)
class _Reading:
    """The state of one read test while it goes on."""

    host: Host
    subject: Subject
    fd: int
    size_bytes: int
    jobs: dict[str, fio.Job] = field(default_factory=dict)
    io_errors: list[fio.IoError] = field(default_factory=list)
    problems: list[Finding] = field(default_factory=list)
    version: str = ""

    async def fio(self, segments: Sequence[fio.Segment], limit_s: float) -> Mapping[str, fio.Job]:
        """Run fio over segments; {} when it gave no answer. Keeps errors and problems."""
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
        fd = await open_apart(host.dev(subject.disk.name), os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
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
    probe = await reading.fio(probe_segments(reading.size_bytes, block, time_s), GRACE_S)
    speed = speed_of(probe.get(SEQUENTIAL), probe.get(SPARSE), block)
    left_s = max(time_s / 2, time_s - (time.monotonic() - started))
    left_s = budget_s(reading.size_bytes, block, speed, left_s, options)
    planned(time.monotonic() - started + left_s)
    plan = plan_read(reading.size_bytes, block, speed, left_s)
    jobs = await reading.fio(plan.segments, 1.5 * left_s + GRACE_S)
    after = moved(reading.host, number)
    weak = [zone for zone in plan.zones if zone.name in weak_zones(jobs, plan)][:RECHECKED_ZONES]
    rechecked = await reading.fio(weak, GRACE_S + left_s / 2) if weak else {}
    return ReadRun(
        subject=reading.subject,
        plan=plan,
        speed=speed if probe.get(SEQUENTIAL) else None,
        jobs={**probe, **jobs},
        rechecked=rechecked,
        io_errors=tuple(reading.io_errors),
        problems=tuple(reading.problems),
        gone=whereabouts(reading.host, reading.fd, reading.size_bytes),
        kernel_read_bytes=after.read - before.read if before and after else None,
        fio_version=reading.version,
    )


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
