"""A control group of version 1 that a row puts an agent into."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.scene import Scene

ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Cgroup:
    folder: Path

    @classmethod
    def made(cls, scene: Scene, kind: str, name: str, value: str) -> Cgroup:
        """One with a limit, which is gone with the scene."""
        group = cls(ROOT / kind / f"chaos-{os.getpid()}-{scene.row.name}")
        group.folder.mkdir()
        scene.at_the_end.append(group._remove)
        group.set(name, value)
        return group

    @property
    def within(self) -> list[str]:
        """What a program is started behind to be in it."""
        return ["sh", "-c", f'echo $$ > {self.folder}/cgroup.procs && exec "$@"', "sh"]

    def set(self, name: str, value: str) -> None:
        (self.folder / name).write_text(value)

    def _remove(self) -> None:
        for _ in range(100):
            try:
                self.folder.rmdir()
            except OSError:  # the last processes are still on their way out
                time.sleep(0.1)
            else:
                return
