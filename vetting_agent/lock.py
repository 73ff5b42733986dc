"""One agent per run on a host, and the folder where an agent keeps what a restarted one needs.

The folder (0700) holds the lock, the token that a claim gave, and what a hold has installed. It lies on a file system
that a reboot empties.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from probes.host import Host
from vetting_agent.errors import AlreadyRunning, BadBootParameter
from vetting_agent.params import BootParams, Token


def default_state_dir(host: Host) -> Path:
    """/run/vetting-agent for root, else the user's runtime folder."""
    if os.geteuid() == 0:
        return host.run("vetting-agent")
    return host.run("user", str(os.geteuid()), "vetting-agent")


def prepare_state_dir(folder: Path) -> Path:
    """Make the folder, for this user alone. Raises BadBootParameter."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = folder.lstat()
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid():
            raise BadBootParameter(f"state folder {folder}: is no folder of this user")
        folder.chmod(0o700)
    except OSError as problem:
        raise BadBootParameter(f"state folder {folder}: {problem.strerror}") from None
    return folder


@contextmanager
def run_lock(folder: Path, params: BootParams) -> Iterator[None]:
    """Hold the run on this host while the block lasts. Raises AlreadyRunning."""
    path = folder / f"run-{params.run_id}-{_digest(params.orchestrator)}.lock"
    with path.open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.seek(0)
            owner = handle.read(20).strip() or "unknown"
            text = f"another agent (process {owner}) already works on run {params.run_id} on this host"
            raise AlreadyRunning(text) from None
        handle.truncate(0)
        handle.write(f"{os.getpid()}\n")
        handle.flush()
        yield


def run_file(folder: Path, params: BootParams, kind: str) -> Path:
    """A file for this run's agents. Its name depends on the boot token: another run of that number never finds it."""
    key = f"{params.orchestrator}\n{params.token.reveal()}"
    return folder / f"run-{params.run_id}-{_digest(key)}.{kind}"


class TokenStore:
    """The token that a claim gave in place of the boot token, for a restarted agent."""

    def __init__(self, folder: Path, params: BootParams) -> None:
        self._path = run_file(folder, params, "token")

    def load(self) -> Token | None:
        """The kept token, or None."""
        try:
            return Token(self._path.read_text().strip())
        except (OSError, ValueError):
            return None

    def save(self, token: Token) -> None:
        """Keep it, 0600. Raises OSError."""
        temporary = self._path.with_suffix(".new")
        temporary.unlink(missing_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as handle:
            handle.write(token.reveal() + "\n")
        temporary.replace(self._path)

    def forget(self) -> None:
        """The orchestrator takes it no longer."""
        self._path.unlink(missing_ok=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
