"""A runner of tools that all print the same text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from probes.tools import ToolResult


@dataclass(frozen=True)
class Says:
    """A ToolRunner: each tool prints `text` and ends with `exit_code`."""

    text: str
    exit_code: int = 0

    def find(self, name: str) -> str | None:
        return f"/usr/bin/{name}"

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
        for line in self.text.splitlines() if on_line else ():
            assert on_line is not None
            on_line(line)
        return ToolResult(argv, self.text, "", self.exit_code, None, 0.0)

    def recording(self, folder: Path) -> Says:
        return self

    def take_unkillable(self) -> list[str]:
        return []
