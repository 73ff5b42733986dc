"""What a terminal has shown, as asciicast v2 (https://docs.asciinema.org/manual/asciicast/v2/), written as it goes.

Output and sizes are recorded, keystrokes are not: what is typed is in it as far as the host shows it, so that a
password asked for without echo is not. Secrets that this side knows are masked. Beyond HEAD_BYTES only the newest
TAIL_BYTES are kept, and the gap is named.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import tarfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HEAD_BYTES = 4 * 2**20
TAIL_BYTES = 2**20
MASK = "[token]"
NOTICE = (
    "This terminal is recorded into the run's evidence: all that it shows, with times. Keystrokes are not recorded;"
    " what you type is in it as far as the host shows it."
)


class Recording:
    """One file. Nothing that goes wrong with it ends the terminal: `trouble` says what did."""

    def __init__(self, path: Path, columns: int, rows: int, title: str, secrets: Sequence[str]) -> None:
        self.path = path
        self.trouble: str | None = None
        self.lost_bytes = 0
        self._secrets = [secret for secret in secrets if secret]
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""
        self._size = 0
        self._tail: deque[str] = deque()
        self._tail_size = 0
        self._began = time.monotonic()
        header = {"version": 2, "width": columns, "height": rows, "timestamp": int(time.time()), "title": title}
        try:
            self._file: io.TextIOBase | None = os.fdopen(
                os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
            )
        except OSError as problem:
            self._file = None
            self.trouble = str(problem)
        self._write(json.dumps(header) + "\n")

    def output(self, data: bytes) -> None:
        """Something was shown."""
        text = self._pending + self._decoder.decode(data)
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        # The start of a secret may be the end of this piece: it waits for the next one.
        held = max((_overlap(text, secret) for secret in self._secrets), default=0)
        self._pending = text[len(text) - held :]
        self._event("o", text[: len(text) - held])

    def resized(self, columns: int, rows: int) -> None:
        self._event("r", f"{columns}x{rows}")

    def flush(self) -> None:
        """Give what there is to the operating system, so that a server that crashes has it."""
        if self._file is not None:
            try:
                self._file.flush()
            except OSError as problem:
                self._give_up(problem)

    def finish(self) -> None:
        """Write the rest and close."""
        self._event("o", self._pending + self._decoder.decode(b"", final=True))
        self._pending = ""
        if self._tail:
            self._write(self._line("m", f"{self.lost_bytes} bytes of the recording are not kept here"))
            for line in self._tail:
                self._write(line)
            self._tail.clear()
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _event(self, kind: str, text: str) -> None:
        if not text:
            return
        line = self._line(kind, text)
        size = len(line.encode())
        if self._size + size <= HEAD_BYTES and not self._tail:
            self._size += size
            self._write(line)
            return
        self._tail.append(line)
        self._tail_size += size
        while self._tail_size > TAIL_BYTES and len(self._tail) > 1:
            gone = len(self._tail.popleft().encode())
            self._tail_size -= gone
            self.lost_bytes += gone

    def _line(self, kind: str, text: str) -> str:
        return json.dumps([round(time.monotonic() - self._began, 6), kind, text]) + "\n"

    def _write(self, text: str) -> None:
        if self._file is not None:
            try:
                self._file.write(text)
            except OSError as problem:
                self._give_up(problem)

    def _give_up(self, problem: OSError) -> None:
        self.trouble = str(problem)
        self._file = None


def _overlap(text: str, secret: str) -> int:
    """How many characters at the end of `text` may be the beginning of `secret`."""
    lengths = range(min(len(text), len(secret) - 1), 0, -1)
    return next((length for length in lengths if text.endswith(secret[:length])), 0)


def archive_of(session: str, facts: dict[str, Any], recording: Path | None) -> bytes:
    """One terminal's evidence: a gzipped tar of its facts and, where there is one, its recording."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        _add(archive, f"terminal-{session}/terminal.json", json.dumps(facts, indent=1).encode() + b"\n")
        if recording is not None and recording.exists():
            _add(archive, f"terminal-{session}/terminal.cast", recording.read_bytes())
    return content.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(content), 0o600, int(time.time())
    archive.addfile(member, io.BytesIO(content))
