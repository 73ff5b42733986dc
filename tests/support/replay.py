"""Tools played back from a folder, for recorded machines.

What `TOOL ARGUMENTS` printed lies in a file of that name with `.out` behind it (a slash in an argument is an underscore
there); beside it may lie `.err` and `.exit` (0 where there is none; `-9` for a signal). A tool of which nothing was
recorded is missing; a call that was not recorded fails, naming the file that would hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from probes.host import Host
from probes.tools import ToolFailed, ToolKilled, ToolMissing, ToolResult

HOSTS = Path(__file__).parent.parent / "fixtures" / "hosts"


@dataclass(frozen=True)
class Replay:
    """A ToolRunner over a folder of recordings. `calls` lists what was asked of it."""

    folder: Path
    evidence: Path | None = None
    calls: list[tuple[str, ...]] = field(default_factory=list)

    def find(self, name: str) -> str | None:
        known = self.folder.is_dir() and any(file.name.split()[0] == name for file in self.folder.glob("*.out"))
        return f"/usr/bin/{name}" if known else None

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
        self.calls.append(argv)
        name = Path(argv[0]).name
        if self.find(name) is None:
            raise ToolMissing(name, f"{name} is not installed: nothing of it was recorded in {self.folder}")
        result = self._recorded(name, argv)
        self._keep(result)
        for line in result.stdout.splitlines() if on_line else ():
            assert on_line is not None
            on_line(line)
        if result.signal is not None:
            raise ToolKilled(name, f"{name} was {result.how_it_ended()}", result)
        if accept is not None and result.exit_code not in accept:
            raise ToolFailed(name, f"{name} ended with exit code {result.exit_code}: {result.last_words()}", result)
        return result

    def recording(self, folder: Path) -> Replay:
        return Replay(self.folder, folder, self.calls)

    def take_unkillable(self) -> list[str]:
        return []

    def _recorded(self, name: str, argv: tuple[str, ...]) -> ToolResult:
        stem = " ".join([name, *argv[1:]]).replace("/", "_")
        out, err, end = (self.folder / f"{stem}{kind}" for kind in (".out", ".err", ".exit"))
        if not out.exists():
            raise ToolFailed(name, f"this call was not recorded: {out}")
        code = int(end.read_text()) if end.exists() else 0
        return ToolResult(
            argv=argv,
            stdout=out.read_text(errors="replace"),
            stderr=err.read_text(errors="replace") if err.exists() else "",
            exit_code=code if code >= 0 else None,
            signal=None if code >= 0 else -code,
            duration_s=0.0,
        )

    def _keep(self, result: ToolResult) -> None:
        if self.evidence is not None:
            self.evidence.mkdir(parents=True, exist_ok=True)
            (self.evidence / f"{len(self.calls):03d}-{result.tool}.out").write_text(result.stdout)


def recorded_host(machine: str) -> Host:
    """The machine recorded in tests/fixtures/hosts/MACHINE, its tools in `tools` there."""
    return host_in(HOSTS / machine)


def host_in(folder: Path) -> Host:
    """The machine recorded in a folder."""
    return Host(folder, Replay(folder / "tools"))
