"""A tool while it runs: its leash, its end, and what it prints."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from probes.tool_result import ToolUnkillable

OUTPUT_LIMIT = 8 * 2**20
KILL_WAIT_S = 1.5
STARVED_WAIT_S = 15.0
"""For processes that nothing but a busy machine keeps from dying. What hangs in the kernel is not waited for."""
LOOK_S = 0.2
TERM_WAIT_S = 5.0


@dataclass(slots=True)
class Ended:
    """How a tool came to its end, as its init reports it."""

    exit_code: int | None = None
    signal: int | None = None
    exec_errno: int | None = None


class Process:
    """A running tool. Made by `Tools.start`, which ends it for sure when its block is left."""

    def __init__(
        self, argv: tuple[str, ...], process: asyncio.subprocess.Process, leash_fd: int, status_fd: int
    ) -> None:
        self.argv = argv
        self._process = process
        self._leash_fd: int | None = leash_fd
        self._status_fd = status_fd
        self._ended: Ended | None = None
        self.stdout: asyncio.StreamReader = process.stdout or _nothing()
        self.stderr: asyncio.StreamReader = process.stderr or _nothing()

    @property
    def stdin(self) -> asyncio.StreamWriter | None:
        return self._process.stdin

    @property
    def tool(self) -> str:
        return Path(self.argv[0]).name

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def gone(self) -> None:
        """Wait until it is."""
        await self._process.wait()

    def terminate(self) -> None:
        """Ask it to end: SIGTERM to the tool itself. Its children are killed when it has gone."""
        if self._leash_fd is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._leash_fd, b"T")

    def kill(self) -> None:
        """Kill it and everything it started. Does not wait."""
        if self._leash_fd is not None:
            os.close(self._leash_fd)
            self._leash_fd = None

    async def wait(self) -> Ended:
        """Wait until it and everything it started are gone."""
        await self._process.wait()
        if self._ended is None:
            self._ended = self._read_status()
        return self._ended

    async def stop(self, grace_s: float = TERM_WAIT_S) -> Ended:
        """SIGTERM, then after `grace_s` kill all. Raises ToolUnkillable."""
        self.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                return await self.wait()
        await self.kill_and_wait()
        return await self.wait()

    async def kill_and_wait(self) -> None:
        """Kill all and wait until it is gone. Raises ToolUnkillable after KILL_WAIT_S where one of its processes
        sits in an uninterruptible call, and after STARVED_WAIT_S in any case."""
        self.kill()
        waited_s, sleeping = 0.0, self._uninterruptible()
        while not await self._gone_within(KILL_WAIT_S if not waited_s else LOOK_S):
            waited_s += LOOK_S if waited_s else KILL_WAIT_S
            before, sleeping = sleeping, self._uninterruptible()
            if before & sleeping or waited_s >= STARVED_WAIT_S:
                said = "a process of it hangs in the kernel" if before & sleeping else "the machine does not end it"
                raise ToolUnkillable(self.tool, f"{self.tool} is still there {waited_s:.1f} s after SIGKILL: {said}")

    async def _gone_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.wait()
                return True
        return False

    def _uninterruptible(self) -> set[int]:
        """The processes of it that sleep where no signal reaches them. One may do so for a moment only."""
        found = set()
        with contextlib.suppress(psutil.Error):
            whole = psutil.Process(self._process.pid)
            for one in (whole, *whole.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    if one.status() == psutil.STATUS_DISK_SLEEP:
                        found.add(one.pid)
        return found

    def _read_status(self) -> Ended:
        words = os.read(self._status_fd, 256).decode().split()
        os.close(self._status_fd)
        self.kill()
        if words[:1] == ["exec"]:
            return Ended(exec_errno=int(words[1]))
        if words[:1] == ["exit"]:
            code = os.waitstatus_to_exitcode(int(words[1]))
            return Ended(exit_code=code) if code >= 0 else Ended(signal=-code)
        return Ended(signal=int(signal.SIGKILL))  # the leash ended it, or somebody killed its init


def _nothing() -> asyncio.StreamReader:
    """The stream of a tool that prints to a terminal."""
    stream = asyncio.StreamReader()
    stream.feed_eof()
    return stream


class Capture:
    """Collects a stream up to OUTPUT_LIMIT, then goes on reading and drops the rest."""

    def __init__(self, on_line: Callable[[str], None] | None) -> None:
        self._chunks: list[bytes] = []
        self._size = 0
        self._on_line = on_line
        self._rest = b""
        self.truncated = False

    async def fill(self, stream: asyncio.StreamReader) -> None:
        while chunk := await stream.read(65536):
            kept = chunk[: max(0, OUTPUT_LIMIT - self._size)]
            self.truncated |= len(kept) < len(chunk)
            self._size += len(kept)
            self._chunks.append(kept)
            if self._on_line is not None:
                self._split(chunk)
        if self._on_line is not None and self._rest:
            self._on_line(self._rest.decode(errors="replace"))

    def _split(self, chunk: bytes) -> None:
        assert self._on_line is not None
        # Tools that redraw one line end it with a carriage return.
        *lines, rest = (self._rest + chunk).replace(b"\r", b"\n").split(b"\n")
        self._rest = rest[-65536:]
        for line in lines:
            if line:
                self._on_line(line.decode(errors="replace"))

    def text(self) -> str:
        return b"".join(self._chunks).decode(errors="replace")


async def feed(stream: asyncio.StreamWriter | None, data: bytes | None) -> None:
    if stream is None or data is None:
        return
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        stream.write(data)
        await stream.drain()
    stream.close()
