"""The only door to processes: which program, for how long, with which exit codes, and how much output.

As root each tool runs under `tool_init.py` as the init of a PID namespace of its own, so that ending that init ends
everything the tool started; without root, under the same script as a child subreaper. The agent holds a
"leash" pipe to it: when the leash closes, because of a cancel or because the agent was SIGKILLed, all is killed.

Errors (all derive from `ToolError`, and say in `str()` which tool, and what to make of it):

    ToolMissing      not on the PATH that the agent was started with, or not executable
    ToolTimeout      over its time limit; `result` holds what it had printed
    ToolKilled       ended by a signal that we did not send
    ToolFailed       an exit code that the caller did not accept
    ToolUnkillable   still there after SIGKILL: a process sits in an uninterruptible system call
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Protocol, Self

OUTPUT_LIMIT = 8 * 2**20
KILL_WAIT_S = 1.5
TERM_WAIT_S = 5.0
LOAD_NICE = 10
LOAD_OOM_SCORE_ADJ = 1000
# What a tool may see of our environment. The run's token is in none of it, nor in any argument list.
PASSED_ENVIRONMENT = ("LD_LIBRARY_PATH", "HOME", "TERM")
INIT_SCRIPT = Path(__file__).with_name("tool_init.py")


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What one run of a tool gave. Exactly one of `exit_code` and `signal` is set, unless we stopped it."""

    argv: tuple[str, ...]
    stdout: str
    stderr: str
    exit_code: int | None
    signal: int | None
    duration_s: float
    truncated: bool = False
    stopped: str | None = None
    """Why we ended it ourselves: `timeout`, `cancelled`, or None."""

    @property
    def tool(self) -> str:
        return Path(self.argv[0]).name

    def how_it_ended(self) -> str:
        """For a person: "exit code 4", "killed by SIGSEGV", "stopped after 10.0 s"."""
        if self.stopped:
            return f"stopped ({self.stopped}) after {self.duration_s:.1f} s"
        if self.signal is not None:
            return f"killed by {signal_name(self.signal)}"
        return f"exit code {self.exit_code}"

    def last_words(self, limit: int = 200) -> str:
        """The last line it printed, standard error first: what a person would look at."""
        for text in (self.stderr, self.stdout):
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            if lines:
                return lines[-1][:limit]
        return ""


class ToolError(Exception):
    """A tool did not do its work. `tool` names it; `result` is what it left, if it ran."""

    def __init__(self, tool: str, message: str, result: ToolResult | None = None) -> None:
        super().__init__(message)
        self.tool = tool
        self.result = result


class ToolMissing(ToolError):
    """Not found or not executable."""


class ToolTimeout(ToolError):
    """Over its time limit."""


class ToolKilled(ToolError):
    """Ended by a signal not ours."""


class ToolFailed(ToolError):
    """An exit code that the caller did not accept."""


class ToolUnkillable(ToolError):
    """Still there after SIGKILL."""


