"""Every reason code has its sentences, and the README shows them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from stages import reasons
from stages.outcome import ReasonCode

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("code", list(ReasonCode))
def test_every_code_is_explained_in_sentences(code: ReasonCode) -> None:
    reason = reasons.REASONS[code]
    for text in (reason.meaning, reason.cause, reason.action):
        assert re.fullmatch(r"[A-Z].{10,160}\.", text), text
        assert "|" not in text, "it would break the table"
    assert reason.owner
    assert code.value not in reason.meaning, "the code does not explain itself"


def test_no_text_is_left_over_or_given_twice() -> None:
    tables = (reasons._GENERAL, reasons.reasons_disk.TEXTS, reasons.reasons_host.TEXTS)
    given = [code for table in tables for code in table]
    assert len(given) == len(set(given))
    meanings = [reason.meaning for reason in reasons.REASONS.values()]
    assert len(meanings) == len(set(meanings))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("net_error", "net_errors"),
        ("NET-ERRORS", "net_errors"),
        ("smart health", "smart_health_failed"),
        ("throttled", "thermal_throttled"),
    ],
)
def test_nearest(typed: str, meant: str) -> None:
    assert meant in reasons.nearest(typed)


def test_nothing_is_near_to_nonsense() -> None:
    assert reasons.nearest("xxxxxxxxqqq") == []
    assert reasons.nearest("") == []


def test_the_readme_is_in_sync() -> None:
    text = (ROOT / "README.md").read_text()
    assert reasons.BEGIN in text, "the README has no table of reason codes"
    table = text.split(reasons.BEGIN)[1].split(reasons.END)[0]
    assert table.strip() == reasons.markdown().strip(), "run: python -m stages.reasons --markdown"


def test_the_table_is_printed_by_the_module() -> None:
    command = [sys.executable, "-m", "stages.reasons", "--markdown"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed == reasons.markdown()
    assert len(printed.splitlines()) == len(ReasonCode) + 2
