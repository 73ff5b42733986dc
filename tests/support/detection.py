"""Says of a test which fault it proves to be found, or which sound thing it proves to be left alone.

    @detects(ReasonCode.DISK_LOST, "a loop device detached in mid-read")
    @spares(ReasonCode.DISK_LOST, "eight healthy loop devices")

`make detection` runs the tests so marked and writes `docs/detection.md` from those that passed;
`tests/test_detection.py` finds codes that no test speaks for, and a page that is out of date.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stages.outcome import ReasonCode

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "detection.md"


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

| reason code | broken: found | sound: left alone | shown by |
|---|---|---|---|
"""


def page(claims: Iterable[Claim]) -> str:
    """docs/detection.md."""
    held = sorted(set(claims))
    return HEAD + "".join(_row(code, [claim for claim in held if claim.code is code]) for code in ReasonCode)


def _row(code: ReasonCode, claims: list[Claim]) -> str:
    cells = [_subjects(claims, kind) for kind in ("detects", "spares")]
    tests = sorted({claim.test for claim in claims})
    shown = "<br>".join(re.sub(r"^tests/(.*)::(.*)$", r"\1 `\2`", test) for test in tests)
    return f"| `{code.value}` | {cells[0]} | {cells[1]} | {shown or '-'} |\n"


def _subjects(claims: Iterable[Claim], kind: str) -> str:
    return "<br>".join(dict.fromkeys(claim.subject.replace("|", "/") for claim in claims if claim.kind == kind)) or "-"
