"""Hosts from a CSV file: read whole or refused whole, every error with its line and column.

The first line names the columns: `name` and any of `mac`, `profile`, `labels`, `note`. Comma, semicolon or tab
separate; UTF-8 with or without a byte order mark; several MAC addresses or labels in a cell stand apart by a space,
a `|`, or a comma in a quoted cell. A column that is not there, and no cell, changes what a known host has.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from orchestrator.host_record import HOST_NAME, LABEL, LONGEST_NOTE, MOST_LABELS, MOST_MACS, HostRecord, checked_mac
from orchestrator.run_record import Record
from orchestrator.steps import Refusal

COLUMNS = ("name", "mac", "profile", "labels", "note")
ALIASES: Mapping[str, str] = {"host": "name", "hostname": "name", "macs": "mac", "label": "labels", "notes": "note"}
MOST_ROWS, MOST_ERRORS, MOST_BYTES = 20_000, 100, 4 * 2**20
SEPARATORS = re.compile(r"[\s|,;]+")


class CsvError(Record, frozen=True, kw_only=True):
    """One thing wrong, with the line (from 1) and the column (from 1; 0: the whole line)."""

    line: int
    column: int
    message: str

    def __str__(self) -> str:
        column = f", column {self.column}" if self.column else ""
        return f"line {self.line}{column}: {self.message}"


class HostChange(Record, frozen=True, kw_only=True):
    """What the import does to one host: `created`, `changed` or `unchanged`, and what changes from what to what."""

    name: str
    act: str
    changes: tuple[str, ...] = ()


@dataclass(slots=True)
class HostFile:
    """The file read: the hosts that it names as they would be, with their lines, and everything that is wrong."""

    rows: list[tuple[int, dict[str, tuple[str, int]]]] = field(default_factory=list)
    """Line, and each column's text with its number."""
    errors: list[CsvError] = field(default_factory=list)

    def wrong(self, line: int, column: int, message: str) -> None:
        self.errors.append(CsvError(line=line, column=column, message=message))


def read_host_file(content: bytes) -> HostFile:
    """The rows of a file. Never raises: what is wrong stands in `errors`."""
    file = HostFile()
    if len(content) > MOST_BYTES:
        file.wrong(1, 0, f"The file has more than {MOST_BYTES} bytes")
        return file
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = content.count(b"\n", 0, problem.start) + 1
        file.wrong(line, 0, f"The byte 0x{content[problem.start]:02x} is not UTF-8: save the file as UTF-8")
        return file
    if "\0" in text:
        file.wrong(text.count("\n", 0, text.index("\0")) + 1, 0, "The file holds a NUL byte: it is no text")
        return file
    _read(text, file)
    return file


def _read(text: str, file: HostFile) -> None:
    first = text.lstrip("\r\n").partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    heading: dict[int, str] = {}
    start = 1
    try:
        for cells in reader:
            line, start = start, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if not heading:
                heading = _heading(cells, line, file)
                if file.errors:
                    return
            elif len(file.rows) >= MOST_ROWS:
                file.wrong(line, 0, f"The file has more than {MOST_ROWS} hosts")
                return
            else:
                _take(cells, line, heading, file)
    except csv.Error as problem:
        file.wrong(reader.line_num, 0, f"This is no CSV: {problem}")
    if not heading and not file.errors:
        file.wrong(1, 0, f"The file is empty: its first line names the columns, of {', '.join(COLUMNS)}")


def _heading(cells: list[str], line: int, file: HostFile) -> dict[int, str]:
    names: dict[int, str] = {}
    for column, cell in enumerate(cells, start=1):
        name = cell.strip().lower()
        name = ALIASES.get(name, name)
        if name not in COLUMNS:
            file.wrong(line, column, f"There is no column {cell.strip()[:40]!r}; there are: {', '.join(COLUMNS)}")
        elif name in names.values():
            file.wrong(line, column, f"The column {name} stands here twice")
        names[column] = name
    if "name" not in names.values() and not file.errors:
        file.wrong(line, 0, "There is no column name: the first line names the columns")
    return names


def _take(cells: list[str], line: int, heading: dict[int, str], file: HostFile) -> None:
    if len(cells) > len(heading):
        file.wrong(line, len(heading) + 1, f"The line has {len(cells)} cells, the first line {len(heading)}")
        return
    file.rows.append((line, {heading[number]: (cell.strip(), number) for number, cell in enumerate(cells, start=1)}))


@dataclass(frozen=True, slots=True)
class Known:
    """What the database knows: hosts by name, and the names of the profiles."""

    hosts: Mapping[str, HostRecord]
    profiles: frozenset[str]


