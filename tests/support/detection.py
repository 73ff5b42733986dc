"""Says of a test which fault it proves to be found, or which sound thing it proves to be left alone.

    @detects(ReasonCode.DISK_LOST, "a loop device detached in mid-read")
    @spares(ReasonCode.DISK_LOST, "eight healthy loop devices")

A subject says what it is: a recording, a stand-in for a tool, a real fault. `make detection` runs the tests so marked
and writes `docs/detection.md` from those that passed; `tests/test_detection.py` finds codes that no test speaks for,
and a page that is out of date.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from stages.outcome import ReasonCode

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "detection.md"


BAD_DRIVES: Mapping[int, tuple[ReasonCode, str]] = {
    1: (ReasonCode.SMART_SELF_TEST_FAILED, "failed self-test, exit bit 7"),
    2: (ReasonCode.SMART_HEALTH_FAILED, "DISK FAILING, exit bit 3"),
    3: (ReasonCode.SMART_HEALTH_FAILED, "DISK FAILING and failed self-test, exit bits 3 and 7"),
    4: (ReasonCode.NVME_CRITICAL_WARNING, "NVMe critical warning"),
    5: (ReasonCode.SMART_SELF_TEST_FAILED, "NVMe self-test failed, with status code type and code"),
    6: (ReasonCode.SMART_SELF_TEST_FAILED, "SCSI self-test failed"),
    7: (ReasonCode.DISK_LOST, "drive that vanishes in mid-stage"),
    8: (ReasonCode.SMART_PREFAIL, "prefail attribute below its threshold"),
}
"""The kinds of bad drives that must never pass. The subject of the mark begins with "bad drive NUMBER: "."""


def detects(code: ReasonCode, subject: str) -> pytest.MarkDecorator:
    """The test shows that `subject`, which is broken, is found with `code`."""
    return pytest.mark.detects(code, subject)


def spares(code: ReasonCode, subject: str) -> pytest.MarkDecorator:
    """The test shows that `subject`, which is sound, is not accused of `code`."""
    return pytest.mark.spares(code, subject)


@dataclass(frozen=True, slots=True, order=True)
class Claim:
    """One mark: `kind` is "detects" or "spares"; `test` is "tests/stages/test_x.py::test_y"."""

    code: ReasonCode
    kind: str
    subject: str
    test: str


def written_in(path: Path) -> Iterator[Claim]:
    """The marks in a test file, as they stand in its source."""
    tree = ast.parse(path.read_text())
    name = path.relative_to(ROOT)
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in (inner for decorator in function.decorator_list for inner in ast.walk(decorator)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"detects", "spares"}:
                code, subject = node.args
                assert isinstance(code, ast.Attribute), f"{name}:{node.lineno}: name the code as ReasonCode.NAME"
                assert isinstance(subject, ast.Constant), f"{name}:{node.lineno}: the subject must be a plain text"
                yield Claim(ReasonCode[code.attr], node.func.id, str(subject.value), f"{name}::{function.name}")


def all_written() -> list[Claim]:
    """The marks of the whole suite."""
    return sorted({claim for path in ROOT.glob("tests/**/test_*.py") for claim in written_in(path)})


def claims_of(item: pytest.Item) -> Iterator[Claim]:
    """The marks that one test (one set of parameters) carries."""
    test = item.nodeid.partition("[")[0]
    for kind in ("detects", "spares"):
        for mark in item.iter_markers(kind):
            code, subject = mark.args
            yield Claim(code, kind, subject, test)


HEAD = """# What is found, and what is left alone

Written by `make detection` from tests that passed; `make test` fails when it is out of date. Each reason code, a broken
subject that raises it, and a sound one beside it that does not. `vetting-agent explain CODE` says what a code means.

A *recording* is the output of real hardware or of a real tool, *edited* where it says so (tests/fixtures, each with
its origin). A *stand-in* is a program in the place of a tool, which plays a recording, lies, crashes or freezes. A
*recorded machine* is a folder with its /proc, /sys and tool outputs. *Readings* are what a stage brought back, made by
the test and put to its judge. *Real* is what happens on the machine that runs the tests: its processes, loop devices,
cables between network namespaces, its own CPUs and memory.
"""
DRIVES_HEAD = """
## Eight bad drives

| kind | reason code | shown on | shown by |
|---|---|---|---|
"""
CODES_HEAD = """
## All reason codes

| reason code | broken: found | sound: left alone | shown by |
|---|---|---|---|
"""


def page(claims: Iterable[Claim]) -> str:
    """docs/detection.md."""
    held = sorted(set(claims))
    drives = "".join(_drive(number, held) for number in BAD_DRIVES)
    rows = "".join(_row(code, [claim for claim in held if claim.code is code]) for code in ReasonCode)
    return HEAD + DRIVES_HEAD + drives + CODES_HEAD + rows


def drive_claims(number: int, claims: Iterable[Claim]) -> list[Claim]:
    """Those that show one of the bad drives to be found with its code."""
    code, _ = BAD_DRIVES[number]
    start = f"bad drive {number}: "
    return [one for one in claims if one.kind == "detects" and one.code is code and one.subject.startswith(start)]


def _drive(number: int, claims: list[Claim]) -> str:
    code, kind = BAD_DRIVES[number]
    shown = drive_claims(number, claims)
    subjects = "<br>".join(dict.fromkeys(one.subject.partition(": ")[2] for one in shown)) or "-"
    return f"| {number}: {kind} | `{code.value}` | {subjects} | {_tests(shown)} |\n"


def _row(code: ReasonCode, claims: list[Claim]) -> str:
    return f"| `{code.value}` | {_subjects(claims, 'detects')} | {_subjects(claims, 'spares')} | {_tests(claims)} |\n"


def _tests(claims: list[Claim]) -> str:
    tests = sorted({claim.test for claim in claims})
    return "<br>".join(re.sub(r"^tests/(.*)::(.*)$", r"\1 `\2`", test) for test in tests) or "-"


def _subjects(claims: Iterable[Claim], kind: str) -> str:
    return "<br>".join(dict.fromkeys(claim.subject.replace("|", "/") for claim in claims if claim.kind == kind)) or "-"
