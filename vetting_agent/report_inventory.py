"""The inventory on the report's page. Pure; it takes any object, so that a newer agent's inventory shows too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vetting_agent.report_markup import FOLDED_ROWS, section, table, text

COLUMNS = 7
"""A list of objects with more fields than this is shown as one block for each object, not as a table."""
NAMES = ("name", "slot", "index", "serial", "address")


def inventory_section(inventory: Mapping[str, Any] | None) -> str:
    """The section; nothing when there is no inventory."""
    if not inventory:
        return ""
    return section("Inventory", "".join(_subject(name, value) for name, value in inventory.items()))


def _subject(name: str, value: Any) -> str:
    heading = f"<h3>{text(name)}</h3>"
    if isinstance(value, Mapping):
        nested = {key: one for key, one in value.items() if _is_objects(one)}
        plain = {key: one for key, one in value.items() if key not in nested}
        return heading + _facts(plain) + "".join(_subject(f"{name}: {key}", one) for key, one in nested.items())
    if _is_objects(value):
        return heading + _objects(name, value)
    return f"{heading}<p>{_plain(value)}</p>"


def _is_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) for one in value)


def _objects(name: str, objects: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for one in objects for key, value in one.items() if not _is_empty(value)))
    if len(columns) <= COLUMNS:
        rows = [tuple(_plain(one.get(key)) for key in columns) for one in objects]
        return table([text(column) for column in columns], rows, fold=text(name))
    blocks = "".join(f"<h4>{_plain(_name_of(one))}</h4>{_facts(one)}" for one in objects)
    if len(objects) > FOLDED_ROWS:
        return f"<details><summary>{text(name)}: {len(objects)}</summary>{blocks}</details>"
    return blocks


def _name_of(one: Mapping[str, Any]) -> Any:
    return next((one[key] for key in NAMES if not _is_empty(one.get(key))), "?")


def _facts(facts: Mapping[str, Any]) -> str:
    """What is known as pairs that flow over the page; what is not, in one line below."""
    known = {key: value for key, value in facts.items() if not _is_empty(value)}
    unread = [key for key, value in facts.items() if value is None]
    pairs = "".join(f"<div><dt>{text(key)}</dt><dd>{_plain(value)}</dd></div>" for key, value in known.items())
    listed = f'<dl class="facts">{pairs}</dl>' if pairs else ""
    return listed + (f'<p class="unit">not read: {text(", ".join(map(str, unread)))}</p>' if unread else "")


def _is_empty(value: Any) -> bool:
    return value is None or value in ("", [], {})


def _plain(value: Any) -> str:
    if value is None:
        return '<span class="unit">not read</span>'
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{text(key)}: {_plain(one)}" for key, one in value.items())
    if isinstance(value, list):
        return "<br>".join(_plain(one) for one in value) or "none"
    return text(value)
