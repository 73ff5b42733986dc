"""Judges the surface read of one disk. Pure: takes what `stages.storage_read` brought back."""

from __future__ import annotations

import os
import statistics

from stages import fio
from stages.outcome import Finding, Measurement, ReasonCode, error, warning
from stages.storage_disk import floor_of
from stages.storage_plan import SEQUENTIAL, SPARSE, Options, longest_unread
from stages.storage_read import WEAK, weak_zones, zone_rates
from stages.storage_readings import ReadRun

MEDIA_ERRNOS = frozenset({5, 52, 61, 67, 74, 84, 110, 121})
"""What Linux gives for a request that the disk or its link failed: EIO, EBADE, ENODATA, ENOLINK, EBADMSG, EILSEQ,
ETIMEDOUT, EREMOTEIO."""
BELIEVED = 0.9
STALLED_MS = 5000.0
"""No sound disk takes so long over one of a few requests: it retried, or its link was reset."""


def zones_evidence(run: ReadRun) -> list[dict[str, object]]:
    """One row a zone, for `zones.json`."""
    rows: list[dict[str, object]] = []
    for zone in run.plan.zones if run.plan else ():
        job = run.jobs.get(zone.name)
        rows.append(
            {
                "zone": zone.name,
                "offset": zone.offset,
                "length": zone.length,
                "planned_bytes": zone.io_bytes,
                "read_bytes": job.read_bytes if job else None,
                "mb_s": round(job.bytes_per_s / 1e6, 3) if job else None,
                "error": job.error if job else None,
                "p50_ms": _ms(job, 0.5),
                "p999_ms": _ms(job, 0.999),
                "max_ms": _rounded(fio.slowest_ms([job])) if job else None,
                "mb_s_again": round(again.bytes_per_s / 1e6, 3) if (again := run.rechecked.get(zone.name)) else None,
            }
        )
    return rows


def _ms(job: fio.Job | None, fraction: float) -> float | None:
    return _rounded(fio.percentile_ms([job], fraction)) if job else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def longest_unread_of(run: ReadRun) -> float:
    """The longest run of the disk that was not touched, as a part of it."""
    if run.plan is None:
        return 1.0
    read = [(segment, run.jobs[segment.name].read_bytes) for segment in run.plan.segments if segment.name in run.jobs]
    return longest_unread(run.plan.size_bytes, read) / run.plan.size_bytes


def coverage_of(run: ReadRun) -> float:
    """The part of the disk that was read, 0 to 1; 1 only when every byte was, the last one included."""
    if run.plan is None:
        return 0.0
    read = sum(min(zone.io_bytes, run.jobs[zone.name].read_bytes) for zone in run.plan.zones if zone.name in run.jobs)
    edges = all(name.name in run.jobs and run.jobs[name.name].read_bytes >= name.io_bytes for name in run.plan.edges)
    planned = sum(zone.io_bytes for zone in run.plan.zones)
    if run.plan.whole and read == planned and edges:
        return 1.0
    return min(read / run.plan.size_bytes, 0.9999)


def judge(run: ReadRun, options: Options) -> tuple[list[Finding], list[Measurement]]:
    """What the read says of the disk."""
    if run.refused_open is not None:
        return [_not_opened(run)], []
    findings = [*_lost(run), *_failed(run), *run.problems]
    findings += _disbelieved(run) or _uncovered(run, options)
    slow, measurements = _speed(run, options)
    findings += slow
    findings += [*_weak(run, options), *_stalled(run)]
    measurements += _coverage(run, options)
    return findings, measurements


def _coverage(run: ReadRun, options: Options) -> list[Measurement]:
    component, covered, unread = run.subject.component, coverage_of(run), longest_unread_of(run)
    floor, ceiling = options.coverage_floor, options.unread_ceiling
    return [
        Measurement("coverage", component, round(covered, 6), "1", floor, covered >= floor),
        Measurement("longest_unread", component, round(unread, 6), "1", ceiling, unread <= ceiling),
    ]


