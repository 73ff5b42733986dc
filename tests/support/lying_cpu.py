"""A CPU that lies: runs the known-answer child with a fault in it that shows on one CPU alone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from probes.tools import RunOptions, ToolResult, ToolRunner
from stages.cpu_answers import CHILD

START = 'if __name__ == "__main__":'
WRONG = "    return _true(task, seed)[:-1] + 'x' if task is {task} else _true(task, seed)\n"
ONCE = """    marker = {marker!r}
    if task is hashes and not os.path.exists(marker):
        open(marker, "w").close()
        return _true(task, seed)[:-1] + "x"
    return _true(task, seed)
"""
EVER_OTHER = "    return f'{seed}:{time.monotonic_ns()}'\n"
NO_MEMORY = "    raise MemoryError\n"
CRASH = "    os.kill(os.getpid(), signal.SIGSEGV)\n"
KILLED = "    os.kill(os.getpid(), signal.SIGKILL)\n"
FREEZE = "    time.sleep(600)\n"


def faulty(folder: Path, fault: str, cpus: Collection[int] = (1,)) -> Path:
    """A copy of the child whose tasks run `fault` when pinned to one of `cpus`."""
    body = f"""
_true = _answer

def _answer(task, seed):
    if not any(os.sched_getaffinity(0) == {{cpu}} for cpu in {sorted(cpus)!r}):
        return _true(task, seed)
{fault}
"""
    script = folder / "faulty_child.py"
    script.write_text(CHILD.read_text().replace(START, body + START))
    return script


@dataclass(frozen=True)
class LyingTools:
    """A tool runner that starts `script` in place of the child."""

    real: ToolRunner
    script: Path

    def find(self, name: str) -> str | None:
        return self.real.find(name)

    async def run(self, *argv: str, **how: Unpack[RunOptions]) -> ToolResult:
        swapped = tuple(str(self.script) if word == str(CHILD) else word for word in argv)
        return await self.real.run(*swapped, **how)

    def recording(self, folder: Path) -> ToolRunner:
        return LyingTools(self.real.recording(folder), self.script)

    async def take_unkillable(self, wait_s: float = 0.0) -> list[str]:
        return await self.real.take_unkillable(wait_s)
