"""The two ways into a running virtual machine: QEMU's monitor from outside, and a shell behind a serial port."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import time
from pathlib import Path
from typing import Any

CONNECT_LIMIT_S = 30.0
DOOR_LIMIT_S = 400.0
"""The door speaks once systemd has started it; machines under load take their time."""


class NoAnswer(Exception):
    """The machine, or QEMU, did not answer or refused; `str()` says what was asked."""


class _Lines:
    """One JSON or text line after the other over a unix socket."""

    def __init__(self, path: Path) -> None:
        self._socket = _connected(path)
        self._buffer = b""

    def send(self, line: str) -> None:
        self._socket.sendall(line.encode() + b"\n")

    def line(self, limit_s: float) -> str:
        """The next line. Raises NoAnswer."""
        deadline = time.monotonic() + limit_s
        while b"\n" not in self._buffer:
            self._socket.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                got = self._socket.recv(65536)
            except TimeoutError:
                raise NoAnswer(f"nothing within {limit_s:.0f} s") from None
            if not got:
                raise NoAnswer("the machine has ended")
            self._buffer += got
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode(errors="replace")

    def close(self) -> None:
        self._socket.close()


def _connected(path: Path) -> socket.socket:
    deadline = time.monotonic() + CONNECT_LIMIT_S
    while True:
        one = socket.socket(socket.AF_UNIX)
        try:
            one.connect(str(path))
        except OSError as problem:
            one.close()
            if time.monotonic() > deadline:
                raise NoAnswer(f"{path}: {problem}") from None
            time.sleep(0.1)
        else:
            return one


class Monitor:
    """QEMU's machine protocol."""

    def __init__(self, path: Path) -> None:
        self._lines = _Lines(path)
        self._lines.line(CONNECT_LIMIT_S)
        self.qmp("qmp_capabilities")

    def qmp(self, command: str, **arguments: Any) -> Any:
        """A command and its answer. Raises NoAnswer."""
        names = {name.replace("_", "-"): value for name, value in arguments.items()}
        self._lines.send(json.dumps({"execute": command, "arguments": names}))
        while True:
            answer = json.loads(self._lines.line(CONNECT_LIMIT_S))
            if "error" in answer:
                raise NoAnswer(f"{command} {names}: {answer['error'].get('desc')}")
            if "return" in answer:
                return answer["return"]

    def hmp(self, line: str) -> str:
        """A command of the monitor that people use, which tells of errors in words only."""
        return str(self.qmp("human-monitor-command", command_line=line))

    def set(self, device: str, name: str, value: Any) -> None:
        """A property of a device, by its id."""
        self.qmp("qom-set", path=f"/machine/peripheral/{device}", property=name, value=value)

    def close(self) -> None:
        self._lines.close()


class Door:
    """A shell in the guest: one script a line, one answer a line, each in base64."""

    def __init__(self, path: Path) -> None:
        self._lines = _Lines(path)
        self._ready = False

    def sh(self, script: str, *, limit_s: float = 120.0, check: bool = True) -> str:
        """What a shell script printed, its errors too. Raises NoAnswer, also for an exit code that is not 0."""
        self._wait()
        self._lines.send(base64.b64encode(script.encode()).decode())
        code, _, printed = self._lines.line(limit_s).strip().partition(" ")
        text = base64.b64decode(printed).decode(errors="replace")
        if check and code != "0":
            raise NoAnswer(f"exit code {code} of {script!r} in the guest: {text.strip()[-500:]}")
        return text

    def _wait(self) -> None:
        if self._ready:
            return
        with contextlib.suppress(ValueError):
            while self._lines.line(DOOR_LIMIT_S).strip() != "door":
                pass
        self._ready = True

    def close(self) -> None:
        self._lines.close()
