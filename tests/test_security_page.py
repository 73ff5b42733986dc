"""docs/security.md: each promise names tests, and each test that it names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/security.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
ATTACKERS = ("boot network", "stolen token", "hostile host", "hostile browser", "contents of disks", "hostile BMC")


def promises() -> list[tuple[str, list[tuple[str, str]]]]:
    """Each row of the tables of promises, with the tests that it names."""
    rows, among = [], False
    for line in PAGE.read_text().splitlines():
        if line.startswith("| promise "):
            among = True
        elif not line.startswith("|"):
            among = False
        elif among and not line.startswith("|---"):
            promise, _, tests = line.strip("| ").rpartition(" | ")
            rows.append((promise, NAMED.findall(tests)))
    return rows


def functions_of(path: Path) -> set[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, kinds)}


def test_every_promise_names_a_test() -> None:
    rows = promises()
    assert len(rows) > 30
    assert [promise for promise, tests in rows if not tests] == []


def test_every_test_that_is_named_is_there() -> None:
    named = set(NAMED.findall(PAGE.read_text()))
    lacking = [f"{file}::{name}" for file, name in named if name not in functions_of(ROOT / file)]
    assert sorted(lacking) == []


def test_every_attacker_has_his_part() -> None:
    headings = [line for line in PAGE.read_text().splitlines() if line.startswith("## ")]
    for attacker in ATTACKERS:
        assert any(attacker in heading for heading in headings), attacker
