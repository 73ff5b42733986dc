"""A disk that lies: `lying_disk.c`, compiled and preloaded into every tool that is run through `LyingTools`."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probes.tools import ToolResult, Tools
from tests.support.loop_disks import LoopDisk

SOURCE = Path(__file__).with_suffix(".c")


@functools.cache
def library() -> Path:
    """The compiled library, once a test process. A missing compiler is an error, not a reason to skip."""
    made = Path(tempfile.mkdtemp(prefix="lying-disk-")) / "lying_disk.so"
    subprocess.run(["cc", "-Wall", "-Werror", "-shared", "-fPIC", "-O1", "-o", made, SOURCE, "-ldl"], check=True)
    return made


@dataclass(frozen=True)
class LyingTools:
    """Tools to which one disk lies. Everything else is real."""

    real: Tools
    environment: Mapping[str, str]

    @classmethod
    def about(cls, real: Tools, disk: LoopDisk, fault: str, at: int, *, to: int = 0, nth: int = 0) -> LyingTools:
        """`fault`, `at` and `to` as in `lying_disk.c`."""
        state = disk.backing.with_suffix(".lies")
        words = {"DISK": disk.number, "FAULT": fault, "AT": at, "TO": to, "NTH": nth, "STATE": state}
        lies = {f"LIE_{name}": str(word) for name, word in words.items()}
        return cls(real, {"LD_PRELOAD": str(library()), **lies})

    def find(self, name: str) -> str | None:
        return self.real.find(name)

    def recording(self, folder: Path) -> LyingTools:
        return LyingTools(self.real.recording(folder), self.environment)

    async def take_unkillable(self, wait_s: float = 0.0) -> list[str]:
        return await self.real.take_unkillable(wait_s)

    def start(self, *argv: str, **how: Any) -> Any:
        return self.real.start(*argv, **(how | {"environment": self.environment}))

    async def run(self, *argv: str, **how: Any) -> ToolResult:
        return await self.real.run(*argv, **(how | {"environment": self.environment}))
