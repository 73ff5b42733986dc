"""A disk that lies, fails or dawdles on demand: nbdkit with `bad_disk_plugin`, started, steered and watched."""

# ruff: noqa: S603 - programs by name, with arguments of our own: what this file is for
from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image.lab.scene import Scene, WrongTurn
from image.vm.disks import Disk

PLUGIN = Path(__file__).with_name("bad_disk_plugin.py")
START_LIMIT_S = 20.0


@dataclass(frozen=True, slots=True)
class BadDisk:
    """Its file, and the folder where its socket, its faults and the list of its hits lie."""

    file: Path
    size: int
    folder: Path

    @property
    def socket(self) -> Path:
        return self.folder / "socket"

    def disk(self, kind: str, serial: str, options: str = "") -> Disk:
        """It as a disk of a machine."""
        server = {"type": "unix", "path": str(self.socket)}
        return Disk(kind, serial, block={"driver": "nbd", "server": server}, options=options)

    def breaks(self, **faults: Any) -> None:
        """These faults and no others from the next request on; see `bad_disk_plugin`."""
        new = self.folder / "faults.new"
        new.write_text(json.dumps(faults))
        new.rename(self.folder / "faults")

    def hits(self) -> Counter[str]:
        """How many requests met each fault so far."""
        hits = self.folder / "hits"
        lines = hits.read_text().splitlines() if hits.exists() else []
        return Counter(line.split()[0] for line in lines)

    def must_have_hit(self, *faults: str) -> None:
        """Raises WrongTurn where a fault was never met: then nothing was shown."""
        if missed := set(faults) - set(self.hits()):
            raise WrongTurn(f"the disk was never asked for what is broken: {', '.join(sorted(missed))}")


def bad_disk(scene: Scene, size: int, **faults: Any) -> BadDisk:
    """A blank one that lasts as long as the scene."""
    folder = Path(tempfile.mkdtemp(prefix="bad-disk.", dir=scene.folder))
    one = BadDisk(folder / "image", size, folder)
    with one.file.open("wb") as made:
        made.truncate(size)
    one.breaks(**faults)
    scene.enter(_served(one))
    return one


@contextlib.contextmanager
def _served(one: BadDisk) -> Iterator[None]:
    argv = ["nbdkit", "--foreground", "--unix", str(one.socket), "python", str(PLUGIN), f"file={one.file}"]
    argv += [f"size={one.size}", f"faults={one.folder / 'faults'}", f"hits={one.folder / 'hits'}"]
    with (one.folder / "nbdkit.err").open("wb") as errors:
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
    try:
        _await(one, child)
        yield
    finally:
        child.terminate()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _await(one: BadDisk, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while not one.socket.exists():
        if child.poll() is not None or time.monotonic() > deadline:
            said = (one.folder / "nbdkit.err").read_text(errors="replace").strip()[-500:]
            raise WrongTurn(f"nbdkit does not serve: {said}")
        time.sleep(0.05)
