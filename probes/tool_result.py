"""What a run of a tool gives, how it fails, and what a runner of tools is.

Errors (all derive from `ToolError`, and say in `str()` which tool, and what to make of it):

    ToolMissing      not on the PATH that the agent was started with, or not executable
    ToolTimeout      over its time limit; `result` holds what it had printed
    ToolKilled       ended by a signal that we did not send
    ToolFailed       an exit code that the caller did not accept
    ToolUnkillable   still there after SIGKILL: a process sits in an uninterruptible system call
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Required, TypedDict, Unpack


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


class RunOptions(TypedDict, total=False):
    """How a tool is run, beside what."""

    timeout_s: Required[float]
    accept: Collection[int] | None
    """The exit codes that are no failure (None: all). Default: 0."""
    stdin: bytes | None
    load: bool
    """A process that is meant to use the machine up: niced, and the first one the kernel kills when memory runs out."""
    memory_bytes: int
    """Limits its address space (0: no limit)."""
    pass_fds: Sequence[int]
    environment: Mapping[str, str] | None
    """Variables beside the few that every tool gets."""
    on_line: Callable[[str], None] | None
    """Gets each line of standard output as it comes."""


class ToolRunner(Protocol):
    """Runs tools: for real (`Tools`) or from a recording."""

    def find(self, name: str) -> str | None:
        """The path of a program, or None when this machine does not have it."""
        ...

    async def run(self, *argv: str, **how: Unpack[RunOptions]) -> ToolResult:
        """Run a tool to its end; `argv[0]` is a program name looked up on the PATH, or an absolute path.

        Raises a `ToolError`. A cancel kills the tool and all it started before it is let through.
        """
        ...

    def recording(self, folder: Path) -> ToolRunner:
        """A runner that also leaves each tool's argv, output and exit in `folder`."""
        ...

    async def take_unkillable(self, wait_s: float = 0.0) -> list[str]:
        """Names of tools that survived SIGKILL since the last call, and still do after `wait_s`."""
        ...


def signal_name(number: int) -> str:
    """SIGSEGV for 11; "signal 99" for a number without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
