"""A slice of the chaos matrix, and that a row which expects the wrong thing is not right."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.chaos import table
from tests.chaos.play import Result, play
from tests.chaos.row import Row, Words
from tests.chaos.rows import ROWS
from tests.chaos.scene import Scene

PATIENCE = 4.0
"""Other tests run beside these."""
QUICK = [row for row in ROWS if row.is_quick]


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.parametrize("row", QUICK, ids=lambda row: row.name)
def test_a_row_is_right(row: Row, tmp_path: Path) -> None:
    result = play(row, tmp_path / "row", PATIENCE)
    assert not result.trouble, f"{result.trouble}; logs: {tmp_path}"
    assert result.state == row.end
    assert result.clear_s is not None
    assert result.recovery_s is not None


def sound(scene: Scene) -> None:
    """Nothing is broken at all."""
    scene.serve()
    scene.create(("Inventory", "PSU"))
    scene.broken()
    scene.agent()
    scene.seen()
    scene.repaired()
    scene.recovered()


PLAIN = dataclasses.replace(ROWS[0], name="plain", words=Words("agent", "claimed the run"), tell=sound)
WRONG = {
    "the signal": (dataclasses.replace(PLAIN, words=Words("agent", "fingerprint mismatch"), clear_s=8.0), "no clear"),
    "how often a stage runs": (dataclasses.replace(PLAIN, stage_runs=2), "1 results, not 2"),
}


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.parametrize("what", WRONG)
def test_a_row_that_expects_something_else_is_not_right(what: str, tmp_path: Path) -> None:
    row, trouble = WRONG[what]
    assert trouble in play(row, tmp_path / "row").trouble


def test_names_are_unique_and_each_row_says_what_it_is() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS) >= 45
    for row in ROWS:
        assert row.injection
        assert row.signal
        assert row.words.source in {"agent", "history", "server", "finding", "operator"}


def test_the_page_tells_what_is_not_right_and_what_was_not_played() -> None:
    good = Result("a", "", "Completed", "2026-11-21T18:00:00Z warn  it broke", 1.0, 2.0, 3.0, "log of the run, i")
    bad = dataclasses.replace(good, trouble="no clear message", found="")
    page = table.document([(ROWS[0], good), (ROWS[1], bad), (ROWS[2], None)])
    assert "1 of 3 rows are right" in page
    assert "agent: it broke | 1.0 | 2.0 | Completed | log of the run | right |" in page
    assert "**not right**" in page
    assert "not played" in page
