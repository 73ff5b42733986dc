"""A TPM 2.0 for a machine: swtpm, which must be installed."""

# ruff: noqa: S603 - programs by name, with arguments of our own: what this file is for
from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from image.vm.services import NoService

START_LIMIT_S = 20.0


@contextlib.contextmanager
def tpm(folder: Path) -> Iterator[tuple[str, ...]]:
    """It runs while the block lasts; what QEMU is told of it. Raises NoService."""
    state = folder / "tpm"
    state.mkdir()
    door = folder / "tpm.sock"
    argv = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--ctrl", f"type=unixio,path={door}"]
    with (folder / "tpm.err").open("wb") as errors:
        try:
            child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
        except FileNotFoundError:
            raise NoService("swtpm is not installed") from None
    try:
        _wait_for(door, child)
        chardev = ["-chardev", f"socket,id=tpmc,path={door}", "-tpmdev", "emulator,id=tpm0,chardev=tpmc"]
        yield (*chardev, "-device", "tpm-tis,tpmdev=tpm0")
    finally:
        child.terminate()
        child.wait()


def _wait_for(door: Path, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while not door.exists():
        if child.poll() is not None or time.monotonic() > deadline:
            raise NoService("swtpm did not start")
        time.sleep(0.1)
