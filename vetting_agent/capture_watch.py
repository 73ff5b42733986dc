"""Watches what the probes read: every path they hand to the kernel, and every tool they run.

Thus a capture holds exactly what the probes of this version want, and no list of files has to be kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PosixPath
from typing import Any, Unpack

from probes.recorded import EMPTY, TIMED_OUT, stem_of
from probes.tools import RunOptions, ToolError, ToolFailed, ToolResult, ToolRunner, ToolTimeout


@dataclass(frozen=True)
class Watch:
    """Paths as they were asked for: any (`touched`), and those whose entries were listed."""

    touched: set[str] = field(default_factory=set)
    listed: set[str] = field(default_factory=set)

    def root(self, folder: Path) -> Path:
        """`folder` as a path that notes its own use, and that of every path made from it."""
        touched, listed = self.touched, self.listed

        class WatchedPath(PosixPath):
            def __fspath__(self) -> str:
                # Whatever is done with a path (stat, open, readlink, scandir …), the kernel gets it from here.
                path = str(self)
                touched.add(path)
                return path

            def iterdir(self) -> Any:
                listed.add(str(self))
                touched.add(str(self))  # from Python 3.13 on, the kernel gets it from elsewhere
                return (entry for entry in super(WatchedPath, self).iterdir() if entry.name != EMPTY)

        return WatchedPath(folder)


@dataclass(frozen=True)
class Call:
    """One call of a tool, as it will be played back: output, and an exit code, "-9" for a signal, or "timeout"."""

    argv: tuple[str, ...]
    stdout: str
    stderr: str
    ended: str


@dataclass(frozen=True)
class Calls:
    """The calls of all tools by the names of their files: the first of each, and the last where they differ."""

    first: dict[str, Call] = field(default_factory=dict)
    last: dict[str, Call] = field(default_factory=dict)

    def add(self, result: ToolResult) -> None:
        stopped = result.stopped is not None
        code = result.exit_code if result.signal is None else -result.signal
        call = Call(result.argv, result.stdout, result.stderr, TIMED_OUT if stopped else str(code))
        stem = stem_of(result.argv)
        if self.first.setdefault(stem, call) != call:
            self.last[stem] = call

    def files(self) -> dict[str, Call]:
        """Calls by the stem of their files."""
        return {**self.first, **{f"{stem} @2": call for stem, call in self.last.items()}}


@dataclass(frozen=True)
class WatchedTools:
    """A ToolRunner that runs tools and keeps what they gave; loads are not run, since a capture takes a look only."""

    inner: ToolRunner
    calls: Calls = field(default_factory=Calls)

    def find(self, name: str) -> str | None:
        return self.inner.find(name)

    async def run(self, *argv: str, **how: Unpack[RunOptions]) -> ToolResult:
        if how.get("load"):
            raise ToolFailed(argv[0], f"{argv[0]} was not run: a capture puts no load on the machine")
        try:
            result = await self.inner.run(*argv, **how)
        except ToolError as problem:
            self._keep_failure(argv, problem)
            raise
        self.calls.add(result)
        return result

    def _keep_failure(self, argv: tuple[str, ...], problem: ToolError) -> None:
        if problem.result is not None:
            self.calls.add(problem.result)
        elif isinstance(problem, ToolTimeout):
            self.calls.add(ToolResult(argv, "", "", None, None, 0.0, stopped=TIMED_OUT))

    def recording(self, folder: Path) -> WatchedTools:
        return WatchedTools(self.inner.recording(folder), self.calls)

    async def take_unkillable(self, wait_s: float = 0.0) -> list[str]:
        return await self.inner.take_unkillable(wait_s)
