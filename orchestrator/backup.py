"""A backup of a data folder, of a live server too: one tar with the database, the evidence, the keys, and their sums.

The database is copied first, in one read transaction (SQLite's backup API; in WAL mode no writer waits for it).
Evidence is written before the database knows of it and never changed after, so that all that the copy names is there.
What is not in it: the server's lock and socket, and recordings of terminals that are open right now.

The manifest is written last, and its own sum after it: a file that is cut off has none.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import sqlite3
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import msgspec

from orchestrator.clock import now_text
from vetting_agent import __version__

FORMAT = 1
DATABASE, MANIFEST, MANIFEST_SUM = "orchestrator.db", "manifest.json", "manifest.sha256"
TRANSIENT = re.compile(r"orchestrator\.db-(?:wal|shm|journal)|lock|server\.json|operator\.sock|.*\.new")
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
CHUNK_BYTES = 1024 * 1024


class BackupFailed(Exception):
    """There is nothing to back up, or no place for it; the text says what."""


class FileSum(msgspec.Struct, frozen=True, kw_only=True):
    sha256: str
    size: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a backup. `damaged`: evidence that was gone or altered when the backup was made."""

    format: int = FORMAT
    made_at: str
    made_by: str
    """The version of the program."""
    schema_version: int
    """Of the database."""
    runs: int
    files: dict[str, FileSum]
    damaged: list[str] = []


@dataclass(slots=True)
class _Hashing(io.RawIOBase):
    """A file that is hashed as it is read."""

    source: IO[bytes]
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def read(self, size: int = -1) -> bytes:
        chunk = self.source.read(size)
        self.digest.update(chunk)
        return chunk


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """The database's copy, and what it says must be beside it: member's name -> SHA-256."""

    path: Path
    schema_version: int
    runs: int
    evidence: dict[str, str]


def evidence_name(run_id: int, sha256: str) -> str:
    """Of a piece of evidence, in the data folder and in the tar."""
    return f"evidence/{run_id}/{sha256}.tar.gz"


def make_backup(data: Path, target: Path) -> Manifest:
    """Write the backup (mode 0600), whole or not at all. Raises BackupFailed, OSError and sqlite3.Error."""
    if not (data / DATABASE).is_file():
        raise BackupFailed(f"there is no {DATABASE} in {data}: is this the data folder?")
    if target.exists():
        raise BackupFailed(f"{target} exists already: a backup overwrites nothing")
    draft, copy = target.with_name(f"{target.name}.new"), target.with_name(f"{target.name}.db.new")
    try:
        snapshot = _copied(data / DATABASE, copy)
        with _private(draft) as file:
            manifest = _written(file, data, snapshot)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, target)  # unlike a rename, it overwrites nothing
        sync_folder(target.parent)
    except FileExistsError:
        raise BackupFailed(f"{target} exists already: a backup overwrites nothing") from None
    finally:
        draft.unlink(missing_ok=True)
        copy.unlink(missing_ok=True)
    return manifest


def sync_folder(folder: Path) -> None:
    """Make what was renamed and linked in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _private(path: Path) -> Iterator[IO[bytes]]:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        yield file


def _copied(database: Path, copy: Path) -> _Snapshot:
    with _private(copy):
        pass
    with contextlib.closing(sqlite3.connect(database)) as source, contextlib.closing(sqlite3.connect(copy)) as target:
        source.execute("PRAGMA busy_timeout = 5000")
        source.backup(target)
        target.execute("PRAGMA journal_mode = DELETE")  # one file, nothing beside it
        problem = target.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise BackupFailed(f"the database is damaged: {problem}")
        return _Snapshot(
            copy,
            int(target.execute("PRAGMA user_version").fetchone()[0]),
            int(target.execute("SELECT count(*) FROM runs").fetchone()[0]),
            evidence_in(target),
        )


def evidence_in(database: sqlite3.Connection) -> dict[str, str]:
    """What evidence a database names: file -> SHA-256."""
    rows = database.execute("SELECT DISTINCT run_id, sha256 FROM evidence ORDER BY run_id, sha256")
    return {evidence_name(run_id, sha256): sha256 for run_id, sha256 in rows}


def _written(file: IO[bytes], data: Path, snapshot: _Snapshot) -> Manifest:
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        sums = {DATABASE: _added(tar, DATABASE, snapshot.path)}
        for path in sorted(data.iterdir()):
            if path.is_file() and path.name != DATABASE and not TRANSIENT.fullmatch(path.name):
                if not PLAIN_NAME.fullmatch(path.name):
                    raise BackupFailed(f"{data} holds a file with an odd name: {path.name!r}")
                sums[path.name] = _added(tar, path.name, path)
        damaged = []
        for name, sha256 in snapshot.evidence.items():
            if not (data / name).is_file():
                damaged.append(name)
                continue
            sums[name] = _added(tar, name, data / name)
            if sums[name].sha256 != sha256:
                damaged.append(name)
        manifest = Manifest(
            made_at=now_text(),
            made_by=__version__,
            schema_version=snapshot.schema_version,
            runs=snapshot.runs,
            files=sums,
            damaged=damaged,
        )
        content = msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
        _add(tar, MANIFEST, io.BytesIO(content), len(content))
        own_sum = f"{hashlib.sha256(content).hexdigest()}  {MANIFEST}\n".encode()
        _add(tar, MANIFEST_SUM, io.BytesIO(own_sum), len(own_sum))
    return manifest


def _added(tar: tarfile.TarFile, name: str, path: Path) -> FileSum:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        hashing = _Hashing(file)
        _add(tar, name, hashing, size)
        return FileSum(sha256=hashing.digest.hexdigest(), size=size)


def _add(tar: tarfile.TarFile, name: str, content: IO[bytes] | io.RawIOBase, size: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    tar.addfile(member, content)
