"""What firmware and kernel kept of an earlier boot that ended badly: pstore records, and the ACPI Boot Error Record.

    sys/fs/pstore/*                       the kernel's last words, kept by firmware (ERST, EFI variables) or in memory
    var/lib/systemd/pstore/**             the same, where systemd-pstore.service has moved them
    sys/firmware/acpi/tables/data/BERT    errors that the firmware saw before this boot (ACPI 6.5, 18.3.1)

They may be older than the run: nothing is judged by them, they are evidence.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from probes.host import Host

FILES_MOST = 64
FILE_BYTES_MOST = 1 << 20
BERT_STATUS_BYTES = 20
SEVERITIES = ("recoverable", "fatal", "corrected", "none")
"""Of a Generic Error Status Block (ACPI 6.5, table 18.11)."""
TELLING = (b"Kernel panic", b"Oops", b"BUG:", b"Machine check", b"mce: [Hardware Error]")


@dataclass(frozen=True, slots=True)
class CrashRecord:
    """One record. `name` is a relative path without "..", `summary` one line for a log."""

    name: str
    content: bytes
    summary: str


def read(host: Host) -> tuple[CrashRecord, ...]:
    """All there are, up to 64 and 1 MiB each. What cannot be read is a record that says so. Never raises OSError."""
    found = [_record(f"pstore/{path.name}", path) for path in _files(host.sys("fs", "pstore"))]
    moved = host.root.joinpath("var", "lib", "systemd", "pstore")
    found += [_record(f"pstore/{path.relative_to(moved)}", path) for path in _files(moved)]
    bert = _bert(host)
    return tuple([*([bert] if bert is not None else []), *found][:FILES_MOST])


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    except OSError:
        return []


def _record(name: str, path: Path) -> CrashRecord:
    try:
        content = _start_of(path)
    except OSError as problem:
        return CrashRecord(f"{name}.unreadable", str(problem).encode(), f"{name} cannot be read: {problem.strerror}")
    return CrashRecord(name, content, f"{name}: {_telling_line(content)}")


def _start_of(path: Path) -> bytes:
    with path.open("rb") as handle:
        return handle.read(FILE_BYTES_MOST)


def _telling_line(content: bytes) -> str:
    lines = content.split(b"\n")
    told = next((line for word in TELLING for line in lines if word in line), None)
    return f"{len(content)} bytes" if told is None else told.decode("utf-8", "replace").strip()


def _bert(host: Host) -> CrashRecord | None:
    """The region that the BERT table points to, if the firmware has written an error into it."""
    name = "acpi/BERT"
    try:
        content = _start_of(host.sys("firmware", "acpi", "tables", "data", "BERT"))
    except FileNotFoundError:
        return None
    except OSError as problem:
        return CrashRecord(f"{name}.unreadable", str(problem).encode(), f"{name} cannot be read: {problem.strerror}")
    if len(content) < BERT_STATUS_BYTES:
        return CrashRecord(name, content, f"{name}: cut short, {len(content)} bytes")
    status, _, _, _, severity = struct.unpack_from("<5I", content)
    if status == 0:
        return None
    told = SEVERITIES[severity] if severity < len(SEVERITIES) else f"severity {severity}"
    return CrashRecord(name, content, f"{name}: the firmware recorded a {told} hardware error before this boot")
