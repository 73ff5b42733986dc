"""Breaks recorded text: a recording and a few steps give a mutant, always the same one.

A step is (kind, place, choice): `place` and `choice` are any whole numbers, taken modulo what there is. Hypothesis
draws steps, so that what it reports is the fewest of them that still break the parser.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LONG_LINE_BYTES = 2**20
DEEP = 5000
EXTREMES = (
    b"0",
    b"-1",
    b"-9223372036854775808",
    b"99999999999999999999",
    b"1" * 4999,
    b"1e999",
    b"NaN",
    b"-Infinity",
    b"1.2.3",
    b"0.5",
    b"..",
    b"0x10",
    b'"5"',
    b"null",
    "١٢".encode(),
    b"",
)
"""What a number is replaced by."""
STRANGE_BYTES = (
    b"\x00",
    b"\x1b[31m",
    b"\r",
    b"\n",
    b"\t",
    b"\xff\xfe",
    b"\xc3\x28",
    b"\xed\xa0\x80",
    b"\x85",
    b"\xe2\x80\xa8",
    b"|",
    b":",
    b'"',
    b"{",
    b"\\",
)
STRANGE_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, -(2**63), 10**20, 10**400, 1e300, 0.5, float("nan"), float("inf"), "", "0", "x", "\ud800",
    "\x00", [], {}, [[]], [None], {"value": None}, "9" * 5000, "١",
)  # fmt: skip
"""What a JSON value is replaced by."""

Step = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Recording:
    """What a tool, a peer or the kernel really said. `sick`: of hardware that must not pass."""

    name: str
    data: bytes
    exit_code: int = 0
    sick: bool = False
    extra: Mapping[str, Any] | None = None
    """What the parser's entry needs besides, for instance the size of the run that was asked for."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A broken recording. `only_lost`: nothing was made up, things are missing or unreadable."""

    recording: Recording
    data: bytes
    only_lost: bool
    steps: tuple[Step, ...] = ()

    @property
    def text(self) -> str:
        """As `probes.tools` decodes what a tool prints."""
        return self.data.decode(errors="replace")


# --- on bytes --------------------------------------------------------------------------------------------------------


