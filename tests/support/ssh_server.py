"""A real sshd on loopback that takes the keys of one file."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

START_LIMIT_S = 60.0


@contextlib.contextmanager
def ssh_server(folder: Path, keys: Path, address: str, port: int, within: Sequence[str] = ()) -> Iterator[None]:
    """It answers while the block lasts. `keys`: everybody's authorized_keys. `within`: what it is started behind."""
    program = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin")
    assert program is not None, "make test installs sshd"
    Path("/run/sshd").mkdir(exist_ok=True)
    folder.mkdir()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "host"], check=True)
    config = folder / "config"
    config.write_text(
        f"Port {port}\nListenAddress {address}\nHostKey {folder}/host\nAuthorizedKeysFile {keys}\nStrictModes no\n"
        f"PermitRootLogin yes\nPasswordAuthentication no\nUsePAM no\nPidFile none\nUseDNS no\n"
    )
    log = folder / "log"
    server = subprocess.Popen([*within, program, "-D", "-f", config, "-E", log])
    try:
        deadline = time.monotonic() + START_LIMIT_S
        while not (log.exists() and "Server listening on" in log.read_text()):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield
    finally:
        server.terminate()
        server.wait()
