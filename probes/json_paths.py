"""Careful steps through a JSON document that a tool printed: what is not there, or of another kind, is None.

A tool's document is not ours to trust: a sick disk, another version or a broken pipe can put anything anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

BEYOND = 2**128
"""NVMe's counters have 128 bits; JSON's numbers have as many digits as somebody likes, and a float cannot hold them."""


def parsed(text: str) -> Any:
    """The document in a text. Raises ValueError for anything else, one that is nested without end included."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None


def dig(document: object, *names: str) -> Any:
    """The value at a path of names; None when any step of it is absent or no object."""
    for name in names:
        if not isinstance(document, Mapping):
            return None
        document = document.get(name)
    return document


def rows(document: object, *names: str) -> list[Any]:
    """The list at a path of names; empty when there is none."""
    value = dig(document, *names)
    return value if isinstance(value, list) else []


def number(*values: object) -> int | None:
    """The first whole number; True is none, and neither is one beyond all counters of all devices."""
    return next((value for value in values if type(value) is int and abs(value) < BEYOND), None)


def count(*values: object) -> int | None:
    """The first whole number that counts something: a negative one is garbage, and says nothing."""
    return next((value for value in map(number, values) if value is not None and value >= 0), None)


def flag(value: object) -> bool | None:
    """True or false, or None for anything else."""
    return value if isinstance(value, bool) else None
