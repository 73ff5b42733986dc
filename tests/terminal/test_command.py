"""`vetting-orchestrator terminal`, at a pseudo-terminal of the test's, into a real held host."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.terminal.conftest import Hold
from tests.walk.rig import Orchestrator

pytestmark = [pytest.mark.slow, pytest.mark.root]
LIMIT_S = 60.0


class Desk:
    """The command with the far end of its terminal: what it shows, and what is typed."""

    def __init__(self, orchestrator: Orchestrator, run_id: int, size: tuple[int, int] = (30, 100)) -> None:
        self.screen, near = pty.openpty()
        self.near = near
        self.resize(*size)
        argv = [sys.executable, "-m", "orchestrator", "terminal", str(run_id), "--data", str(orchestrator.data)]
        self.process = subprocess.Popen(argv, stdin=near, stdout=near, stderr=near, start_new_session=True)
        self.shown = ""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.near, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.screen, text.encode())

    def see(self, pattern: str) -> re.Match[str]:
        """Until the screen has shown it, since it was last seen something."""
        deadline = time.monotonic() + LIMIT_S
        while (found := re.search(pattern, self.shown)) is None:
            assert time.monotonic() < deadline, f"{pattern!r} not in {self.shown!r}"
            if select.select([self.screen], [], [], 0.2)[0]:
                self.shown += os.read(self.screen, 65536).decode(errors="replace")
        self.shown = self.shown[found.end() :]
        return found

    def ended(self) -> int:
        return self.process.wait(LIMIT_S)


@contextmanager
def desk_at(orchestrator: Orchestrator, run_id: int) -> Iterator[Desk]:
    desk = Desk(orchestrator, run_id)
    try:
        yield desk
    finally:
        desk.process.kill()
        desk.process.wait()
        os.close(desk.near)
        os.close(desk.screen)


def test_a_shell_in_the_operators_own_terminal(hold: Hold) -> None:
    with desk_at(hold.orchestrator, hold.run_id) as desk:
        before = termios.tcgetattr(desk.near)
        for step in ("browser_socket", "open_sent", "node_stream", "pty"):
            desk.see(step)
        desk.type("stty size; echo a$((41+1))b\n")
        desk.see(r"30 100\r\n")
        desk.see("a42b")
        assert termios.tcgetattr(desk.near) != before, "every key goes to the host"
        desk.type("echo sl$((1))p; sleep 600\n")
        desk.see("sl1p")
        time.sleep(1)
        desk.type("\x03")  # ends what runs there, not the command here
        desk.see(r"\^C")
        desk.type("echo in$((0))t\n")
        desk.see("in0t")
        desk.resize(41, 133)
        os.kill(desk.process.pid, 28)  # SIGWINCH, as the terminal would send to its foreground group
        desk.type("while ! stty size | grep -q 133; do sleep 0.1; done; stty size\n")
        desk.see(r"41 133\r\n")
        desk.type("exit 7\n")
        desk.see("The terminal has ended: exit")
        assert desk.ended() == 7
        assert termios.tcgetattr(desk.near) == before


def test_leaving_ends_what_was_started(hold: Hold) -> None:
    with desk_at(hold.orchestrator, hold.run_id) as desk:
        desk.see("pty ")
        desk.type("echo me=$$=; exec sleep 4711\n")
        shell = int(desk.see(r"me=(\d+)=")[1])
        desk.type("\x1d")
        desk.see("Left: the shell and all it started are ended")
        assert desk.ended() == 0
    deadline = time.monotonic() + LIMIT_S
    while Path(f"/proc/{shell}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_run_that_is_not_held_has_no_terminal(orchestrator: Orchestrator) -> None:
    run_id = orchestrator.create_run(["Inventory"])["run_id"]
    with desk_at(orchestrator, run_id) as desk:
        desk.see("terminal_token_mint_failed")
        desk.see("Correlation id: [0-9a-f]{32}")
        assert desk.ended() == 1


def test_it_needs_a_terminal_of_its_own(hold: Hold) -> None:
    argv = [sys.executable, "-m", "orchestrator", "terminal", str(hold.run_id), "--data", str(hold.orchestrator.data)]
    ended = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, "needs a terminal of its own" in ended.stderr) == (2, True)
