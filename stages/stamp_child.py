"""Writes unique stamps over a disk and reads them back, at once and later. Executed as a script.

The disk is a descriptor that it is lent; it opens nothing itself. Each mode prints one JSON object:

    python -I -S -B stamp_child.py prove FD SIZE SPAN NONCE             stamp all, then read all: see `prove`
    python -I -S -B stamp_child.py check FD SIZE SPAN NONCE             read all again: see `check`
    python -I -S -B stamp_child.py fill FD SIZE SPAN PATTERN            write PATTERN (8 bytes, hex) over the stamps
    python -I -S -B stamp_child.py examine FD SIZE SPAN NONCE OFFSET…   what is wrong with these blocks: see `examine`

A disk that is smaller than it says stores what is written beyond its end somewhere else, or nowhere. The stamps
find that whatever its true size: the first SPAN bytes are stamped without a gap, and from there to the end one
block in each SPAN bytes. The first stamp beyond a true end C lies less than SPAN beyond it; if it wraps round to the
start it therefore falls into the part without gaps, and overwrites a stamp there. If it is dropped, it is missing.

A block that is wrong is written once more, so that its fault gets a name: two addresses that share one place, a write
that went elsewhere, one that was lost, a place that takes none, or data that was altered.
"""

import hashlib
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
EXAMINED = 8
FIO_PATTERN = 512

Write = Callable[[int, bytes], None]
Read = Callable[[int, int], bytes]
Flush = Callable[[], None]
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

    def flush() -> None:
        os.fsync(fd)

    if mode == "fill":
        answer = fill(write, flush, size, span, word)
    elif mode == "check":
        answer = check(read, size, span, word)
    elif mode == "examine":
        answer = examine(write, flush, read, word, [int(offset) for offset in argv[5:]])
    else:
        answer = prove(write, flush, read, size, span, word)
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


def fill(write: Write, flush: Flush, size: int, span: int, word: bytes) -> Answer:
    """Write the pattern over all stamps: {"filled": bytes, "error": null or [errno, offset, "write"]}."""
    done, chunk, offset = 0, word * (CHUNK // len(word)), 0
    try:
        for offset, length in pieces(size, span):
            write(offset, chunk[:length])
            done += length
        flush()
    except OSError as problem:
        return {"filled": done, "error": [problem.errno, offset, "write"]}
    return {"filled": done, "error": None}


def prove(write: Write, flush: Flush, read: Read, size: int, span: int, nonce: bytes) -> Answer:
    """Stamp all, then read all: {"written", "read": bytes, "wrong": blocks, "after_first_wrong": blocks from the first
    wrong one on, "examples": [[offset, foreign offset or null, kind, bits], …], "error": null or [errno, offset,
    direction]}. Kinds: see `_kind`."""
    answer = _nothing()
    offset = 0
    try:
        for offset, length in pieces(size, span):
            write(offset, stamps(nonce, offset, length))
            answer["written"] += length
        flush()
    except OSError as problem:
        answer["error"] = [problem.errno, offset, "write"]
        return answer
    if _read_all(read, size, span, nonce, answer):
        _name(write, flush, read, nonce, answer["examples"])
    return answer


def check(read: Read, size: int, span: int, nonce: bytes) -> Answer:
    """Read all stamps again, and write nothing: as `prove`, with the kind "changed"."""
    answer = _nothing()
    _read_all(read, size, span, nonce, answer)
    for example in answer["examples"]:
        example[2] = "changed"
    return answer


def examine(write: Write, flush: Flush, read: Read, nonce: bytes, offsets: "list[int]") -> Answer:
    """Name what is wrong with blocks that fio found to be so: {"examples": …} as `prove` has them.

    What fio wrote begins with `nonce` and ends each 512 bytes with the offset of its request.
    """
    examples: list[list[Any]] = []
    try:
        for offset in offsets[:EXAMINED]:
            held = read(offset, BLOCK)
            own = held[:16] == nonce
            said = int.from_bytes(held[FIO_PATTERN - 8 : FIO_PATTERN], "little") if own else offset
            # Its first page is right: what is wrong is further on in the request.
            kind = "altered" if own and said == offset else None
            examples.append([offset, None if said == offset else said, kind, None])
    except OSError:
        pass  # whoever asked knows already that the disk is at fault
    _name(write, flush, read, nonce, examples)
    return {"examples": examples}


def _nothing() -> Answer:
    return {"written": 0, "read": 0, "wrong": 0, "after_first_wrong": 0, "examples": [], "error": None}


def _read_all(read: Read, size: int, span: int, nonce: bytes, answer: Answer) -> bool:
    """Compare all stamps. False when a request failed."""
    offset = 0
    try:
        for offset, length in pieces(size, span):
            _compare(read(offset, length), stamps(nonce, offset, length), offset, nonce, answer)
            answer["read"] += length
    except OSError as problem:
        answer["error"] = [problem.errno, offset, "read"]
        return False
    return True


def _compare(got: bytes, wanted: bytes, offset: int, nonce: bytes, answer: Answer) -> None:
    if got == wanted and not answer["wrong"]:
        return
    for at in range(0, len(wanted), BLOCK):
        block, right = got[at : at + BLOCK], wanted[at : at + BLOCK]
        wrong = block != right
        answer["wrong"] += wrong
        answer["after_first_wrong"] += answer["wrong"] > 0
        if wrong and len(answer["examples"]) < EXAMPLES:
            said = foreign_offset(nonce, offset + at, block)
            answer["examples"].append([offset + at, said, None, _bits(block, right)])


def _bits(one: bytes, other: bytes) -> int:
    return (int.from_bytes(one, "little") ^ int.from_bytes(other, "little")).bit_count()


# --- what a wrong block has -------------------------------------------------------------------------------------------


def _name(write: Write, flush: Flush, read: Read, nonce: bytes, examples: "list[list[Any]]") -> None:
    """Give the first examples their kind. A request that fails leaves it null: the fault is found anyway."""
    for number, example in enumerate(examples[:EXAMINED]):
        trial = hashlib.sha256(nonce + number.to_bytes(2, "little")).digest()[:16]
        try:
            example[2] = example[2] or _kind(write, flush, read, nonce, trial, example)
        except OSError:
            return


def _kind(write: Write, flush: Flush, read: Read, nonce: bytes, trial: bytes, example: "list[Any]") -> str:
    """
    alias        what is written to the foreign offset appears here: two addresses share one place
    misdirected  it holds what belongs elsewhere, once
    stuck        a further write does not change it
    dropped      it takes a further write, and held nothing of what was written before: that write was lost
    altered      it takes a further write; what it held was not quite what was written
    """
    offset, said = example[0], example[1]
    held = read(offset, BLOCK)
    if said is not None:
        before = read(said, BLOCK)
        write(said, stamps(trial, said, BLOCK))
        flush()
        fresh = stamps(trial, said, BLOCK)
        shared = read(said, BLOCK) == fresh and foreign_offset(trial, offset, read(offset, BLOCK)) == said
        write(said, before)
        return "alias" if shared else "misdirected"
    wanted = stamps(trial, offset, BLOCK)
    write(offset, wanted)
    flush()
    now = read(offset, BLOCK)
    write(offset, held)
    flush()
    if now != wanted:
        return "stuck" if now == held else "altered"
    return "altered" if nonce in held else "dropped"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
