"""A backup made a data folder again: into an empty folder, each file held against its sum, whole or not at all.

A backup is a file from outside: nothing in it becomes a path but names of the one form that backups have.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sqlite3
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec

from orchestrator.backup import (
    CHUNK_BYTES,
    DATABASE,
    FORMAT,
    MANIFEST,
    MANIFEST_SUM,
    PLAIN_NAME,
    TRANSIENT,
    FileSum,
    Manifest,
    evidence_in,
    sync_folder,
)
from orchestrator.schema import MIGRATIONS

STAGING = ".restoring"
EVIDENCE_NAME = re.compile(r"evidence/[1-9][0-9]{0,18}/[0-9a-f]{64}\.tar\.gz")
CUT_OFF = "the backup is cut off or altered"


class RestoreFailed(Exception):
    """The backup can not be restored there; the text says why. Nothing of it is left behind."""


def restore(backup: Path, data: Path) -> Manifest:
    """Make `data` (missing or empty) the folder that was backed up. Raises RestoreFailed and OSError."""
    if data.exists() and (not data.is_dir() or any(data.iterdir())):
        raise RestoreFailed(f"{data} is not an empty folder: a restore overwrites nothing")
    new = not data.exists()
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    staging = data / STAGING
    try:
        staging.mkdir(mode=0o700)
        manifest = _checked(backup, staging)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        if new:
            data.rmdir()
        raise
    data.chmod(0o700)
    for path in sorted(staging.iterdir(), key=lambda one: one.name == DATABASE):  # with the database, it is a folder
        path.rename(data / path.name)
    staging.rmdir()
    sync_folder(data)
    return manifest


def _checked(backup: Path, staging: Path) -> Manifest:
    """Everything unpacked into `staging` and found to be as it was."""
    try:
        with backup.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            sums = dict(_unpacked(tar, staging))
    except (tarfile.TarError, EOFError, UnicodeDecodeError) as problem:
        raise RestoreFailed(f"{CUT_OFF}, or {backup} is none: {problem}") from None
    manifest = _manifest(staging, sums)
    for name in sorted(manifest.files.keys() | sums.keys()):
        if name not in sums:
            raise RestoreFailed(f"{CUT_OFF}: {name} is missing")
        if manifest.files.get(name) != sums[name]:
            raise RestoreFailed(f"{CUT_OFF}: {name} is not what it was")
    _check_database(staging, manifest)
    return manifest


def _unpacked(tar: tarfile.TarFile, staging: Path) -> Iterator[tuple[str, FileSum]]:
    seen = set()
    for member in tar:
        name = member.name
        if not member.isreg() or name in seen or not (_is_plain(name) or EVIDENCE_NAME.fullmatch(name)):
            raise RestoreFailed(f"{CUT_OFF}: a backup has no {name[:100]!r}")
        seen.add(name)
        source = tar.extractfile(member)
        assert source is not None  # a regular file
        for folder in reversed(Path(name).parents):
            (staging / folder).mkdir(mode=0o700, exist_ok=True)
        yield name, _taken(source, staging / name)


def _is_plain(name: str) -> bool:
    return bool(PLAIN_NAME.fullmatch(name)) and not TRANSIENT.fullmatch(name)


def _taken(source: IO[bytes], path: Path) -> FileSum:
    digest, size = hashlib.sha256(), 0
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        while chunk := source.read(CHUNK_BYTES):
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return FileSum(sha256=digest.hexdigest(), size=size)


def _manifest(staging: Path, sums: dict[str, FileSum]) -> Manifest:
    """The manifest, taken out of `staging` and `sums`."""
    own, wanted = sums.pop(MANIFEST, None), sums.pop(MANIFEST_SUM, None)
    if own is None or wanted is None:
        raise RestoreFailed(f"{CUT_OFF}: its manifest, which comes last, is missing")
    content, said = (staging / MANIFEST).read_bytes(), (staging / MANIFEST_SUM).read_bytes()
    for name in (MANIFEST, MANIFEST_SUM):
        (staging / name).unlink()
    if said != f"{own.sha256}  {MANIFEST}\n".encode():
        raise RestoreFailed(f"{CUT_OFF}: its manifest is not what it was")
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except msgspec.MsgspecError as problem:
        raise RestoreFailed(f"its manifest cannot be read: {problem}") from None
    if manifest.format > FORMAT or manifest.schema_version > len(MIGRATIONS):
        raise RestoreFailed(f"it was made by a newer program, version {manifest.made_by}")
    if DATABASE not in sums:
        raise RestoreFailed(f"{CUT_OFF}: {DATABASE} is missing")
    return manifest


def _check_database(staging: Path, manifest: Manifest) -> None:
    """Whether the database opens, is sound, and has all its evidence beside it."""
    uri = f"{(staging / DATABASE).absolute().as_uri()}?mode=ro&immutable=1"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as database:
            problem = database.execute("PRAGMA quick_check(1)").fetchone()[0]
            gone = [name for name in evidence_in(database) if name not in manifest.files]
    except sqlite3.Error as trouble:
        raise RestoreFailed(f"its database cannot be read: {trouble}") from None
    if problem != "ok":
        raise RestoreFailed(f"its database is damaged: {problem}")
    if strangers := [name for name in gone if name not in manifest.damaged]:
        raise RestoreFailed(f"{CUT_OFF}: {strangers[0]} is missing")
