"""fio: its argument list, and what its answer says. Both pure; who runs it also lends it the descriptor.

fio's traps, each seen with fio 3.33: verify errors with `continue_on_error` leave exit code and job error at 0; a
device is a path, split at every ":", hence /proc/self/fd/N; a killed fio prints no JSON at all; messages stand in
front of the JSON on standard output; the bandwidth of a very short job is 0.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from probes.json_paths import count as count_of
from probes.json_paths import parsed
from probes.tools import ToolResult

LOST_ERRNOS = frozenset({6, 19, 28})
"""ENXIO, ENODEV, ENOSPC: the device, or the part of it asked for, is not there any more."""
HIGHEST_ERRNO = 4095
EILSEQ = 84
"""How fio reports data that is not what it wrote."""


@dataclass(frozen=True, slots=True)
class Segment:
    """`count` blocks of `block` bytes, the first at `offset`, each `skip` bytes after the end of the one before."""

    name: str
    offset: int
    length: int
    block: int
    count: int
    skip: int = 0
    limit_s: float | None = None

    @property
    def io_bytes(self) -> int:
        return self.block * self.count


@dataclass(frozen=True, slots=True)
class IoError:
    """One failed request, as fio words it."""

    direction: str
    reason: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Job:
    """What fio says of one segment."""

    name: str
    error: int
    """An errno, 0 for none."""
    total_errors: int
    read_bytes: int
    write_bytes: int
    runtime_ms: int
    latency_ns: Mapping[int, int] = field(default_factory=dict)
    """Completion latencies of reads: how many requests took up to so many nanoseconds (see `_upper_end`)."""
    slowest_ns: int = 0
    """The slowest read."""

    @property
    def bytes_per_s(self) -> float:
        """fio counts whole milliseconds; a job shorter than one is given one."""
        return (self.read_bytes or self.write_bytes) / max(self.runtime_ms, 1) * 1000

    def followed_by(self, rest: Job) -> Job:
        """Both as one: `rest` went on where this one ended."""
        return Job(
            name=self.name,
            error=self.error or rest.error,
            total_errors=self.total_errors + rest.total_errors,
            read_bytes=self.read_bytes + rest.read_bytes,
            write_bytes=self.write_bytes + rest.write_bytes,
            runtime_ms=self.runtime_ms + rest.runtime_ms,
            latency_ns=dict(sorted((Counter(self.latency_ns) + Counter(rest.latency_ns)).items())),
            slowest_ns=max(self.slowest_ns, rest.slowest_ns),
        )


@dataclass(frozen=True, slots=True)
class Report:
    """The answer of one fio."""

    version: str
    jobs: Mapping[str, Job]
    io_errors: tuple[IoError, ...]
    mismatches: tuple[int, ...]
    """Offsets of blocks whose content was not what had been written."""
    failed: str = ""
    """What fio said of a failure that it charges to no job: it may end with an error while all jobs say 0."""


class Unreadable(ValueError):
    """fio's answer could not be understood. `report` holds what its messages said all the same."""

    def __init__(self, why: str, report: Report) -> None:
        super().__init__(why)
        self.report = report


def argv(
    fd: int, segments: Iterable[Segment], *, write: bool = False, depth: int, extra: Iterable[str] = ()
) -> list[str]:
    """One job a segment, one after the other, direct, on the descriptor `fd`. Reads only, unless `write`."""
    arguments = [
        *("fio", "--output-format=json+", "--direct=1", "--ioengine=libaio", f"--iodepth={depth}"),
        *(f"--filename=/proc/self/fd/{fd}", "--thread=1", "--disk_util=0", "--allow_file_create=0"),
        *("--verify_state_load=0", "--verify_state_save=0", "--percentile_list=99.9"),
        *(() if write else ("--readonly",)),
        *extra,
    ]
    for segment in segments:
        arguments += _job_arguments(segment, "write" if write else "read")
    return arguments


def _job_arguments(segment: Segment, direction: str) -> list[str]:
    step = f"{direction}:{segment.skip}" if segment.skip else direction
    limit = [] if segment.limit_s is None else [f"--runtime={max(1, round(segment.limit_s * 1000))}ms"]
    return [
        *(f"--name={segment.name}", "--stonewall", f"--rw={step}", f"--bs={segment.block}"),
        *(f"--offset={segment.offset}", f"--size={segment.length}", f"--io_size={segment.io_bytes}", *limit),
    ]


