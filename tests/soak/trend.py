"""Whether a process grows: a line fitted to the second half of what was seen of it, held against a limit."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Limit:
    """`most`: what the fitted line may rise over the second half; or `share` of the mean, if that is more."""

    name: str
    unit: float
    form: str
    most: float
    share: float
    why: str


LIMITS = (
    Limit(
        "memory", MIB, "{:.1f} MiB", 3 * MIB, 0.0, "SQLite's page caches fill to 2 MiB each, and Python's arenas wander"
    ),
    Limit("threads", 1, "{:.1f}", 1, 0.0, "workers come and go; more than one in an hour is a leak"),
    Limit("descriptors", 1, "{:.1f}", 2, 0.0, "a connection or two are being closed at any moment"),
    Limit("tasks", 1, "{:.1f}", 2, 0.0, "each call is a task for as long as it takes"),
    Limit("disk", MIB, "{:.1f} MiB", 4 * MIB, 0.05, "the write-ahead log breathes between 0 and 4 MiB"),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """At `at` seconds. `values`: by the names of LIMITS, as far as they could be read."""

    at: float
    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class Trend:
    """Of one figure: its mean over the second half, and how much the fitted line rises over it."""

    limit: Limit
    mean: float
    rise: float

    @property
    def allowed(self) -> float:
        return max(self.limit.most, self.limit.share * self.mean)

    @property
    def grows(self) -> bool:
        return self.rise > self.allowed

    def text(self, value: float) -> str:
        """A value in the limit's unit."""
        return self.limit.form.format(value / self.limit.unit)


def trends(samples: Sequence[Sample]) -> list[Trend]:
    """Of each figure that was read; ValueError when there are too few samples to fit a line to."""
    if len(samples) < 8:
        raise ValueError(f"{len(samples)} samples are too few")
    middle = (samples[0].at + samples[-1].at) / 2
    half = [one for one in samples if one.at >= middle]
    found = []
    for limit in LIMITS:
        points = [(one.at, one.values[limit.name]) for one in half if limit.name in one.values]
        if len(points) >= 4:
            mean = sum(value for _, value in points) / len(points)
            found.append(Trend(limit, mean, _slope(points) * (points[-1][0] - points[0][0])))
    return found


def _slope(points: Sequence[tuple[float, float]]) -> float:
    """Least squares."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


@dataclass
class Watch:
    """Samples a process and its folder from a thread of its own, while the block lasts."""

    pid: int
    folder: Path
    tasks: Path | None = None
    """The file to which `tests.soak.counted` writes the number of its tasks."""
    every_s: float = 1.0
    samples: list[Sample] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        assert self._thread is not None
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self.every_s):
            with contextlib.suppress(psutil.Error):
                self.samples.append(Sample(time.monotonic(), self._values()))

    def _values(self) -> dict[str, float]:
        process = psutil.Process(self.pid)
        values = {
            "memory": float(process.memory_info().rss),
            "threads": float(process.num_threads()),
            "descriptors": float(process.num_fds()),
            "disk": float(disk_of(self.folder)),
        }
        with contextlib.suppress(OSError, ValueError):
            if self.tasks is not None:
                values["tasks"] = float(self.tasks.read_text())
        return values


def disk_of(folder: Path) -> int:
    """Bytes in all files below; one that goes meanwhile counts as none."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total
