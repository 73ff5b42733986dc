"""Words as hostile hardware and hosts choose them, and what must not be left of them where a person reads."""

from __future__ import annotations

import re
import unicodedata

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>"
HOSTILE = f"EVIL\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\u2066\u200b\r\nRun 1: forged: Completed {MARKUP}'\"&\x7f"
"""Clears the screen, sets a window's title, turns the line round, begins a line of its own, and is markup."""
STEERING = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
LIVE = re.compile(r"<\s*(script|img)[^>]*(alert|onerror)|<script>", re.IGNORECASE)


def steering(text: str) -> set[str]:
    """The characters of `text` that could steer a terminal; line breaks and tabs between words are none."""
    return {one for one in text if one not in "\n\t" and unicodedata.category(one) in STEERING}


def assert_tame_text(text: str, where: str) -> None:
    assert steering(text) == set(), f"{where} would steer a terminal: {steering(text)!r}"
    assert "\nRun 1: forged" not in text, f"{where} lets a host begin a line of its own"


def assert_tame_page(markup: str, where: str) -> None:
    assert steering(markup) == set(), f"{where} holds raw control characters: {steering(markup)!r}"
    assert not LIVE.search(markup.replace('<script src="', "")), f"{where} takes a host's words for markup"
