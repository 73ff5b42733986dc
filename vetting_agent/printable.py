"""Text from hardware made safe to show: a disk may call itself anything, escape sequences included."""

from __future__ import annotations

import json
import unicodedata

# Controls, formats (bidirectional overrides reorder a whole line), surrogates, private use, line separators.
UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def printable(text: str) -> str:
    """`text` on one line, with each character that could steer a terminal or a page shown as an escape."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def printable_json(line: str) -> str:
    """A line of JSON that says the same, with each character that could steer a terminal escaped as JSON escapes."""
    return line if line.isprintable() else "".join(_in_json(one) for one in line)


def _in_json(character: str) -> str:
    return json.dumps(character)[1:-1] if unicodedata.category(character) in UNSAFE_CATEGORIES else character


def _shown(character: str) -> str:
    if character in "\t\n":
        return " "
    if unicodedata.category(character) not in UNSAFE_CATEGORIES:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def shortened(text: str, width: int) -> str:
    """`text` in at most `width` characters, with an ellipsis where it was cut."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def clock(seconds: float | None) -> str:
    """A duration for a person: "0:07", "12:45", "3:02:10"; a dash for None."""
    if seconds is None:
        return "–"
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, secs = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"


def figure(value: float) -> str:
    """A number for a person: no more digits than it deserves, thousands set apart by thin spaces."""
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    if size >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.3g}"
