"""Clocks that part, and agree again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from vetting_agent.clock_watch import ClockWatch

THEIRS = "Sat, 21 Nov 2026 18:00:00 GMT"
NOON = datetime(2026, 11, 21, 18, tzinfo=UTC)


def told(*seconds: float, date: str = THEIRS) -> list[str]:
    """What is told of answers that come when this host's clock is wrong by that much."""
    clock, lines = iter(seconds), list[str]()
    watch = ClockWatch(lines.append, lambda: NOON + timedelta(seconds=next(clock)))
    for _ in seconds:
        watch.look(date)
    return lines


def test_clocks_that_agree_are_not_worth_a_word() -> None:
    assert told(0, 30, -30, 59) == []


def test_a_jump_is_told_once_and_its_end_too() -> None:
    assert told(0, 5 * 3600, 5 * 3600 + 20, 1, 2) == [
        "the clock of this host is 5.0 h ahead of the orchestrator's",
        "the clocks of this host and the orchestrator agree again",
    ]


def test_a_clock_behind_and_one_that_jumps_again() -> None:
    assert told(-90, -100, -7200) == [
        "the clock of this host is 2 min behind the orchestrator's",
        "the clock of this host is 2.0 h behind the orchestrator's",
    ]


def test_no_date_says_nothing() -> None:
    assert told(7200, 7200, date="") == []
    assert told(7200, date="yesterday") == []
