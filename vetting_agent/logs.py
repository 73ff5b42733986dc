"""The third crossing point: log lines from everyone, kept until the orchestrator has them, in bounded memory.

The same lines go to standard error at once, for the journal. When memory is full the oldest info lines are dropped
first, then warnings, then errors; what was dropped is counted and said in a line of its own.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from stages.stage import Level
from vetting_agent.client import Client
from vetting_agent.errors import CallError, Rejected
from vetting_agent.printable import printable
from vetting_agent.redact import Redactor
from vetting_agent.wire import LogLine, LogRequest

BATCH_BYTES = 256 * 1024
MEMORY_BYTES = 4 * 2**20
LINE_CHARACTERS = 8192
LINE_OVERHEAD_BYTES = 160
# A pipe that can be written to at all takes this much without blocking (PIPE_BUF).
STDERR_CHUNK_BYTES = 4096
JOURNAL_PRIORITY = {Level.INFO: "<6>", Level.WARN: "<4>", Level.ERROR: "<3>"}
DROP_ORDER = (Level.INFO, Level.WARN, Level.ERROR)


def timestamp() -> str:
    """Now, as the wire writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Stderr:
    """Standard error that never blocks: what a stuck reader does not take is lost there, and only there."""

    def __init__(self, fd: int, *, journal: bool) -> None:
        self._fd = fd
        self._journal = journal
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    @classmethod
    def of_environment(cls) -> Stderr:
        return cls(2, journal="JOURNAL_STREAM" in os.environ)

    def write(self, line: LogLine) -> None:
        level = Level(line.level)
        stage = f" [{line.stage}]" if line.stage else ""
        if self._journal:
            text = f"{JOURNAL_PRIORITY[level]}{stage.lstrip()}{' ' if stage else ''}{line.text}"
        else:
            text = f"{line.ts} {level.value:5}{stage} {line.text}"
        content = text.encode()[: STDERR_CHUNK_BYTES - 1] + b"\n"
        try:
            if self._poll.poll(0):
                os.write(self._fd, content)
        except OSError:
            return  # nobody listens; the orchestrator gets the line all the same


