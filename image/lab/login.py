"""A real ssh client at the door of a machine, through the port that QEMU forwards to it."""

from __future__ import annotations

import socket
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path

from image.lab.scene import WrongTurn

LIMIT_S = 60
START_LIMIT_S = 180.0
OPTIONS = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes", "IdentitiesOnly=yes")


def free_port() -> int:
    """A port of this host that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Login:
    """`folder` takes the keys."""

    port: int
    folder: Path
    name: str = "hold-key"

    @property
    def key(self) -> Path:
        """The private key that is shown."""
        return self.folder / self.name

    def without_key(self) -> Login:
        """The same door, and a key that nobody knows."""
        other = replace(self, name="other-key")
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other.key)]
        subprocess.run(argv, check=True, capture_output=True)  # noqa: S603
        return other

    def must_work(self) -> None:
        """Once its server is up, which takes a while. Raises WrongTurn."""
        deadline = time.monotonic() + START_LIMIT_S
        while (done := self._try()).stdout.strip() != "0" and time.monotonic() < deadline:
            time.sleep(1)
        if done.stdout.strip() != "0":
            raise WrongTurn(f"no login during the hold: {done.stderr.strip()[-300:]}")

    def must_fail(self, when: str, *, answered: bool = False) -> None:
        """Nobody gets in. `answered`: a server is there, and says no. Raises WrongTurn."""
        done = self._try()
        if done.returncode != 255 or done.stdout.strip():
            raise WrongTurn(f"a login {when}: {done.stdout.strip()}")
        if answered and "Permission denied" not in done.stderr:
            raise WrongTurn(f"no refusal {when}: {done.stderr.strip()[-300:]}")

    def _try(self) -> subprocess.CompletedProcess[str]:
        argv = ["ssh", "-F", "none", "-i", str(self.key), "-p", str(self.port), f"-oConnectTimeout={LIMIT_S}"]
        argv += [f"-o{one}" for one in OPTIONS]
        argv += ["root@127.0.0.1", "id -u"]
        return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=3 * LIMIT_S)  # noqa: S603
