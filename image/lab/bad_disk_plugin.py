"""An nbdkit plugin: a disk over a file, with faults that are switched while it runs. `bad_disk` starts and steers it.

Parameters: `file=`, `size=` (bytes that it claims), `faults=` (a JSON file, read again whenever it changes), `hits=`
(a file that takes one line `fault offset length` for each request that met a fault). Places are [offset, length]:

    {"eio_read": [place…], "eio_write": [place…]}    such requests fail
    {"alter": [place…]}                              one bit of what is written there is turned over
    {"drop": [place…]}                               writes that touch them are acknowledged and forgotten
    {"delay": [[offset, length, ms]…]}               each request that touches the place takes so long
    {"stall": [[offset, length, ms]…]}               only the first one does
    {"real_size": N}                                 address N is address 0 once more

Requests come one at a time, so that delays add up as those of a slow disk do.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbdkit  # type: ignore[import-not-found]  # nbdkit itself brings it

API_VERSION = 2
_PARAMETERS: dict[str, str] = {}
_CONTROL: dict[str, Any] = {"stamp": None, "faults": {}, "stalled": set()}


def thread_model() -> int:
    return int(nbdkit.THREAD_MODEL_SERIALIZE_ALL_REQUESTS)


def config(key: str, value: str) -> None:
    _PARAMETERS[key] = value


def open(_readonly: bool) -> int:  # noqa: A001 - nbdkit's name and way
    return os.open(_PARAMETERS["file"], os.O_RDWR)


def close(handle: int) -> None:
    os.close(handle)


def get_size(_handle: int) -> int:
    return int(_PARAMETERS["size"])


def can_write(_handle: int) -> bool:
    return True


def can_flush(_handle: int) -> bool:
    return True


def pread(handle: int, buffer: Any, offset: int, _flags: int) -> None:
    length = len(buffer)
    _slow(offset, length)
    _fail("eio_read", offset, length)
    for at, there, count in _pieces(offset, length):
        buffer[at : at + count] = os.pread(handle, count, there)


def pwrite(handle: int, buffer: Any, offset: int, _flags: int) -> None:
    data = bytearray(buffer)
    _slow(offset, len(data))
    _fail("eio_write", offset, len(data))
    if _hits("drop", offset, len(data)):
        return
    for start, _length in _hits("alter", offset, len(data)):
        data[max(0, start - offset)] ^= 1
    for at, there, count in _pieces(offset, len(data)):
        os.pwrite(handle, data[at : at + count], there)


def flush(_handle: int, _flags: int) -> None:
    pass


def _faults() -> dict[str, Any]:
    """The faults as they are now. The file is replaced as a whole, never rewritten."""
    stamp = Path(_PARAMETERS["faults"]).stat()
    if _CONTROL["stamp"] != (stamp.st_ino, stamp.st_mtime_ns):
        fd = os.open(_PARAMETERS["faults"], os.O_RDONLY)
        _CONTROL["faults"] = json.loads(os.read(fd, 65536))
        os.close(fd)
        _CONTROL["stamp"] = (stamp.st_ino, stamp.st_mtime_ns)
    found: dict[str, Any] = _CONTROL["faults"]
    return found


def _hits(fault: str, offset: int, length: int) -> list[list[int]]:
    """The places of that fault that a request touches; each time is told."""
    met = [place for place in _faults().get(fault, []) if offset < place[0] + place[1] and place[0] < offset + length]
    if met:
        _tell(f"{fault} {offset} {length}")
    return met


def _fail(fault: str, offset: int, length: int) -> None:
    if _hits(fault, offset, length):
        nbdkit.set_error(errno.EIO)
        raise OSError(errno.EIO, fault)


def _slow(offset: int, length: int) -> None:
    for _start, _length, ms in _hits("delay", offset, length):
        time.sleep(ms / 1000)
    for start, _length, ms in _hits("stall", offset, length):
        if start not in _CONTROL["stalled"]:
            _CONTROL["stalled"].add(start)
            time.sleep(ms / 1000)


def _pieces(offset: int, length: int) -> Iterator[tuple[int, int, int]]:
    """(place in the request, place in the file, length), folded where the disk is smaller than it says."""
    real = _faults().get("real_size")
    if not real:
        yield 0, offset, length
        return
    done = 0
    while done < length:
        there = (offset + done) % real
        count = min(length - done, real - there)
        if offset + done >= real:
            _tell(f"real_size {offset + done} {count}")
        yield done, there, count
        done += count


def _tell(line: str) -> None:
    fd = os.open(_PARAMETERS["hits"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(fd, f"{line}\n".encode())
    os.close(fd)
