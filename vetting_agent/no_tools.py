"""A machine that has no tools at all: a recorded one, of which only the files are there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Self

from probes.tools import ToolMissing, ToolResult


class NoTools:
    """A ToolRunner for a folder of recorded files: the tools of this machine would answer for this machine."""

    def find(self, name: str) -> str | None:
        return None

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
        raise ToolMissing(argv[0], f"{argv[0]} cannot be run on a recorded machine")

    def recording(self, folder: Path) -> Self:
        return self

    def take_unkillable(self) -> list[str]:
        return []
