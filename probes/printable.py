"""Text from outside (a BMC, a switch) made fit for a person's eyes: one line, no control characters, bounded."""

from __future__ import annotations


def printable(text: object, limit: int = 80) -> str:
    """`text` without line breaks, escapes and invisible characters, at most `limit` long."""
    cleaned = "".join(sign if sign.isprintable() else " " for sign in str(text)[: limit * 4])
    return " ".join(cleaned.split())[:limit]