def _not_opened(run: ReadRun) -> Finding:
    text = (
        f"The disk {run.subject.label} could not be opened for reading: {run.refused_open}. Nothing of it was tested."
    )
    if run.refused_open in {os.strerror(1), os.strerror(13)}:
        text += " Even root may be forbidden this, by a container or a security policy: test it from the live image."
    return error(ReasonCode.DISK_NOT_TESTED, run.subject.component, text, run.refused_open or "")


def _lost(run: ReadRun) -> list[Finding]:
    errnos = [job.error for job in run.jobs.values() if job.error in fio.LOST_ERRNOS]
    said = run.gone or (f"requests end with: {os.strerror(errnos[0])}" if errnos else None)
    if said is None:
        return []
    text = f"The disk {run.subject.label} was lost during the test: {said}"
    return [error(ReasonCode.DISK_LOST, run.subject.component, text, said)]


def _failed(run: ReadRun) -> list[Finding]:
    """I/O errors that fio met. One finding for all of a disk: the first place, and how many there are."""
    component, label = run.subject.component, run.subject.label
    if run.io_errors:
        places = sorted({one.offset for one in run.io_errors})
        first = min(run.io_errors, key=lambda one: one.offset)
        lba = first.offset // (run.subject.disk.logical_block_size or 512)
        text = (
            f"The disk {label} failed requests at {len(places)} place(s), the first a {first.direction} of "
            f"{first.length} bytes at LBA {lba} (byte {first.offset}): {first.reason}"
        )
        evidence = ", ".join(str(offset) for offset in places[:32])
        return [error(ReasonCode.DISK_IO_ERROR, component, text, f"byte offsets: {evidence}")]
    errors = [job for job in run.jobs.values() if (job.error or job.total_errors) and job.error not in fio.LOST_ERRNOS]
    if not errors:
        return []
    job = errors[0]
    text = f"fio stopped in {job.name} of {label} with error {job.error} ({os.strerror(job.error)})"
    code = ReasonCode.DISK_IO_ERROR if job.error in MEDIA_ERRNOS else ReasonCode.TOOL_FAILED
    return [error(code, component, text)]


def _disbelieved(run: ReadRun) -> list[Finding]:
    """What fio says it read against what the kernel counted on that disk."""
    claimed = sum(job.read_bytes for job in run.jobs.values())
    counted = run.kernel_read_bytes
    if counted is None or counted >= BELIEVED * claimed:
        return []
    text = (
        f"fio says that it read {claimed} bytes of {run.subject.label}, but the kernel counted {counted}: "
        "the result cannot be trusted"
    )
    return [error(ReasonCode.OUTPUT_UNREADABLE, run.subject.component, text)]


def _uncovered(run: ReadRun, options: Options) -> list[Finding]:
    component, label = run.subject.component, run.subject.label
    covered = coverage_of(run)
    findings = []
    if covered < options.coverage_floor or covered == 0:
        text = (
            f"Only {covered:.2%} of {label} could be read in the time given, {options.coverage_floor:.0%} is wanted: "
            "give the stage a longer duration_s, or until_covered"
        )
        findings.append(error(ReasonCode.COVERAGE_LOW, component, text))
    longest = longest_unread_of(run)
    if not findings and longest > options.unread_ceiling:
        text = (
            f"{covered:.2%} of {label} was read, but one run of {longest:.1%} of it was not reached at all: the disk "
            "may be slow there; give the stage a longer duration_s"
        )
        findings.append(error(ReasonCode.COVERAGE_LOW, component, text))
    unread = [edge.name for edge in run.plan.edges if _short(run.jobs.get(edge.name), edge)] if run.plan else []
    if unread:
        text = f"The {' and the '.join(unread)} MiB of {label} was not read completely"
        findings.append(error(ReasonCode.COVERAGE_LOW, component, text))
    return findings


def _short(job: fio.Job | None, segment: fio.Segment) -> bool:
    return job is None or job.read_bytes < segment.io_bytes