_IO_ERROR = re.compile(r"io_u error on file \S+: ([^:]+): (read|write|trim|sync) offset=(\d+), buflen=(\d+)")
_MISMATCH = re.compile(r"^\s*(?:\w+: verify failed|verify: bad .*?) at file \S+ offset (\d+)", re.MULTILINE)


def parse(result: ToolResult) -> Report:
    """What one run of fio said. Raises Unreadable for anything but a complete answer."""
    said = messages(result)
    try:
        answer = parsed(result.stdout[result.stdout.index("{") :])
        jobs = {job.name: job for job in map(_job, answer["jobs"])}
        if len(jobs) != len(answer["jobs"]):
            raise ValueError("two jobs of one name, of which one would hide the other")  # noqa: TRY301
        return Report(
            str(answer["fio version"]), jobs, said.io_errors, said.mismatches, _uncharged(result, jobs.values())
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as problem:
        why = f"fio's answer could not be read ({result.how_it_ended()}): {type(problem).__name__}: {problem}"
        raise Unreadable(why, said) from problem


def _uncharged(result: ToolResult, jobs: Iterable[Job]) -> str:
    if result.exit_code == 0 or any(job.error or job.total_errors for job in jobs):
        return ""
    return f"fio failed ({result.how_it_ended()}) without an error of any job: {result.last_words()}"


def messages(result: ToolResult) -> Report:
    """What its messages say alone, for a fio that did not live to print its JSON."""
    text = f"{result.stdout}\n{result.stderr}"
    return Report("", {}, _io_errors(text), tuple(int(match[1]) for match in _MISMATCH.finditer(text)))


def _io_errors(text: str) -> tuple[IoError, ...]:
    return tuple(IoError(match[2], match[1], int(match[3]), int(match[4])) for match in _IO_ERROR.finditer(text))


def _job(answer: Any) -> Job:
    read, write = answer["read"], answer["write"]
    error = _whole(answer["error"])
    if not 0 <= error <= HIGHEST_ERRNO:
        raise ValueError(f"{error!r:.40} is no errno")
    return Job(
        name=str(answer["jobname"]),
        error=error,
        total_errors=_whole(answer.get("total_err", 0)),
        read_bytes=_whole(read["io_bytes"]),
        write_bytes=_whole(write["io_bytes"]),
        runtime_ms=_whole(read["runtime"]) or _whole(write["runtime"]),
        latency_ns=_latencies(read["clat_ns"].get("bins", {})),
        slowest_ns=_whole(read["clat_ns"].get("max", 0)),
    )


def _latencies(bins: Mapping[str, Any]) -> dict[int, int]:
    """fio's hundreds of bins, in fewer: a disk of many zones would fill the evidence with them."""
    found: Counter[int] = Counter()
    for nanoseconds, count in bins.items():
        found[_upper_end(int(nanoseconds))] += _whole(count)
    return {ns: found[ns] for ns in sorted(found)}


def _upper_end(nanoseconds: int) -> int:
    """The upper end of its bin, of which there are 16 for each doubling: at most 6 % too much, never too little."""
    shift = max(0, nanoseconds.bit_length() - 5)
    return ((nanoseconds >> shift) + 1 << shift) - 1


def _whole(value: object) -> int:
    """0.5 is no error number, and true no byte. Raises ValueError."""
    found = count_of(value)
    if found is None:
        raise ValueError(f"{value!r:.40} is no count")
    return found


def percentile_ms(jobs: Iterable[Job], fraction: float) -> float | None:
    """The latency that this fraction of all requests of all jobs stayed within, in ms; None without requests."""
    merged: Counter[int] = Counter()
    slowest = 0
    for job in jobs:
        merged.update(job.latency_ns)
        slowest = max(slowest, job.slowest_ns)
    left = fraction * merged.total()
    for nanoseconds in sorted(merged):
        left -= merged[nanoseconds]
        if left <= 0:
            return min(nanoseconds, slowest or nanoseconds) / 1e6
    return None


def slowest_ms(jobs: Iterable[Job]) -> float | None:
    """The slowest read of all jobs, in ms; None without any."""
    slowest = max((job.slowest_ns for job in jobs), default=0)
    return slowest / 1e6 if slowest else None
