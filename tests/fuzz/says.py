"""A runner of tools that all print the same text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from probes.tools import RunOptions, ToolResult


@dataclass(frozen=True)
class Says:
    """A ToolRunner: each tool prints `text` and ends with `exit_code`."""

    text: str
    exit_code: int = 0

    def find(self, name: str) -> str | None:
        return f"/usr/bin/{name}"

    async def run(self, *argv: str, **how: Unpack[RunOptions]) -> ToolResult:
        if on_line := how.get("on_line"):
            for line in self.text.splitlines():
                on_line(line)
        return ToolResult(argv, self.text, "", self.exit_code, None, 0.0)

    def recording(self, folder: Path) -> Says:
        return self

    async def take_unkillable(self, wait_s: float = 0.0) -> list[str]:
        return []
