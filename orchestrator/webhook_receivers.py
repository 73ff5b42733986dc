"""Who gets webhooks: URLs, checked, and what may be said of them.

A URL's path or query is often what lets one in there: logs and lists name a receiver without them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

LONGEST_URL = 2000
MOST_RECEIVERS = 16
FIRST_PAUSE_S = 5.0


class BadReceiver(Exception):
    """A URL that nothing can be sent to; the text says why."""


@dataclass(frozen=True, slots=True)
class WebhookOptions:
    """`receivers`: checked URLs. `secret`: the file; None: DATA/webhook-secret, made when it is not there.

    `first_pause_s`: before the first retry; each later one is three times as long.
    """

    receivers: tuple[str, ...] = ()
    secret: Path | None = None
    first_pause_s: float = FIRST_PAUSE_S


def checked(url: str, what: str = "a webhook") -> str:
    """The URL of a receiver. Raises BadReceiver, without the URL's secrets in its text."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        raise BadReceiver(f"{what}: the URL cannot be read") from None
    if not sound or not url.isascii() or not url.isprintable() or len(url) > LONGEST_URL:
        raise BadReceiver(f"{what}: the URL must be http://… or https://…, at most {LONGEST_URL} characters")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise BadReceiver(f"{what}: the URL of {place_of(url)} must have neither user, password nor fragment")
    return url


def place_of(url: str) -> str:
    """Where a receiver is, fit for logs: its path and query may be what lets one in there."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def name_of(url: str) -> str:
    """A receiver's name for people: where it is, and eight digits that tell it from others there."""
    return f"{place_of(url)}#{hashlib.sha256(url.encode()).hexdigest()[:8]}"