def planned(file: HostFile, known: Known, now: str) -> tuple[list[HostRecord], list[HostChange]]:
    """The hosts as they would be, and what would change. Adds to `file.errors` what is wrong; then nothing counts."""
    hosts: list[HostRecord] = []
    lines: dict[str, int] = {}
    owners: dict[str, tuple[str, int]] = {}
    for line, cells in file.rows:
        host = _host(line, cells, known, file, now)
        if host is None:
            continue
        if host.name in lines:
            file.wrong(line, cells["name"][1], f"{host.name} stands on line {lines[host.name]} already")
            continue
        lines[host.name] = line
        for mac in host.macs:
            owner, on = owners.setdefault(mac, (host.name, line))
            if owner != host.name:
                file.wrong(line, _column(cells, "mac"), f"{mac} is that of {owner} on line {on}")
        hosts.append(host)
    _check_known_owners(hosts, lines, known, file)
    file.errors.sort(key=lambda one: (one.line, one.column))
    return hosts, [_change(known.hosts.get(host.name), host) for host in hosts]


def _check_known_owners(hosts: list[HostRecord], lines: Mapping[str, int], known: Known, file: HostFile) -> None:
    """An address of a host that the file does not take it from."""
    kept = {mac: host.name for name, host in known.hosts.items() if name not in lines for mac in host.macs}
    cells_of = dict(file.rows)
    for host in hosts:
        for mac in host.macs:
            if (owner := kept.get(mac)) is not None:
                line = lines[host.name]
                file.wrong(line, _column(cells_of[line], "mac"), f"{mac} belongs to the host {owner} already")


def _column(cells: Mapping[str, tuple[str, int]], name: str) -> int:
    return cells[name][1] if name in cells else 0


def _host(line: int, cells: Mapping[str, tuple[str, int]], known: Known, file: HostFile, now: str) -> HostRecord | None:
    before = len(file.errors)
    name, column = cells["name"]
    if not HOST_NAME.fullmatch(name):
        file.wrong(line, column, f"{name[:60]!r} is no host name: letters, digits, dots, dashes and underscores")
        return None
    host = known.hosts.get(name) or HostRecord(name=name, created_at=now)
    changed = dict(_fields(line, cells, known, file))
    return replace(host, **changed) if len(file.errors) == before else None


def _fields(
    line: int, cells: Mapping[str, tuple[str, int]], known: Known, file: HostFile
) -> Iterator[tuple[str, object]]:
    """What the row's filled cells say, by the name of the host's field."""
    for name, (text, column) in cells.items():
        if not text or name == "name":
            continue
        if name == "mac":
            yield "macs", tuple(_macs(line, column, text, file))
        elif name == "labels":
            yield "labels", tuple(_labels(line, column, text, file))
        elif name == "note":
            if len(text) > LONGEST_NOTE:
                file.wrong(line, column, f"A note has at most {LONGEST_NOTE} characters, not {len(text)}")
            yield "note", text
        elif text not in known.profiles:
            file.wrong(line, column, f"There is no hardware profile {text[:60]!r}")
        else:
            yield "profile", text


def _macs(line: int, column: int, text: str, file: HostFile) -> Iterator[str]:
    parts = dict.fromkeys(part for part in SEPARATORS.split(text) if part)
    if len(parts) > MOST_MACS:
        file.wrong(line, column, f"A host has at most {MOST_MACS} MAC addresses, not {len(parts)}")
        return
    for part in parts:
        try:
            yield checked_mac(part)
        except Refusal as problem:
            file.wrong(line, column, problem.message)


def _labels(line: int, column: int, text: str, file: HostFile) -> Iterator[str]:
    parts = dict.fromkeys(part for part in SEPARATORS.split(text) if part)
    if len(parts) > MOST_LABELS:
        file.wrong(line, column, f"A host has at most {MOST_LABELS} labels, not {len(parts)}")
    for part in parts:
        if LABEL.fullmatch(part):
            yield part
        else:
            file.wrong(line, column, f"{part[:60]!r} is no label: letters, digits and any of ._:/=-")


def _change(old: HostRecord | None, new: HostRecord) -> HostChange:
    before = old or HostRecord(name=new.name)
    pairs = [(name, getattr(before, name), getattr(new, name)) for name in ("macs", "profile", "labels", "note")]
    changes = tuple(f"{name}: {_said(was)} -> {_said(now)}" for name, was, now in pairs if was != now)
    act = "created" if old is None else "changed" if changes else "unchanged"
    return HostChange(name=new.name, act=act, changes=changes)


def _said(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return str(value) if value else "none"
