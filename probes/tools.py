"""The only door to processes: which program, for how long, with which exit codes, and how much output.

As root each tool runs under `tool_init.py` as the init of a PID namespace of its own, so that ending that init ends
everything the tool started; without root, under the same script as a child subreaper. The agent holds a
"leash" pipe to it: when the leash closes, because of a cancel or because the agent was SIGKILLed, all is killed.

How tools fail is told in `tool_result`; a tool that runs is a `tool_process.Process`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Self

from probes.tool_process import KILL_WAIT_S, OUTPUT_LIMIT, Capture, Ended, Process, feed
from probes.tool_result import (
    RunOptions,
    ToolError,
    ToolFailed,
    ToolKilled,
    ToolMissing,
    ToolResult,
    ToolRunner,
    ToolTimeout,
    ToolUnkillable,
    signal_name,
)

__all__ = [
    "KILL_WAIT_S",
    "OUTPUT_LIMIT",
    "Isolation",
    "Process",
    "RunOptions",
    "ToolError",
    "ToolFailed",
    "ToolKilled",
    "ToolMissing",
    "ToolResult",
    "ToolRunner",
    "ToolTimeout",
    "ToolUnkillable",
    "Tools",
    "signal_name",
]

LOAD_NICE = 10
LOAD_OOM_SCORE_ADJ = 1000
LOGIN_OOM_SCORE_ADJ = 300
"""A person's programs: killed before the agent, whose own score they would inherit, and after a load."""
# What a tool may see of our environment. The run's token is in none of it, nor in any argument list.
PASSED_ENVIRONMENT = ("LD_LIBRARY_PATH", "HOME", "TERM")
INIT_SCRIPT = Path(__file__).with_name("tool_init.py")


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


@dataclass(frozen=True, slots=True)
class Tools:
    """Runs programs found on `path` for real."""

    path: str
    proc: Path
    isolation: Isolation
    record: Path | None = None
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1), repr=False)
    _unkillable: list[Process] = field(default_factory=list, repr=False)

    @classmethod
    def of_environment(cls, proc: Path) -> Self:
        """On the PATH this process was started with, in the best isolation there is."""
        path = os.environ.get("PATH", os.defpath)
        return cls(path=path, proc=proc, isolation=Isolation.best(path))

    def find(self, name: str) -> str | None:
        return shutil.which(name, path=self.path)

    def recording(self, folder: Path) -> Tools:
        # What others could not kill, a login server's systemctl for instance, is none of the recorder's.
        return replace(self, record=folder, _numbers=itertools.count(1), _unkillable=[])

    async def take_unkillable(self, wait_s: float = 0.0) -> list[str]:
        survivors = list(self._unkillable)
        self._unkillable.clear()
        if survivors and wait_s > 0:
            waits = [asyncio.ensure_future(one.gone()) for one in survivors]
            await asyncio.wait(waits, timeout=wait_s)
            for wait in waits:
                wait.cancel()
        return [one.tool for one in survivors if one.running]

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
        out, err = Capture(on_line), Capture(None)
        stopped: str | None = None
        ended = Ended()
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
                            out.fill(process.stdout), err.fill(process.stderr), feed(process.stdin, stdin)
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
        terminal: int | None = None,
        folder: Path | None = None,
    ) -> AsyncIterator[Process]:
        """Start a program and lend it to a block; when the block is left, it and all it started are gone.

        `terminal` is a descriptor of the terminal that becomes its three streams and controls it: a person works
        there, and must see the machine as it is, so that it is kept together as a group and not in a namespace of its
        own. `folder`: where it starts.
        """
        program = self.find(argv[0])
        if program is None:
            raise ToolMissing(argv[0], f"{argv[0]} is not installed: it was looked for on PATH={self.path}")
        streams = (asyncio.subprocess.PIPE if terminal is None else terminal,) * 3
        leash_read, leash_write = os.pipe()
        status_read, status_write = os.pipe()
        init = (
            *(str(leash_read), str(status_write), str(self.proc)),
            *_standing(load=load, login=terminal is not None),
            *(str(memory_bytes), "--", program, *argv[1:]),
        )
        try:
            process = await asyncio.create_subprocess_exec(
                *self._prefix(Isolation.GROUP if terminal is not None else self.isolation),
                *init,
                stdin=streams[0] if stdin or terminal is not None else asyncio.subprocess.DEVNULL,
                stdout=streams[1],
                stderr=streams[2],
                env=self._environment(environment),
                cwd=folder,
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
            self._unkillable.append(handle)
            raise

    def _prefix(self, isolation: Isolation) -> tuple[str, ...]:
        python = (sys.executable, "-I", "-S", "-B", str(INIT_SCRIPT))
        if isolation is Isolation.GROUP:
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


def _standing(*, load: bool, login: bool) -> tuple[str, str]:
    """Niceness and OOM score, as `tool_init` takes them; 0 leaves what is inherited."""
    if load:
        return str(LOAD_NICE), str(LOAD_OOM_SCORE_ADJ)
    return "0", str(LOGIN_OOM_SCORE_ADJ) if login else "0"


def _raise_for(result: ToolResult, ended: Ended, accept: Collection[int] | None, timeout_s: float) -> None:
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
