"""The machine as an object: where its /proc, /sys and /dev are, and how its tools are run.

Everything that reads the machine takes a `Host`, so that a recorded machine (a folder with `proc/` and
`sys/`, and recorded tool output) can stand in for the real one. This is the only file that may
name those roots; `tests/test_house.py` guards that.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from probes.tools import ToolRunner, Tools

REAL_ROOT = Path("/")
REAL_PROC = Path("/proc")


def _default_tools() -> ToolRunner:
    return Tools.of_environment(REAL_PROC)


@dataclass(frozen=True, slots=True)
class Host:
    """Roots and tools of one machine, real or recorded.

    `root` is the folder under which `proc`, `sys`, `dev`, `etc` and `run` lie. `tools` runs (or replays) programs.
    """

    root: Path = REAL_ROOT
    tools: ToolRunner = field(default_factory=_default_tools)
    asks_kernel: bool = True
    """False while this machine is being recorded: what comes by kernel call leaves nothing that could be kept."""

    @property
    def is_real(self) -> bool:
        """True for the machine this process runs on and may ask by kernel call, False for a recording."""
        return self.asks_kernel and self.root == REAL_ROOT

    def proc(self, *parts: str) -> Path:
        """A path below /proc."""
        return self.root.joinpath("proc", *parts)

    def sys(self, *parts: str) -> Path:
        """A path below /sys."""
        return self.root.joinpath("sys", *parts)

    def dev(self, *parts: str) -> Path:
        """A path below /dev."""
        return self.root.joinpath("dev", *parts)

    def etc(self, *parts: str) -> Path:
        """A path below /etc."""
        return self.root.joinpath("etc", *parts)

    def run(self, *parts: str) -> Path:
        """A path below /run."""
        return self.root.joinpath("run", *parts)

    def with_tools(self, tools: ToolRunner) -> Host:
        """The same machine with its tools run another way, for instance recorded into a folder."""
        return replace(self, tools=tools)


def text_of(path: Path) -> str | None:
    """The stripped text of a small kernel file; None when it is absent, unreadable or empty.

    Absence is not failure: most attributes exist on some machines only. A reader that must tell
    "absent" from "unreadable" calls `path.read_text()` and handles OSError itself.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace").strip("\x00 \t\r\n")
    except OSError:
        return None
    return text or None


def int_of(path: Path, base: int = 10) -> int | None:
    """The integer in a small kernel file; None when absent, unreadable or not a number."""
    text = text_of(path)
    if text is None:
        return None
    try:
        return int(text, base)
    except ValueError:
        return None


def entries_of(folder: Path) -> list[Path]:
    """The entries of a folder, sorted by name; empty when it is absent or unreadable."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