@dataclass(slots=True)
class LogBook:
    """The queue. `log` never blocks and may be called from the event loop's thread only."""

    redactor: Redactor = field(default_factory=Redactor)
    echo: Callable[[LogLine], None] = lambda _line: None
    limit_bytes: int = MEMORY_BYTES
    dropped: int = 0
    _announced: int = 0
    _seq: int = 0
    _bytes: int = 0
    _lines: dict[int, LogLine] = field(default_factory=dict)
    _by_level: dict[Level, deque[int]] = field(default_factory=lambda: {level: deque() for level in Level})
    _in_flight: set[int] = field(default_factory=set)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def info(self, text: str, stage: str = "") -> None:
        self.log(Level.INFO, text, stage)

    def warn(self, text: str, stage: str = "") -> None:
        self.log(Level.WARN, text, stage)

    def error(self, text: str, stage: str = "") -> None:
        self.log(Level.ERROR, text, stage)

    def log(self, level: Level, text: str, stage: str = "") -> None:
        """Take a text, one line of the log for each of its lines."""
        for part in self.redactor.text(text).splitlines() or [""]:
            self._add(level, _shortened(printable(part)), stage)
        self._make_room()

    @property
    def waiting(self) -> int:
        """How many lines the orchestrator does not have yet."""
        return len(self._lines)

    async def arrival(self) -> None:
        """Wait until there is a line to send."""
        while not self._lines:
            self._arrived.clear()
            await self._arrived.wait()

    def batch(self, limit_bytes: int = BATCH_BYTES) -> list[LogLine]:
        """The oldest lines that fit (at least one, if there are any). They stay until `acknowledge`."""
        self._announce()
        batch: list[LogLine] = []
        size = 0
        for line in self._lines.values():
            size += _size(line)
            if batch and size > limit_bytes:
                break
            batch.append(line)
        self._in_flight = {line.seq for line in batch if line.seq is not None}
        return batch

    def acknowledge(self, batch: list[LogLine]) -> None:
        """The orchestrator has these."""
        for line in batch:
            assert line.seq is not None
            if self._lines.pop(line.seq, None) is not None:
                self._bytes -= _size(line)
        self._in_flight = set()
        for queue in self._by_level.values():
            while queue and queue[0] not in self._lines:
                queue.popleft()

    def give_up(self, batch: list[LogLine]) -> None:
        """The orchestrator will never take these: count them as dropped."""
        self.dropped += len(batch)
        self.acknowledge(batch)

    def _add(self, level: Level, text: str, stage: str) -> None:
        self._seq += 1
        line = LogLine(ts=timestamp(), level=level.value, stage=stage, text=text, seq=self._seq)
        self._lines[self._seq] = line
        self._by_level[level].append(self._seq)
        self._bytes += _size(line)
        self._arrived.set()
        self.echo(line)

    def _make_room(self) -> None:
        while self._bytes > self.limit_bytes and (seq := self._victim()) is not None:
            self._bytes -= _size(self._lines.pop(seq))
            self.dropped += 1

    def _victim(self) -> int | None:
        for level in DROP_ORDER:
            queue = self._by_level[level]
            for at, seq in enumerate(queue):
                if seq in self._lines and seq not in self._in_flight:
                    del queue[at]
                    return seq
        return None

    def _announce(self) -> None:
        new = self.dropped - self._announced
        if new:
            self._announced = self.dropped
            text = f"{new} log lines were dropped, {self.dropped} in all: the orchestrator did not take them in time"
            self._add(Level.WARN, text, "")


class Forwarder:
    """Sends the book's lines, at most once in `interval_s`, until they are all acknowledged."""

    def __init__(self, book: LogBook, client: Client, interval_s: float) -> None:
        self._book = book
        self._client = client
        self._interval_s = interval_s
        self._batch_bytes = BATCH_BYTES
        self._sending = asyncio.Lock()

    async def run(self) -> None:
        """Forever. Raises FinalRefusal."""
        while True:
            await self._book.arrival()
            await self._send_all()
            await asyncio.sleep(self._interval_s)

    async def flush(self, limit_s: float) -> bool:
        """A last try to empty the book; True when that worked."""
        try:
            async with asyncio.timeout(limit_s):
                await self._send_all()
        except (TimeoutError, CallError):
            return False
        return self._book.waiting == 0

    async def _send_all(self) -> None:
        async with self._sending:
            while batch := self._book.batch(self._batch_bytes):
                await self._send(batch)

    async def _send(self, batch: list[LogLine]) -> None:
        request = LogRequest(lines=batch)
        try:
            await self._client.insist("log", lambda: self._client.log(request))
        except Rejected as problem:
            self._narrow(batch, problem)
        else:
            self._book.acknowledge(batch)
            self._batch_bytes = BATCH_BYTES

    def _narrow(self, batch: list[LogLine], problem: Rejected) -> None:
        """Find the line that is not taken by sending less at a time; that one alone is given up."""
        if len(batch) > 1:
            self._batch_bytes = sum(_size(line) for line in batch) // 2
            return
        self._book.give_up(batch)
        self._book.warn(f"a log line was rejected and is dropped: {problem}")
        self._batch_bytes = BATCH_BYTES


def _size(line: LogLine) -> int:
    return len(line.text) + LINE_OVERHEAD_BYTES if line.text.isascii() else len(line.text) * 4 + LINE_OVERHEAD_BYTES


def _shortened(text: str) -> str:
    if len(text) <= LINE_CHARACTERS:
        return text
    return f"{text[:LINE_CHARACTERS]}… ({len(text) - LINE_CHARACTERS} more characters)"
