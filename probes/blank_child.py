"""Reads parts of a disk and tells whether they all hold one repeated pattern. Executed as a script, never imported.

    python -I -S -B blank_child.py FD SIZE EDGE_BYTES BLOCKS

Reads the first and the last EDGE_BYTES and BLOCKS blocks of 4 KiB spread evenly between them, from a descriptor that
it was lent, and prints one JSON object: {"pattern": hex of 8 bytes or null, "edge_bytes", "blocks",
"differs_at": offset or null}. A process of its own, because a read of a sick disk can hang for minutes. It only reads.
"""

import json
import mmap
import os
import sys

CHUNK = 1 << 20
BLOCK = 4096
WORD = 8


class _Differs(Exception):
    """`args[0]` is the offset of the chunk that does not hold the pattern."""


def main(argv: list[str]) -> int:
    fd, size, edge, blocks = (int(word) for word in argv)
    seen = {"pattern": None, "edge_bytes": 0, "blocks": 0, "differs_at": None}
    buffer = mmap.mmap(-1, CHUNK)  # page-aligned, as direct I/O demands
    try:
        _look(fd, size, edge, blocks, buffer, seen)
    except _Differs as differs:
        seen["pattern"], seen["differs_at"] = None, differs.args[0]
    print(json.dumps(seen))  # noqa: T201
    return 0


def _look(fd, size, edge, blocks, buffer, seen) -> None:  # type: ignore[no-untyped-def]
    read_exactly(fd, buffer, BLOCK if size >= BLOCK else size, 0)
    word = bytes(buffer[:WORD])
    chunk = word * (CHUNK // WORD)
    seen["pattern"] = word.hex()
    tail = max(min(edge, size), (size - edge) // BLOCK * BLOCK)
    for start, end in ((0, min(edge, size)), (tail, size)):
        for offset in range(start, end, CHUNK):
            length = min(CHUNK, end - offset)
            _compare(fd, buffer, length, offset, chunk)
            seen["edge_bytes"] += length
    for offset in spread(size, edge, blocks):
        _compare(fd, buffer, BLOCK, offset, chunk)
        seen["blocks"] += 1


def spread(size: int, edge: int, blocks: int) -> "list[int]":
    """Offsets of `blocks` aligned blocks, spread evenly over what lies between the edges; fewer where it is short."""
    first, room = edge, size - 2 * edge
    count = min(blocks, room // BLOCK) if room > 0 else 0
    return [first + room * index // count // BLOCK * BLOCK for index in range(count)]


def _compare(fd, buffer, length, offset, chunk) -> None:  # type: ignore[no-untyped-def]
    read_exactly(fd, buffer, length, offset)
    if buffer[:length] != chunk[:length]:
        raise _Differs(offset)


def read_exactly(fd, buffer, length, offset) -> None:  # type: ignore[no-untyped-def]
    """Fill the buffer; a disk that gives less than asked for is an error, never a blank one."""
    got = os.preadv(fd, [memoryview(buffer)[:length]], offset)
    if got != length:
        raise OSError(f"only {got} of {length} bytes could be read at {offset}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
