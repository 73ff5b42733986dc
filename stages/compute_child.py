"""Computes what has a known answer, on each CPU alone or on all at once. Executed as a script, never imported.

    python -I -S -B compute_child.py alone|together SECONDS FREEZE_S CPUS

CPUS is a list like "0,1,2". A worker is forked for each CPU, pinned to it, and repeats the tasks below; each worker
makes its own input, so that every answer is one CPU's work. Printed is one JSON object a line, for each CPU:

    {"cpu": 1, "rounds": 7, "ended": "ok", "answers": {"integer": {"5f21…": 7}, "hash": {"90ab…": 6, "17cd…": 1}}}

`ended` is "ok", "signal 11", "frozen" (not done FREEZE_S after its time; killed) or what went wrong. It knows no right
answers: those are with the judge. `alone` gives each CPU its part of SECONDS, and at least one round; it stops after
2 x SECONDS + 10 s, and CPUs that have no line by then were not tested.
"""

import bz2
import hashlib
import json
import lzma
import math
import os
import select
import signal
import struct
import sys
import time
import zlib
from collections.abc import Callable

MASK = (1 << 64) - 1
SIZE = 32768
MOST_ANSWERS = 8
"""A CPU that is wrong in ever other ways must not fill the agent's memory."""


def integer(seed: int) -> bytes:
    """Adds, multiplies, divides, shifts and branches on 64-bit numbers."""
    x, total = 2 * seed + 1, 0
    for step in range(3000):
        x ^= x >> 12
        x = (x ^ (x << 25)) & MASK
        x ^= x >> 27
        total = (total + x * 0x2545F4914F6CDD1D) & MASK
        quotient, rest = divmod(total, (x & 0xFFFF) + 3)
        total ^= (quotient << 3) & MASK if rest & 1 else rest + step
    return struct.pack("<QQ", x, total)


