"""What a process costs, from /proc: memory in MiB, CPU time in seconds."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running(argv: Sequence[str], log: Path, cwd: Path) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """A process and the moment it was started; ended at the end of the block."""
    with log.open("ab") as out:
        started = time.monotonic()
        process = subprocess.Popen(argv, stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd=cwd)
    try:
        yield process, started
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def memory_mib(pid: int) -> tuple[float, float]:
    """(RSS, PSS) of one process."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = {name: int(kib) / 1024 for name, kib in re.findall(r"^(Rss|Pss):\s+(\d+) kB", text, re.MULTILINE)}
    return found["Rss"], found["Pss"]


def cpu_s(pid: int) -> float:
    """CPU time of all its threads, to the nanosecond where the kernel counts so."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def children_cpu_s(pid: int) -> float:
    """CPU time of its children that have ended, and of theirs."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) * TICK_S
