"""Recorded output of tools: tests/fixtures/tools/TOOL/CASE.out, .err and .exit; .origin says where it came from."""

from __future__ import annotations

from pathlib import Path

from probes.tools import ToolResult

FOLDER = Path(__file__).parents[1] / "fixtures" / "tools"


def text(tool: str, name: str) -> str:
    """A recorded file as it is, for instance ("ipmitool", "sim-sound-sdr.out")."""
    return (FOLDER / tool / name).read_text()


def result(tool: str, case: str, *, duration_s: float = 3.0) -> ToolResult:
    """A recording as the result of a run that took `duration_s`."""
    folder = FOLDER / tool
    err = folder / f"{case}.err"
    return ToolResult(
        argv=(tool,),
        stdout=(folder / f"{case}.out").read_text(),
        stderr=err.read_text() if err.exists() else "",
        exit_code=int((folder / f"{case}.exit").read_text()),
        signal=None,
        duration_s=duration_s,
    )