def big_integer(seed: int) -> bytes:
    """Products of 8,192 bits, held against the same product modulo a prime, and a modular power."""
    a = int.from_bytes(hashlib.shake_128(b"a%d" % seed).digest(1024), "big")
    b = int.from_bytes(hashlib.shake_128(b"b%d" % seed).digest(1024), "big")
    prime = (1 << 521) - 1
    product = a * b
    _must(product % prime == (a % prime) * (b % prime) % prime, "a product")
    _must(product // a == b, "a quotient")
    power = pow(a % prime, 65537, prime)
    return product.to_bytes(2048, "big") + power.to_bytes(66, "big")


def floating(seed: int) -> bytes:
    """Double precision with +, -, x, / and square roots only: IEEE 754 leaves no choice in their results."""
    x, y, total = 0.4 + seed / 1024, 1.0, 0.0
    for _ in range(2500):
        x = 3.99 * x * (1.0 - x)
        y = math.sqrt(y * y + x) / (1.0 + x)
        total += (x - y) / (y + 0.125)
    return struct.pack("<ddd", x, y, total)


def functions(seed: int) -> bytes:
    """The C library's functions (vector units and fused multiply-add); right is what most CPUs of the machine say."""
    x, total = 0.1 + seed / 16, 0.0
    for _ in range(400):
        total += math.sin(x) * math.exp(-x / 50) + math.log1p(x) + math.atan2(x, total + 2.0) + math.cbrt(x)
        x += 0.37
    return struct.pack("<dd", x, total)


def moves(seed: int) -> bytes:
    """Copies, searches and compares at odd places: the C library does them in the widest vector registers it finds."""
    data = hashlib.shake_128(b"m%d" % seed).digest(SIZE)
    copy = bytearray(data)
    for offset in range(1, 130, 7):
        copy[offset:-offset] = data[2 * offset :]
        _must(copy[offset : offset + 8192] == data[2 * offset : 2 * offset + 8192], "a copy")
    places = [data.find(data[place : place + 6]) for place in range(3, SIZE - 64, 2053)]
    turned = data.translate(bytes(range(255, -1, -1))).translate(bytes(range(255, -1, -1)))
    _must(turned == data, "a translation")
    return bytes(copy) + repr(places).encode()


def hashes(seed: int) -> bytes:
    """SHA-1/2/3, BLAKE2 and CRC: the crypto and carry-less-multiply units, and vector code."""
    data = hashlib.shake_256(b"h%d" % seed).digest(SIZE)
    parts = [getattr(hashlib, name)(data).digest() for name in ("sha1", "sha256", "sha512", "sha3_256", "blake2b")]
    parts += [hashlib.blake2s(data).digest(), hashlib.pbkdf2_hmac("sha256", data[:32], b"salt", 200)]
    return b"".join(parts) + struct.pack("<II", zlib.crc32(data), zlib.adler32(data))


def compression(seed: int) -> bytes:
    """Round trips through zlib, bzip2 and xz."""
    data = _text(seed)
    _must(zlib.decompress(zlib.compress(data, 6)) == data, "zlib's round trip")
    _must(bz2.decompress(bz2.compress(data[:8192], 1)) == data[:8192], "bzip2's round trip")
    _must(lzma.decompress(lzma.compress(data[:4096], preset=0)) == data[:4096], "xz's round trip")
    return data


def packed(seed: int) -> bytes:
    """The compressed forms. They differ between versions of the libraries: right is what most CPUs say."""
    return zlib.compress(_text(seed), 6) + bz2.compress(_text(seed)[:8192], 1)


TASKS = (integer, big_integer, floating, functions, moves, hashes, compression, packed)


class Wrong(Exception):
    """A result that disproves itself."""


def _must(holds: bool, what: str) -> None:
    if not holds:
        raise Wrong(what)


def _text(seed: int) -> bytes:
    """Bytes that can be packed: few different ones, with repeats."""
    data = hashlib.shake_128(b"t%d" % seed).digest(SIZE // 4)
    return bytes(byte & 15 for byte in data) + data[: SIZE // 8] * 2


def main(argv: "list[str]") -> int:
    mode, seconds, freeze_s = argv[0], float(argv[1]), float(argv[2])
    cpus = [int(word) for word in argv[3].split(",")]
    if mode == "together":
        workers = {cpu: _start(cpu, seconds) for cpu in cpus}
        deadline = time.monotonic() + seconds + freeze_s
        for cpu, worker in workers.items():
            _report(cpu, worker, deadline)
        return 0
    started = time.monotonic()
    for cpu in cpus:
        if time.monotonic() - started > 2 * seconds + 10:
            break
        slice_s = seconds / len(cpus)
        _report(cpu, _start(cpu, slice_s), time.monotonic() + slice_s + freeze_s)
    return 0


def _start(cpu: int, seconds: float) -> "tuple[int, int]":
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read_fd)
            os.write(write_fd, json.dumps(_work(cpu, seconds)).encode())
        finally:
            os._exit(0)
    os.close(write_fd)
    return pid, read_fd


def _work(cpu: int, seconds: float) -> "dict[str, object]":
    try:
        os.sched_setaffinity(0, {cpu})
    except OSError as problem:
        return {"ended": f"not allowed on this CPU: {problem.strerror}"}
    if os.sched_getaffinity(0) != {cpu}:
        return {"ended": "could not be pinned to this CPU"}
    answers: dict[str, dict[str, int]] = {task.__name__: {} for task in TASKS}
    deadline = time.monotonic() + seconds
    rounds = 0
    while rounds == 0 or time.monotonic() < deadline:
        for task in TASKS:
            answer = _answer(task, rounds % 2)
            given = answers[task.__name__]
            if answer not in given and len(given) >= MOST_ANSWERS:
                answer = f"{rounds % 2}:others"
            given[answer] = given.get(answer, 0) + 1
        rounds += 1
    return {"ended": "ok", "rounds": rounds, "answers": answers}


def _answer(task: "Callable[[int], bytes]", seed: int) -> str:
    """Both inputs have answers of their own: a name for the input, and a digest."""
    try:
        return f"{seed}:{hashlib.sha256(task(seed)).hexdigest()[:16]}"
    except (MemoryError, OSError):
        raise  # the machine's doing, not the CPU's
    except Exception as problem:  # a CPU that computes wrong can make any of it fail
        return f"{seed}:{type(problem).__name__}: {str(problem)[:80]}"


def _report(cpu: int, worker: "tuple[int, int]", deadline: float) -> None:
    pid, read_fd = worker
    text, frozen = b"", False
    while True:
        ready, _, _ = select.select([read_fd], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            frozen = True
            os.kill(pid, signal.SIGKILL)
            break
        chunk = os.read(read_fd, 65536)
        if not chunk:
            break
        text += chunk
    os.close(read_fd)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    said: dict[str, object] = {"rounds": 0, "ended": "without an answer", "answers": {}}
    if frozen:
        said["ended"] = "frozen"
    elif status < 0:
        said["ended"] = f"signal {-status}"
    elif text:
        said.update(json.loads(text))
    print(json.dumps({"cpu": cpu, **said}), flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