def _speed(run: ReadRun, options: Options) -> tuple[list[Finding], list[Measurement]]:
    """Rate and latencies. Below its floor is only a disk that stayed below it with its bus to itself."""
    component, floor = run.subject.component, floor_of(run.subject.disk, options)
    measurements = _latencies(run)
    if run.speed is None:
        return _unmeasured(run, floor), measurements
    shared = rate = run.speed.sequential_bytes_per_s / 1e6
    if run.alone is not None and run.alone.read_bytes:
        rate = max(shared, run.alone.bytes_per_s / 1e6)
        measurements.append(Measurement("throughput_beside_others", component, round(shared, 1), "MB/s"))
    ok = None if floor is None else rate >= floor
    measurements.append(Measurement("throughput", component, round(rate, 1), "MB/s", floor, ok))
    if floor is None or rate >= floor:
        return [], measurements
    make = error if rate < WEAK * floor else warning
    text = f"The disk {run.subject.label} reads only {rate:.1f} MB/s; a sound one of its kind reaches {floor:.0f} MB/s"
    return [make(ReasonCode.DISK_SLOW, component, text)], measurements


def _unmeasured(run: ReadRun, floor: float | None) -> list[Finding]:
    """A disk with a floor is held against it, or is unknown; whatever failed says it better."""
    if floor is None or run.problems or run.io_errors or run.gone or any(job.error for job in run.jobs.values()):
        return []
    text = f"How fast {run.subject.label} reads could not be measured; a sound one of its kind reaches {floor:.0f} MB/s"
    return [error(ReasonCode.OUTPUT_UNREADABLE, run.subject.component, text)]


def _latencies(run: ReadRun) -> list[Measurement]:
    main = [job for name, job in run.jobs.items() if name not in {SEQUENTIAL, SPARSE}]
    figures = {
        "latency_p50": fio.percentile_ms(main, 0.5),
        "latency_p999": fio.percentile_ms(main, 0.999),
        "latency_max": fio.slowest_ms(main),
    }
    component = run.subject.component
    return [Measurement(name, component, round(ms, 3), "ms") for name, ms in figures.items() if ms is not None]


def _stalled(run: ReadRun) -> list[Finding]:
    """One request that took seconds: what a disk does that retries a bad place until it can read it after all."""
    slow = [job for job in run.jobs.values() if job.slowest_ns / 1e6 >= STALLED_MS]
    if not slow:
        return []
    worst = max(slow, key=lambda job: job.slowest_ns)
    text = (
        f"The disk {run.subject.label} took {worst.slowest_ns / 1e9:.1f} s over one read in {worst.name}: it may have "
        "retried a bad place"
    )
    return [warning(ReasonCode.DISK_SLOW, run.subject.component, text, ", ".join(job.name for job in slow))]


def _weak(run: ReadRun, options: Options) -> list[Finding]:
    """Zones that were slow twice. An error only where the zone is slow by any measure: reads of trimmed parts of an
    SSD, or of unwritten parts of a shingled disk, are so fast that sound zones beside them look weak."""
    if run.plan is None:
        return []
    again = weak_zones({**run.jobs, **run.rechecked}, run.plan)
    weak = {name: rate for name, rate in again.items() if name in run.rechecked}
    if not weak:
        return []
    median = statistics.median(zone_rates(run.jobs, run.plan).values())
    name, rate = min(weak.items(), key=lambda item: item[1])
    zone = next(zone for zone in run.plan.zones if zone.name == name)
    text = (
        f"The disk {run.subject.label} is weak in {len(weak)} of {len(run.plan.zones)} zones: at byte {zone.offset} it "
        f"reads {rate:.1f} MB/s, twice in a row, where its median is {median:.1f} MB/s"
    )
    floor = floor_of(run.subject.disk, options)
    make = error if floor is not None and rate < floor / 2 else warning
    return [make(ReasonCode.DISK_SLOW, run.subject.component, text, ", ".join(weak))]
