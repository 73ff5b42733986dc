"""Puts lines into an authorized_keys file and takes them out again; everything else in the file stays byte for byte.

The file is replaced whole (a temporary file beside it, then a rename), never written in place. Symbolic links are not
followed, and a folder that somebody else owns is not written to. What was installed is noted in a state file *before*
it is installed, so that it is found again after the agent was killed at any moment.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from vetting_agent.errors import BadHoldKey
from vetting_agent.hold_key import HoldKey

FOLDER_MODE = 0o700
FILE_MODE = 0o600


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """What a hold has put into the file."""

    line: str
    fingerprint: str
    added_newline: bool
    """The file before had no newline at its end, and got one."""
    since_s: float = 0.0
    """Seconds from the host's start to the installation: no setting of the clock moves it."""


@dataclass(frozen=True, slots=True)
class KeyFile:
    """One authorized_keys file, and the state file that says what of it is ours."""

    path: Path
    state_dir: Path
    beside: str = ""
    """"" for the run's own key; of a key beside it what tells it from others."""

    @property
    def state_path(self) -> Path:
        return self.state_dir / f"{self._name}{'-' if self.beside else ''}{self.beside}.json"

    @property
    def _name(self) -> str:
        return f"hold-{hashlib.sha256(str(self.path.absolute()).encode()).hexdigest()[:16]}"

    def for_key(self, key: HoldKey) -> KeyFile:
        """The same file, for a key that is put in beside the run's."""
        return replace(self, beside=hashlib.sha256(key.fingerprint.encode()).hexdigest()[:16])

    def all_noted(self) -> list[KeyFile]:
        """This file for each key beside the run's that is noted as installed, and at last for the run's own."""
        names = sorted(path.stem.removeprefix(f"{self._name}-") for path in self.state_dir.glob(f"{self._name}-*.json"))
        return [*(replace(self, beside=name) for name in names), self]

    def installed(self) -> Installed | None:
        """What this or an earlier agent has installed and not removed."""
        try:
            return msgspec.json.decode(self.state_path.read_bytes(), type=Installed)
        except (OSError, msgspec.MsgspecError):
            return None

    def install(self, key: HoldKey, line: str, now_s: float) -> bool:
        """Put the line in; False when the same key was there before and is left as it is. `now_s`: since the start.

        Raises BadHoldKey when the place is not safe to write to, and OSError.
        """
        ours = self.installed()
        content = self._prepare()
        if ours is not None and ours.line == line and line.encode() in content.splitlines():
            self._write(content)  # sets owner and modes again
            return True
        if ours is not None:
            content = _without(content, ours)
        if _has_key(content, key):
            self._write(content)
            self.state_path.unlink(missing_ok=True)
            return False
        added_newline = bool(content) and not content.endswith(b"\n")
        since_s = ours.since_s if ours is not None else now_s
        note = Installed(line=line, fingerprint=key.fingerprint, since_s=since_s, added_newline=added_newline)
        _replace(self.state_path, msgspec.json.encode(note), None)
        self._write(content + (b"\n" if added_newline else b"") + line.encode() + b"\n")
        return True

    def remove(self) -> Installed | None:
        """Take our line out; what it was, or None when there was none. It stays noted until `forget`.

        Raises BadHoldKey and OSError.
        """
        ours = self.installed()
        if ours is None:
            return None
        content = self._read()
        if content is not None and ours.line.encode() in content.splitlines():
            self._write(_without(content, ours))
        return ours

    def forget(self) -> None:
        """Nothing of ours is left to clean up."""
        self.state_path.unlink(missing_ok=True)

    def _prepare(self) -> bytes:
        """Make the folder if need be, set its mode, and read the file."""
        folder = self.path.parent
        with suppress(FileExistsError):
            folder.mkdir(mode=FOLDER_MODE, parents=True)
        facts = folder.lstat()
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid():
            raise BadHoldKey(f"{folder} is a symbolic link, or belongs to somebody else")
        folder.chmod(FOLDER_MODE)
        return self._read() or b""

    def _read(self) -> bytes | None:
        try:
            facts = self.path.lstat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(facts.st_mode):
            raise BadHoldKey(f"{self.path} is no regular file")
        with os.fdopen(os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as handle:
            return handle.read()

    def _write(self, content: bytes) -> None:
        owner = self.path.stat() if self.path.exists() else None
        _replace(self.path, content, owner)


def _without(content: bytes, ours: Installed) -> bytes:
    """The file as it was before our line came."""
    lines = content.splitlines(keepends=True)
    was_last = bool(lines) and lines[-1].rstrip(b"\n") == ours.line.encode()
    rest = b"".join(line for line in lines if line.rstrip(b"\n") != ours.line.encode())
    return rest.removesuffix(b"\n") if ours.added_newline and was_last else rest


def _has_key(content: bytes, key: HoldKey) -> bool:
    """Whether a line of the file, with or without options, already carries this key."""
    for line in content.decode(errors="replace").splitlines():
        words = line.split()
        if not line.lstrip().startswith("#") and key.blob in words and key.kind in words:
            return True
    return False


def _replace(path: Path, content: bytes, owner: os.stat_result | None) -> None:
    """The file with this content, whole or not at all, 0600, on disk when this returns."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, FILE_MODE)
    try:
        with os.fdopen(fd, "wb") as handle:
            os.fchmod(fd, FILE_MODE)
            if owner is not None and (owner.st_uid, owner.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(fd, owner.st_uid, owner.st_gid)
            handle.write(content)
            handle.flush()
            os.fsync(fd)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
