"""A recorded machine: a folder that `vetting-agent capture` made, or that was put together by hand.

    DIR/proc, sys, dev, etc, run   the files that probes read, as they were; links are relative
    DIR/capture.json               what cannot be told by files: {"unreadable": {"sys/class/…/vpd_pg80": "EACCES"}}
    DIR/tools/TOOL ARGUMENTS.out   what one call of a tool printed (a slash in an argument is an underscore there),
                          .err     with what it printed on standard error, and
                          .exit    its exit code (none: 0), "-9" for a signal, "timeout" for a call that did not end
    DIR/tools/TOOL ARGUMENTS @2.out   the second and every later call of the same words

Nothing of the machine that this process runs on is read, and no program is run: a link that leads out of the folder is
refused when the recording is opened, and tools are played back. A call that was not recorded fails, and says so.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PosixPath
from typing import Any, Unpack

from probes.host import Host
from probes.json_paths import parsed
from probes.tools import RunOptions, ToolFailed, ToolKilled, ToolMissing, ToolResult, ToolTimeout

MANIFEST = "capture.json"
EMPTY = ".empty"
"""Stands in a folder that was empty, because a folder with nothing in it survives neither git nor many archives."""
TIMED_OUT = "timeout"
PYTHON = "python"
"""The name under which calls of Python itself (`probes.nvml_child`) are recorded, whichever it was."""


class NotARecording(ValueError):
    """The folder is no recorded machine; `str()` says why."""


def open_recording(folder: Path) -> Host:
    """The machine recorded in a folder that a person named. Raises NotARecording."""
    if not any((folder / part).is_dir() for part in ("proc", "sys")):
        raise NotARecording(f"{folder} is no recorded machine: it has neither a folder proc nor a folder sys")
    return host_in(folder)


def host_in(folder: Path) -> Host:
    """As `open_recording`, but a folder without a single file will do: a machine that shows nothing."""
    folder = folder.resolve()
    _refuse_ways_out(folder)
    return Host(_root(folder, unreadable_in(folder)), RecordedTools(folder / "tools"))


_ERRORS = {name: number for name, number in vars(errno).items() if isinstance(number, int)}


def unreadable_in(folder: Path) -> dict[str, int]:
    """The errors that reading a file gives, by its path in the recording. Raises NotARecording."""
    try:
        text = (folder / MANIFEST).read_text(errors="replace")
    except FileNotFoundError:
        return {}
    try:
        named: Mapping[str, str] = parsed(text).get("unreadable", {})
        return {path: _ERRORS[name] for path, name in named.items()}
    except (ValueError, AttributeError, KeyError, TypeError) as problem:
        raise NotARecording(f"{folder / MANIFEST} cannot be read: {problem}") from problem


def _refuse_ways_out(folder: Path) -> None:
    for place, folders, files in os.walk(folder):
        for link in (Path(place, name) for name in (*folders, *files)):
            if link.is_symlink() and not Path(os.path.realpath(link)).is_relative_to(folder):
                raise NotARecording(f"{link} leads out of the recording, to {link.readlink()}")


def _root(folder: Path, unreadable: Mapping[str, int]) -> Path:
    """The folder as a path that fails to open where the recorded machine failed, and hides what keeps folders."""

    def check(path: os.PathLike[str]) -> None:
        if not unreadable:
            return
        code = unreadable.get(os.path.relpath(os.path.realpath(path), folder))
        if code is not None:
            raise OSError(code, os.strerror(code), str(path))

    class RecordedPath(PosixPath):
        def open(self, *arguments: Any, **named: Any) -> Any:
            check(self)
            return super().open(*arguments, **named)

        def iterdir(self) -> Any:
            check(self)
            return (entry for entry in super().iterdir() if entry.name != EMPTY)

    return RecordedPath(folder)


# --- tools -----------------------------------------------------------------------------------------------------------


def stem_of(argv: Sequence[str]) -> str:
    """How a call's files are named. Paths that differ from run to run (evidence folders) keep only their last part."""
    words = (word if word.startswith("/dev/") else Path(word).name for word in map(str, argv[1:]) if word)
    return " ".join([tool_of(argv[0]), *(_flat(word) for word in words)])


