"""How the pages say things: states, orders, colours, sizes, times. Pure; each is a filter of the templates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from markupsafe import Markup

from orchestrator.clock import seconds_between
from vetting_agent.printable import clock, figure, printable_json

GROUPS = {
    "alert": "Alerts",
    "holding": "Held",
    "running": "Running",
    "waiting": "Waiting",
    "completed": "Completed",
    "ended": "Ended",
}
TONES = {"alert": "fail", "holding": "fail", "running": "running", "waiting": "", "completed": "pass", "ended": ""}
STATES = {"FailedHolding": "Failed, held", "InventoryCheck": "Inventory", "SpecValidate": "Spec check"}
ORDERS = {
    "retry_stage": "Retry",
    "identify": "Identify",
    "cancel_stage": "Cancel",
    "shutdown": "Shutdown",
    "abort": "Abort",
    "open_terminal": "Terminal",
}
VERDICTS = {"pass": "pass", "fail": "fail", "unknown": "unknown", "cancelled": "unknown", "not_applicable": ""}


def json_text(value: Any) -> Markup:
    """JSON that may stand in a script element or an attribute."""
    text = printable_json(msgspec.json.encode(value).decode())
    for character in "<>&'":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704  # every character with a meaning in HTML but the quotes of JSON is gone


def size_text(size: float | None) -> str:
    """Bytes for a person."""
    if size is None:
        return ""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{figure(round(size, 1))} {unit}"
        size /= 1000
    return f"{figure(size)} TB"


def disk_size(gb: float | None) -> str:
    """10^9 bytes for a person."""
    return size_text(gb * 1e9) if isinstance(gb, int | float) else "size unknown"


def moment(text: str | None) -> str:
    """2026-11-21 09:30:00."""
    return (text or "")[:19].replace("T", " ")


def took(start: str | None, end: str | None) -> str:
    """From one time to another: 0:07."""
    return clock(seconds_between(start, end)) if start and end else ""


def spaced(name: str) -> str:
    """A field's or a code's name as words."""
    return re.sub(r"[_.]+", " ", name)


FILTERS: Mapping[str, Any] = {
    "group": lambda one: GROUPS.get(one, one),
    "tone": lambda one: TONES.get(one, ""),
    "state": lambda one: STATES.get(one, one),
    "order": lambda one: ORDERS.get(one, one),
    "verdict_tone": lambda one: VERDICTS.get(one or "", ""),
    "json": json_text,
    "bytes": size_text,
    "disk_size": disk_size,
    "moment": moment,
    "took": took,
    "spaced": spaced,
    "clock": clock,
    "figure": figure,
}