def _lines(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


def _cut(data: bytes, place: int, choice: int) -> bytes:
    return data[: place % (len(data) + 1)]


def _cut_after_line(data: bytes, place: int, choice: int) -> bytes:
    lines = _lines(data)
    return b"".join(lines[: place % (len(lines) + 1)])


def _cut_front(data: bytes, place: int, choice: int) -> bytes:
    return data[place % (len(data) + 1) :]


def _cut_middle(data: bytes, place: int, choice: int) -> bytes:
    start = place % (len(data) + 1)
    return data[:start] + data[start + 1 + choice % 200 :]


def _drop_line(data: bytes, place: int, choice: int) -> bytes:
    lines = _lines(data)
    start = place % max(1, len(lines))
    return b"".join(lines[:start] + lines[start + 1 + choice % 3 :])


def _blank_line(data: bytes, place: int, choice: int) -> bytes:
    lines = _lines(data)
    if lines:
        lines[place % len(lines)] = b"\n"
    return b"".join(lines)


def _flip(data: bytes, place: int, choice: int) -> bytes:
    if not data:
        return data
    at = place % len(data)
    return data[:at] + bytes([data[at] ^ (1 << choice % 8)]) + data[at + 1 :]


def _strange(data: bytes, place: int, choice: int) -> bytes:
    at = place % (len(data) + 1)
    return data[:at] + STRANGE_BYTES[choice % len(STRANGE_BYTES)] + data[at:]


def _repeat_line(data: bytes, place: int, choice: int) -> bytes:
    lines = _lines(data)
    if lines:
        at = place % len(lines)
        lines.insert(choice % (len(lines) + 1), lines[at])
    return b"".join(lines)


def _swap_lines(data: bytes, place: int, choice: int) -> bytes:
    lines = _lines(data)
    if lines:
        one, other = place % len(lines), choice % len(lines)
        lines[one], lines[other] = lines[other], lines[one]
    return b"".join(lines)


_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")


def _number(data: bytes, place: int, choice: int) -> bytes:
    found = list(_NUMBER.finditer(data))
    if not found:
        return data
    match = found[place % len(found)]
    return data[: match.start()] + EXTREMES[choice % len(EXTREMES)] + data[match.end() :]


def _long_line(data: bytes, place: int, choice: int) -> bytes:
    """One line, or a part of it, said over and over without a line end: a megabyte of it."""
    lines = _lines(data) or [b"x"]
    at = place % len(lines)
    line = lines[at].rstrip(b"\r\n") or b" "
    piece = line[choice % len(line) :][: 1 + choice % 64]
    lines[at] = line + piece * (LONG_LINE_BYTES // len(piece)) + b"\n"
    return b"".join(lines)


LOSING: Mapping[str, Callable[[bytes, int, int], bytes]] = {
    "cut": _cut,
    "cut_after_line": _cut_after_line,
    "cut_front": _cut_front,
    "drop_line": _drop_line,
    "blank_line": _blank_line,
}
GARBLING: Mapping[str, Callable[[bytes, int, int], bytes]] = {
    "cut_middle": _cut_middle,  # it welds two pieces together: what stands there then was said by nobody
    "flip": _flip,
    "strange": _strange,
    "repeat_line": _repeat_line,
    "swap_lines": _swap_lines,
    "number": _number,
}
COSTLY: Mapping[str, Callable[[bytes, int, int], bytes]] = {"long_line": _long_line}


# --- on JSON ---------------------------------------------------------------------------------------------------------

Place = tuple[Any, Any]
"""A container and the key or index in it."""


def _places(value: Any) -> list[Place]:
    """Every place of a document, in its order."""
    found: list[Place] = []
    queue = [value]
    while queue:
        container = queue.pop()
        keys: Sequence[Any] = list(container) if isinstance(container, dict) else range(len(container))
        for key in keys:
            found.append((container, key))
            if isinstance(container[key], dict | list):
                queue.append(container[key])
    return found


def _json_drop(container: Any, key: Any, choice: int) -> None:
    del container[key]


def _json_null(container: Any, key: Any, choice: int) -> None:
    container[key] = None


def _json_empty(container: Any, key: Any, choice: int) -> None:
    container[key] = {dict: {}, list: [], str: ""}.get(type(container[key]))


def _json_strange(container: Any, key: Any, choice: int) -> None:
    container[key] = STRANGE_VALUES[choice % len(STRANGE_VALUES)]


def _json_rename(container: Any, key: Any, choice: int) -> None:
    if isinstance(container, dict):
        container[f"{key}_{choice % 10}"] = container.pop(key)
    else:
        container.insert(choice % (len(container) + 1), container[key])


def _json_wrap(container: Any, key: Any, choice: int) -> None:
    container[key] = [container[key]] if choice % 2 else {str(choice % 100): container[key]}


JSON_LOSING: Mapping[str, Callable[[Any, Any, int], None]] = {
    "json_drop": _json_drop,
    "json_null": _json_null,
    "json_empty": _json_empty,
}
JSON_GARBLING: Mapping[str, Callable[[Any, Any, int], None]] = {
    "json_strange": _json_strange,
    "json_rename": _json_rename,
    "json_wrap": _json_wrap,
}
DEEP_PLACE = "\x00deep\x00"


def _on_json(data: bytes, step: Step) -> bytes:
    """Change one place of the JSON in `data`; text before its first brace is kept. No JSON: nothing changes."""
    kind, place, choice = step
    start = min((at for at in (data.find(b"{"), data.find(b"[")) if at >= 0), default=len(data))
    try:
        document = json.loads(data[start:].decode(errors="replace"))
    except (ValueError, RecursionError):
        return data
    places = _places(document) if isinstance(document, dict | list) else []
    if not places:
        return data
    container, key = places[place % len(places)]
    if kind == "json_deep":
        container[key] = DEEP_PLACE
        nest = b"[" * DEEP + b"]" * DEEP if choice % 2 else b'{"a":' * DEEP + b"1" + b"}" * DEEP
        return data[:start] + json.dumps(document).encode().replace(json.dumps(DEEP_PLACE).encode(), nest)
    change = JSON_LOSING.get(kind) or JSON_GARBLING[kind]
    change(container, key, choice)
    return data[:start] + json.dumps(document).encode()


# --- together --------------------------------------------------------------------------------------------------------

TEXT_KINDS = (*LOSING, *GARBLING)
JSON_KINDS = (*JSON_LOSING, *JSON_GARBLING)
ONLY_LOSE = frozenset({*LOSING, *JSON_LOSING})


def mutate(recording: Recording, steps: Sequence[Step], others: Sequence[Recording]) -> Mutant:
    """The recording after these steps. `others` are what a step `mix` may tear a piece out of."""
    data = recording.data
    for step in steps:
        data = _changed(data, step, others)
    return Mutant(recording, data, all(kind in ONLY_LOSE for kind, _, _ in steps), tuple(steps))


def _changed(data: bytes, step: Step, others: Sequence[Recording]) -> bytes:
    kind, place, choice = step
    if kind.startswith("json_"):
        return _on_json(data, step)
    if kind == "mix":
        lines, stranger = _lines(data), _lines(others[choice % len(others)].data)
        at = place % (len(lines) + 1)
        return b"".join(lines[:at] + stranger[place % (len(stranger) + 1) :] + lines[at:])
    change = LOSING.get(kind) or GARBLING.get(kind) or COSTLY[kind]
    return change(data, place, choice)
