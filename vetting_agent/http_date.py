"""The dates of HTTP headers."""

from __future__ import annotations

import email.utils
from datetime import UTC, datetime


def http_date(value: str) -> datetime | None:
    """None for what is no date."""
    try:
        date = email.utils.parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