def _flat(word: str) -> str:
    return word.replace("/", "_")


def tool_of(program: str) -> str:
    """The name of a program; `python` for the Python that runs us."""
    return PYTHON if program == sys.executable else Path(program).name


@dataclass(frozen=True)
class RecordedTools:
    """A ToolRunner over a folder of recordings. `calls` lists what was asked of it."""

    folder: Path
    evidence: Path | None = None
    calls: list[tuple[str, ...]] = field(default_factory=list)
    _asked: Counter[str] = field(default_factory=Counter)

    def find(self, name: str) -> str | None:
        known = self.folder.is_dir() and any(file.stem.split()[0] == name for file in self.folder.glob("*.out"))
        return f"/usr/bin/{name}" if known else None

    async def run(self, *argv: str, **how: Unpack[RunOptions]) -> ToolResult:
        self.calls.append(argv)
        name = tool_of(argv[0])
        if how.get("load"):
            raise ToolFailed(name, f"{name} was not run: a recorded machine cannot be put under load")
        if self.find(name) is None:
            raise ToolMissing(name, f"nothing of {name} was recorded on this machine")
        result = self._recorded(name, argv)
        self._keep(result)
        if on_line := how.get("on_line"):
            for line in result.stdout.splitlines():
                on_line(line)
        if result.stopped:
            raise ToolTimeout(name, f"{name} did not end in time when it was recorded", result)
        if result.signal is not None:
            raise ToolKilled(name, f"{name} was {result.how_it_ended()}", result)
        accept = how.get("accept", (0,))
        if accept is not None and result.exit_code not in accept:
            raise ToolFailed(name, f"{name} ended with exit code {result.exit_code}: {result.last_words()}", result)
        return result

    def recording(self, folder: Path) -> RecordedTools:
        return RecordedTools(self.folder, folder, self.calls, self._asked)

    async def take_unkillable(self, wait_s: float = 0.0) -> list[str]:
        return []

    def _recorded(self, name: str, argv: tuple[str, ...]) -> ToolResult:
        stem = self._file_for(stem_of(argv))
        out, err, end = (self.folder / f"{stem}{kind}" for kind in (".out", ".err", ".exit"))
        if not _exists(out):
            raise ToolFailed(name, f"this call was not recorded: {stem[:200]}")
        ended = end.read_text(errors="replace").strip() if end.exists() else "0"
        if ended != TIMED_OUT and not re.fullmatch(r"-?\d{1,3}", ended, re.ASCII):
            raise ToolFailed(name, f"{end.name} does not say how {name} ended: {ended[:40]!r}")
        code = None if ended == TIMED_OUT else int(ended)
        return ToolResult(
            argv=argv,
            stdout=out.read_text(errors="replace"),
            stderr=err.read_text(errors="replace") if err.exists() else "",
            exit_code=code if code is not None and code >= 0 else None,
            signal=-code if code is not None and code < 0 else None,
            duration_s=0.0,
            stopped=TIMED_OUT if code is None else None,
        )

    def _file_for(self, stem: str) -> str:
        """The recording for this call: the second one from the second call on, where there is one."""
        self._asked[stem] += 1
        later = f"{stem} @2"
        return later if self._asked[stem] > 1 and (self.folder / f"{later}.out").exists() else stem

    def _keep(self, result: ToolResult) -> None:
        if self.evidence is not None:
            self.evidence.mkdir(parents=True, exist_ok=True)
            (self.evidence / f"{len(self.calls):03d}-{result.tool}.out").write_text(result.stdout)


def _exists(file: Path) -> bool:
    """A call of many words has no file: no name can be as long."""
    try:
        return file.exists()
    except OSError:
        return False