class ToolRunner(Protocol):
    """Runs tools: for real (`Tools`) or from a recording."""

    def find(self, name: str) -> str | None:
        """The path of a program, or None when this machine does not have it."""
        ...

    async def run(
        self,
        *argv: str,
        timeout_s: float,
        accept: Collection[int] | None = (0,),
        stdin: bytes | None = None,
        load: bool = False,
        memory_bytes: int = 0,
        pass_fds: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> ToolResult:
        """Run a tool to its end.

        `argv[0]` is a program name looked up on the PATH, or an absolute path. `accept` lists the exit codes that
        are no failure (None: all). `load` marks a process that is meant to use the machine up: niced, and the
        first one the kernel kills when memory runs out. `memory_bytes` limits its address space (0: no limit).
        `on_line` gets each line of standard output as it comes.

        Raises a `ToolError`. A cancel kills the tool and all it started before it is let through.
        """
        ...

    def recording(self, folder: Path) -> ToolRunner:
        """A runner that also leaves each tool's argv, output and exit in `folder`."""
        ...

    def take_unkillable(self) -> list[str]:
        """Names of tools that survived SIGKILL since the last call."""
        ...


class Isolation(Enum):
    """How a tool's processes are kept together."""

    NAMESPACE = "namespace"
    GROUP = "group"

    @staticmethod
    def best(path: str) -> Isolation:
        """NAMESPACE for root where the programs for it exist and the kernel allows it, else GROUP."""
        if os.geteuid() != 0 or shutil.which("unshare", path=path) is None:
            return Isolation.GROUP
        return Isolation.NAMESPACE if _may_unshare(path) else Isolation.GROUP


def _may_unshare(path: str) -> bool:
    """Containers may forbid namespaces to root: try once."""
    unshare = shutil.which("unshare", path=path)
    assert unshare is not None
    argv = [unshare, "--pid", "--fork", "--kill-child", "--mount-proc", "--", sys.executable, "-I", "-S", "-c", ""]
    null = os.open(os.devnull, os.O_RDWR)
    try:
        actions = [(os.POSIX_SPAWN_DUP2, null, fd) for fd in (0, 1, 2)]
        pid = os.posix_spawn(unshare, argv, {"PATH": path}, file_actions=actions)
        return os.waitpid(pid, 0)[1] == 0
    except OSError:
        return False
    finally:
        os.close(null)


@dataclass(slots=True)
class _Ended:
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
        self._ended: _Ended | None = None
        assert process.stdout is not None
        assert process.stderr is not None
        self.stdout: asyncio.StreamReader = process.stdout
        self.stderr: asyncio.StreamReader = process.stderr

    @property
    def stdin(self) -> asyncio.StreamWriter | None:
        return self._process.stdin

    @property
    def tool(self) -> str:
        return Path(self.argv[0]).name

    @property
    def running(self) -> bool:
        return self._process.returncode is None

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

    async def wait(self) -> _Ended:
        """Wait until it and everything it started are gone."""
        await self._process.wait()
        if self._ended is None:
            self._ended = self._read_status()
        return self._ended

    async def stop(self, grace_s: float = TERM_WAIT_S) -> _Ended:
        """SIGTERM, then after `grace_s` kill all. Raises ToolUnkillable."""
        self.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                return await self.wait()
        await self.kill_and_wait()
        return await self.wait()

    async def kill_and_wait(self) -> None:
        """Kill all and wait for it, for at most KILL_WAIT_S. Raises ToolUnkillable."""
        self.kill()
        try:
            async with asyncio.timeout(KILL_WAIT_S):
                await self.wait()
        except TimeoutError:
            raise ToolUnkillable(
                self.tool,
                f"{self.tool} is still there {KILL_WAIT_S} s after SIGKILL: a process of it hangs in the kernel",
            ) from None

    def _read_status(self) -> _Ended:
        words = os.read(self._status_fd, 256).decode().split()
        os.close(self._status_fd)
        self.kill()
        if words[:1] == ["exec"]:
            return _Ended(exec_errno=int(words[1]))
        if words[:1] == ["exit"]:
            code = os.waitstatus_to_exitcode(int(words[1]))
            return _Ended(exit_code=code) if code >= 0 else _Ended(signal=-code)
        return _Ended(signal=int(signal.SIGKILL))  # the leash ended it, or somebody killed its init


@dataclass(frozen=True, slots=True)
class Tools:
    """Runs programs found on `path` for real."""

    path: str
    proc: Path
    isolation: Isolation
    record: Path | None = None
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1), repr=False)
    _unkillable: list[str] = field(default_factory=list, repr=False)

    @classmethod
    def of_environment(cls, proc: Path) -> Self:
        """On the PATH this process was started with, in the best isolation there is."""
        path = os.environ.get("PATH", os.defpath)
        return cls(path=path, proc=proc, isolation=Isolation.best(path))

    def find(self, name: str) -> str | None:
        return shutil.which(name, path=self.path)

    def recording(self, folder: Path) -> Tools:
        return replace(self, record=folder, _numbers=itertools.count(1))

    def take_unkillable(self) -> list[str]:
        names = list(self._unkillable)
        self._unkillable.clear()
        return names

    async def run(
        self,
        *argv: str,
        timeout_s: float,
        accept: Collection[int] | None = (0,),
        stdin: bytes | None = None,
        load: bool = False,
        memory_bytes: int = 0,
        pass_fds: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> ToolResult:
        started = time.monotonic()
        out, err = _Capture(on_line), _Capture(None)
        stopped: str | None = None
        ended = _Ended()
        try:
            async with self.start(
                *argv,
                stdin=stdin is not None,
                load=load,
                memory_bytes=memory_bytes,
                pass_fds=pass_fds,
                environment=environment,
            ) as process:
                try:
                    async with asyncio.timeout(timeout_s):
                        await asyncio.gather(
                            out.fill(process.stdout), err.fill(process.stderr), _feed(process.stdin, stdin)
                        )
                        ended = await process.wait()
                except TimeoutError:
                    stopped = "timeout"
                except asyncio.CancelledError:
                    stopped = "cancelled"
                    raise
        finally:
            result = ToolResult(
                argv=tuple(argv),
                stdout=out.text(),
                stderr=err.text(),
                exit_code=ended.exit_code,
                signal=ended.signal,
                duration_s=time.monotonic() - started,
                truncated=out.truncated or err.truncated,
                stopped=stopped,
            )
            self._write_record(result)
        _raise_for(result, ended, accept, timeout_s)
        return result

    @contextlib.asynccontextmanager
    async def start(
        self,
        *argv: str,
        stdin: bool = False,
        load: bool = False,
        memory_bytes: int = 0,
        pass_fds: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Process]:
        """Start a program and lend it to a block; when the block is left, it and all it started are gone."""
        program = self.find(argv[0])
        if program is None:
            raise ToolMissing(argv[0], f"{argv[0]} is not installed: it was looked for on PATH={self.path}")
        leash_read, leash_write = os.pipe()
        status_read, status_write = os.pipe()
        init = (
            *(str(leash_read), str(status_write), str(self.proc)),
            *((str(LOAD_NICE), str(LOAD_OOM_SCORE_ADJ)) if load else ("0", "0")),
            *(str(memory_bytes), "--", program, *argv[1:]),
        )
        try:
            process = await asyncio.create_subprocess_exec(
                *self._prefix(),
                *init,
                stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=self._environment(environment),
                pass_fds=(leash_read, status_write, *pass_fds),
                limit=2**20,
            )
        except BaseException:
            os.close(leash_write)
            os.close(status_read)
            raise
        finally:
            os.close(leash_read)
            os.close(status_write)
        handle = Process(tuple(argv), process, leash_write, status_read)
        try:
            yield handle
        finally:
            await self._end(handle)

    async def _end(self, handle: Process) -> None:
        """Kill what is left, even while we are being cancelled a second time."""
        killing = asyncio.ensure_future(handle.kill_and_wait())
        try:
            await asyncio.shield(killing)
        except asyncio.CancelledError:
            await asyncio.wait([killing])
            raise
        except ToolUnkillable:
            self._unkillable.append(handle.tool)
            raise

    def _prefix(self) -> tuple[str, ...]:
        python = (sys.executable, "-I", "-S", "-B", str(INIT_SCRIPT))
        if self.isolation is Isolation.GROUP:
            return (*python, "group")
        unshare = self.find("unshare")
        assert unshare is not None, "Isolation.best found it"
        namespace = (unshare, "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc", "--", *python, "namespace")
        setpriv = self.find("setpriv")
        # The leash alone is enough; the parent-death signal covers an init that is itself stopped or frozen.
        return (setpriv, "--pdeathsig", "KILL", "--", *namespace) if setpriv else namespace

    def _environment(self, extra: Mapping[str, str] | None) -> dict[str, str]:
        passed = {name: os.environ[name] for name in PASSED_ENVIRONMENT if name in os.environ}
        return {**passed, "PATH": self.path, "LC_ALL": "C.UTF-8", "TZ": "UTC", **(extra or {})}

    def _write_record(self, result: ToolResult) -> None:
        if self.record is None:
            return
        stem = f"{next(self._numbers):03d}-{result.tool}"
        facts = {name: value for name, value in asdict(result).items() if name not in {"stdout", "stderr"}}
        try:
            self.record.mkdir(parents=True, exist_ok=True)
            (self.record / f"{stem}.json").write_text(json.dumps(facts, indent=1) + "\n")
            (self.record / f"{stem}.out").write_text(result.stdout)
            if result.stderr:
                (self.record / f"{stem}.err").write_text(result.stderr)
        except OSError:
            # A full evidence file system must not change a verdict; the shipping of evidence reports it.
            return


class _Capture:
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


async def _feed(stream: asyncio.StreamWriter | None, data: bytes | None) -> None:
    if stream is None or data is None:
        return
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        stream.write(data)
        await stream.drain()
    stream.close()


def signal_name(number: int) -> str:
    """SIGSEGV for 11; "signal 99" for a number without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _raise_for(result: ToolResult, ended: _Ended, accept: Collection[int] | None, timeout_s: float) -> None:
    tool = result.tool
    if ended.exec_errno is not None:
        reason = os.strerror(ended.exec_errno)
        kind = ToolMissing if ended.exec_errno in {errno.ENOENT, errno.EACCES} else ToolFailed
        raise kind(tool, f"{tool} could not be started: {reason}", result)
    if result.stopped == "timeout":
        raise ToolTimeout(tool, f"{tool} did not finish within {timeout_s:g} s and was killed", result)
    said = f": {result.last_words()}" if result.last_words() else ""
    if result.signal is not None:
        raise ToolKilled(tool, f"{tool} was {result.how_it_ended()}{said}", result)
    if accept is not None and result.exit_code not in accept:
        raise ToolFailed(tool, f"{tool} ended with exit code {result.exit_code}{said}", result)
