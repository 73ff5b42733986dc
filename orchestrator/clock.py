"""Times as the wire and the store write them: RFC 3339 UTC with milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def now_text() -> str:
    """The time now: 2026-11-21T09:30:00.250Z."""
    return text_of(datetime.now(UTC))


def text_of(moment: datetime) -> str:
    """A moment in the wire's form. All texts have one length, so that they sort by time."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment_of(text: str) -> datetime:
    """The moment that a text of this module names."""
    return datetime.fromisoformat(text)


def later(text: str, seconds: float) -> str:
    """`seconds` after `text`."""
    return text_of(moment_of(text) + timedelta(seconds=seconds))


def seconds_between(earlier: str, until: str) -> float:
    """From `earlier` to `until`; negative when the clock was set back."""
    return (moment_of(until) - moment_of(earlier)).total_seconds()
