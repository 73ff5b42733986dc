"""docs/lab.md from the results."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from image.lab.play import Result
from image.lab.row import Expect, Row

HEAD = """# The lab: machines with real faults

Made by `make lab`. Each row is one virtual machine (QEMU) that boots the live image and speaks the real protocol with
a real orchestrator; its fault is put in from outside, or by a shell in the guest, at the moment that the row names.
A row is right only when the run ends as it must, the finding names the stage, the code and the part, and no
other error is found. ◇ marks faults that no virtual machine can have: there a program that lies stands in for the tool.

Rates, durations and coverage floors are lowered for emulated machines, except in rows about rates.
"""


EARLIER = "† was played with an earlier image, and has not been played again with this one."


def document(results: Sequence[tuple[Row, Result | None]], image: Path, image_sum: str) -> str:
    """The page. Rows that were never played or came out wrong are told so; those of another image are marked."""
    right = [result for _, result in results if result is not None and result.is_right]
    total = sum(result.wall_s for result in right)
    version = json.loads((image / "sbom.spdx.json").read_text())["packages"][0].get("versionInfo", "?")
    lines = [HEAD]
    lines.append(
        f"Image {version}: {len(right)} of {len(results)} rows are right; {total / 60:.0f} min of machines' time.\n"
    )
    if any(result.image != image_sum for result in right):
        lines.append(f"{EARLIER}\n")
    for group, rows in groupby(results, key=lambda pair: pair[0].group):
        lines += [f"## {group}\n", "| row | fault | expected and found | s | s of CPU |", "|---|---|---|---|---|"]
        lines += [*_rows(rows, image_sum), ""]
    return "\n".join(lines)


def _rows(rows: Iterator[tuple[Row, Result | None]], image_sum: str) -> Iterator[str]:
    for row, result in rows:
        mark = "◇ " if row.is_stand_in else ""
        earlier = "" if result is None or result.image == image_sum else " †"
        yield f"| {row.name}{earlier} | {mark}{row.fault} | {_expectation(row.expect)} | {_times(result)} |"


def _times(result: Result | None) -> str:
    if result is None:
        return "not played | "
    return f"{result.wall_s:.0f} | {result.cpu_s:.0f}" if result.is_right else "**not right** | "


def _expectation(expect: Expect) -> str:
    if expect.code is None:
        return expect.state
    where = expect.stage or "run"
    part = f", `{expect.component}`" if expect.component else ""
    kind = "" if expect.severity == "error" else f" ({expect.severity})"
    return f"{expect.state}; {where}: `{expect.code}`{kind}{part}"
