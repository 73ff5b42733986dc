"""Stand-ins for programs: scripts in a folder that goes first on PATH, each of which logs its calls.

What is tested is then the real way of finding, starting, reading and killing a tool; only the tool is ours.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

from probes.host import REAL_PROC
from probes.tools import Isolation, Tools

LOGGING_PYTHON = """#!{python}
import json, os, sys
with open({log!r}, "a") as log:
    log.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
"""


class StandIns:
    """A folder of stand-ins. `real` says whether the machine's own programs are found behind them."""

    def __init__(self, folder: Path, *, real: bool = True) -> None:
        self.folder = folder
        self.log = folder / "calls.log"
        self._real = real
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def path(self) -> str:
        """A PATH with the stand-ins first. `unshare` and `setpriv` stay findable: the isolation is always real."""
        if self._real:
            return f"{self.folder}:{os.environ['PATH']}"
        for name in ("unshare", "setpriv"):
            link = self.folder / name
            if not link.exists():
                link.symlink_to(f"/usr/bin/{name}")
        return str(self.folder)

    def python(self, name: str, body: str) -> Path:
        """A stand-in that runs `body` in Python, after it has logged its argv."""
        return self._write(name, LOGGING_PYTHON.format(python=sys.executable, log=str(self.log)) + body)

    def says(self, name: str, stdout: str = "", *, stderr: str = "", exit_code: int = 0) -> Path:
        """A stand-in that prints and exits."""
        body = f"sys.stdout.write({stdout!r}); sys.stderr.write({stderr!r}); sys.exit({exit_code})\n"
        return self.python(name, body)

    def calls(self, name: str | None = None) -> list[list[str]]:
        """The calls made so far, each as [name, *arguments]."""
        if not self.log.exists():
            return []
        calls = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [call for call in calls if name in {None, call[0]}]

    def tools(self, isolation: Isolation | None = None) -> Tools:
        """A runner that finds these stand-ins first."""
        path = self.path
        return Tools(path=path, proc=REAL_PROC, isolation=isolation or Isolation.best(os.environ["PATH"]))

    def _write(self, name: str, text: str) -> Path:
        script = self.folder / name
        script.write_text(text)
        script.chmod(script.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        return script
