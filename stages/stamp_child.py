"""Writes unique stamps over a disk and reads them back after the last write. Executed as a script.

The disk is a descriptor that it is lent; it opens nothing itself.

    python -I -S -B stamp_child.py prove FD SIZE SPAN NONCE      prints one JSON object, see `prove`
    python -I -S -B stamp_child.py fill FD SIZE SPAN PATTERN     writes PATTERN (8 bytes, hex) where the stamps are

A disk that is smaller than it says stores what is written beyond its end somewhere else, or nowhere. The stamps
find that whatever its true size: the first SPAN bytes are stamped without a gap, and from there to the end one
block in each SPAN bytes. The first stamp beyond a true end C lies less than SPAN beyond it; if it wraps round to the
start it therefore falls into the part without gaps, and overwrites a stamp there. If it is dropped, it is missing.
"""

import json
import mmap
import os
import sys
from collections.abc import Callable
from typing import Any

BLOCK = 4096
CHUNK = 1 << 20
UNIT = 32
SECTOR = 512
EXAMPLES = 64

Write = Callable[[int, bytes], None]
Read = Callable[[int, int], bytes]
Answer = dict[str, Any]


def main(argv: list[str]) -> int:
    mode, fd, size, span, word = argv[0], int(argv[1]), int(argv[2]), int(argv[3]), bytes.fromhex(argv[4])
    buffer = mmap.mmap(-1, CHUNK)  # page-aligned, as direct I/O demands

    def write(offset: int, data: bytes) -> None:
        buffer[: len(data)] = data
        if os.pwritev(fd, [memoryview(buffer)[: len(data)]], offset) != len(data):
            raise OSError(5, "short write")

    def read(offset: int, length: int) -> bytes:
        if os.preadv(fd, [memoryview(buffer)[:length]], offset) != length:
            raise OSError(5, "short read")
        return buffer[:length]

    if mode == "fill":
        answer = fill(write, size, span, word)
    else:
        answer = prove(write, lambda: os.fsync(fd), read, size, span, word)
    print(json.dumps(answer))  # noqa: T201
    return 0


def pieces(size: int, span: int) -> "list[tuple[int, int]]":
    """(offset, length) of all that is stamped, ascending: the part without gaps, a block in each span, the last."""
    end = size // BLOCK * BLOCK
    dense = min(span, end) // BLOCK * BLOCK
    found = [(offset, min(CHUNK, dense - offset)) for offset in range(0, dense, CHUNK)]
    found += [(offset, BLOCK) for offset in range(max(dense, BLOCK), end, span)]
    if found[-1][0] + found[-1][1] < end:
        found.append((end - BLOCK, BLOCK))
    return found


def stamps(nonce: bytes, offset: int, length: int) -> bytes:
    """What belongs at `offset`: every 32 bytes name this run and the offset of their 4 KiB block."""
    blocks = range(offset, offset + length, BLOCK)
    return b"".join(
        (nonce + at.to_bytes(8, "little") + (~at & 2**64 - 1).to_bytes(8, "little")) * (BLOCK // UNIT) for at in blocks
    )


def foreign_offset(nonce: bytes, offset: int, block: bytes) -> "int | None":
    """The offset that a stamp in this block says it was written to, when that is another one; else None."""
    for at in range(0, len(block), SECTOR):
        unit = block[at : at + UNIT]
        said = int.from_bytes(unit[16:24], "little")
        if unit[:16] == nonce and unit[24:] == (~said & 2**64 - 1).to_bytes(8, "little") and said != offset:
            return said
    return None


def fill(write: Write, size: int, span: int, word: bytes) -> Answer:
    """Write the pattern over all stamps: {"filled": bytes, "error": null or [errno, offset, "write"]}."""
    done, chunk, offset = 0, word * (CHUNK // len(word)), 0
    try:
        for offset, length in pieces(size, span):
            write(offset, chunk[:length])
            done += length
    except OSError as problem:
        return {"filled": done, "error": [problem.errno, offset, "write"]}
    return {"filled": done, "error": None}


def prove(write: Write, flush: Callable[[], None], read: Read, size: int, span: int, nonce: bytes) -> Answer:
    """Stamp all, then read all: {"written", "read": bytes, "wrong": blocks, "after_first_wrong": blocks from the first
    wrong one on, "examples": [[offset, foreign offset or null], …], "error": null or [errno, offset, direction]}."""
    answer: Answer = {"written": 0, "read": 0, "wrong": 0, "after_first_wrong": 0, "examples": [], "error": None}
    offset, direction = 0, "write"
    try:
        for offset, length in pieces(size, span):
            write(offset, stamps(nonce, offset, length))
            answer["written"] += length
        flush()
        direction = "read"
        for offset, length in pieces(size, span):
            _compare(read(offset, length), stamps(nonce, offset, length), offset, nonce, answer)
            answer["read"] += length
    except OSError as problem:
        answer["error"] = [problem.errno, offset, direction]
    return answer


def _compare(got: bytes, wanted: bytes, offset: int, nonce: bytes, answer: Answer) -> None:
    if got == wanted and not answer["wrong"]:
        return
    for at in range(0, len(wanted), BLOCK):
        block = got[at : at + BLOCK]
        wrong = block != wanted[at : at + BLOCK]
        answer["wrong"] += wrong
        answer["after_first_wrong"] += answer["wrong"] > 0
        if wrong and len(answer["examples"]) < EXAMPLES:
            answer["examples"].append([offset + at, foreign_offset(nonce, offset + at, block)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
