"""A pseudo-terminal: the agent's end of it as something to await, the other end for a shell. Starts no process."""

from __future__ import annotations

import asyncio
import os
import termios
from collections.abc import Callable

READ_BYTES = 16384


class Pty:
    """Open from the start; `close` it."""

    def __init__(self, columns: int, rows: int) -> None:
        self._master, self.slave = os.openpty()
        os.set_blocking(self._master, False)
        self.resize(columns, rows)
        self._open = True

    def resize(self, columns: int, rows: int) -> None:
        """Tell the programs there of a new size of the window: SIGWINCH."""
        termios.tcsetwinsize(self._master, (rows, columns))

    def let_go(self) -> None:
        """Close our copy of the shell's end: when the shell's is closed too, reading ends."""
        if self.slave >= 0:
            os.close(self.slave)
            self.slave = -1

    async def read(self) -> bytes:
        """What the programs have shown since, at most READ_BYTES; empty when the last of them is gone."""
        loop = asyncio.get_running_loop()
        await self._until(loop.add_reader, loop.remove_reader)
        pieces: list[bytes] = []
        size = 0
        try:
            while size < READ_BYTES and (piece := os.read(self._master, READ_BYTES - size)):
                pieces.append(piece)
                size += len(piece)
        except OSError:  # nothing more for now, or (EIO) nobody has it open: the next call tells
            pass
        return b"".join(pieces)

    async def write(self, data: bytes) -> None:
        """Type it, waiting while nobody there reads. Raises OSError when the programs are gone."""
        loop = asyncio.get_running_loop()
        rest = memoryview(data)
        while rest:
            await self._until(loop.add_writer, loop.remove_writer)
            try:
                rest = rest[os.write(self._master, rest) :]
            except BlockingIOError:
                await asyncio.sleep(0.01)  # "writable" for less than a whole line's room: do not spin

    def close(self) -> None:
        self.let_go()
        if self._open:
            self._open = False
            os.close(self._master)

    async def _until(self, watch: Callable[..., None], unwatch: Callable[[int], bool]) -> None:
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def tell() -> None:
            if not ready.done():
                ready.set_result(None)

        watch(self._master, tell)
        try:
            await ready
        finally:
            unwatch(self._master)
