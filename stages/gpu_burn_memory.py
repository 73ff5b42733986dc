"""Memory and copies of one GPU, every word checked there: the other half of the burn. In the child process alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import c_uint32, c_uint64
from typing import Any

from stages.cuda_driver import PEER_ENABLED_ALREADY, CudaError
from stages.gpu_burn_device import Device

PIECE = 4 << 30
SMALLEST = 16 << 20
RESERVE = 192 << 20
"""Left free for the driver and the checks' own buffers, where so much is there."""
PATTERNS = (0, 2, 4)
HOST_BYTES = 256 << 20
COPY_BYTES = 2 << 30
OUT_OF_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY"


class Pieces:
    """Nearly all free memory, in pieces; the words of all are numbered through."""

    def __init__(self, device: Device, share: float) -> None:
        self.device = device
        self.free, self.total = device.free_bytes()
        self.pieces: list[tuple[int, int]] = []
        reserve = min(RESERVE, self.free // 32)
        self._take(min(int(self.free * share), self.free - reserve))

    def _take(self, wanted: int) -> None:
        size = PIECE
        while wanted >= 4096:
            size = min(size, wanted) & ~4095
            try:
                self.pieces.append((self.device.allocate(size), size))
                wanted -= size
            except CudaError as problem:
                if problem.name != OUT_OF_MEMORY or size <= min(SMALLEST, self.free // 64):
                    break
                size //= 2

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.pieces)

    def each(self) -> Iterator[tuple[c_uint64, c_uint64, c_uint64]]:
        """Address, words, number of the first word."""
        first = 0
        for address, size in self.pieces:
            yield c_uint64(address), c_uint64(size // 8), c_uint64(first)
            first += size // 8

    def address(self, place: int) -> int:
        """Where the word of that number lies in the GPU's address space."""
        for address, size in self.pieces:
            if place < size // 8:
                return address + 8 * place
            place -= size // 8
        return 0

    def close(self) -> None:
        for address, _ in self.pieces:
            self.device.free(address)


@contextmanager
def pieces(device: Device, share: float) -> Iterator[Pieces]:
    taken = Pieces(device, share)
    try:
        yield taken
    finally:
        taken.close()


def memory(
    device: Device, seconds: float, share: float, alive: Callable[[], None], spoil: int | None = None
) -> dict[str, Any]:
    """Every pattern at least once over all that can be had: written, read twice, inverted, read twice."""
    device.clear_report()
    began = time.monotonic()
    with pieces(device, share) as taken:
        rounds, passes = 0, 0
        while rounds == 0 or time.monotonic() - began < seconds:
            for pattern in PATTERNS:
                passes += _pattern(device, taken, pattern, rounds, alive, spoil if not passes else None)
            rounds += 1
        found = device.read_report()
        took = time.monotonic() - began
        return {
            "test": "memory",
            "rate": passes * taken.bytes / took / 1e9,
            "unit": "GB/s",
            "rounds": rounds,
            "bytes": taken.bytes,
            "free": taken.free,
            "total": taken.total,
            "words": taken.bytes // 8 * 5 * len(PATTERNS) * rounds,
            "wrong": found.wrong,
            "first": [{**word, "address": taken.address(word["place"])} for word in found.words()],
            "seconds": took,
        }


def _pattern(
    device: Device, taken: Pieces, pattern: int, salt: int, alive: Callable[[], None], spoil: int | None
) -> int:
    """One pattern and its inverse. How many times the memory was gone over."""
    steps = (
        ("memory_write", pattern),
        *(("memory_check", pattern),) * 2,
        ("memory_invert", pattern),
        *(("memory_check", pattern + 1),) * 2,
    )
    for number, (kernel, held) in enumerate(steps):
        for piece in taken.each():
            report = () if kernel == "memory_write" else (device.report,)
            device.spread(kernel, *piece, c_uint32(held), c_uint64(salt), *report)
        device.sync()
        alive()
        if number == 0 and spoil is not None:
            device.flip(taken.address(spoil), 5)
    return len(steps) + 1  # inverting reads and writes


def device_copy(device: Device, seconds: float, alive: Callable[[], None]) -> dict[str, Any]:
    """From one half of a buffer to the other. The rate counts what is read and what is written."""
    size = min(COPY_BYTES, device.free_bytes()[0] // 4) & ~4095
    device.clear_report()
    source, target = device.allocate(size), device.allocate(size)
    words = c_uint64(size // 8)
    pattern = (c_uint32(0), c_uint64(77))
    device.spread("memory_write", c_uint64(source), words, c_uint64(0), *pattern)
    device.driver.call("cuMemsetD8_v2", target, 0, size)

    def copy() -> None:
        device.spread("device_copy", c_uint64(target), c_uint64(source), words)

    rounds, busy, took = _timed(device, copy, seconds, alive)
    device.spread("memory_check", c_uint64(target), words, c_uint64(0), *pattern, device.report)
    found = device.read_report()
    device.free(source)
    device.free(target)
    return {
        "test": "copy",
        "rate": 2 * size * rounds / busy / 1e9,
        "unit": "GB/s",
        "words": size // 8,
        "wrong": found.wrong,
        "first": [{**word, "address": target + 8 * word["place"]} for word in found.words()],
        "rounds": rounds,
        "seconds": took,
    }


def host_copies(device: Device, seconds: float, alive: Callable[[], None]) -> Iterator[dict[str, Any]]:
    """From the GPU to pinned memory of the host, and back to another place, where it is compared."""
    size = min(HOST_BYTES, device.free_bytes()[0] // 4) & ~4095
    device.clear_report()
    driver, stream = device.driver, device.stream
    source, target = device.allocate(size), device.allocate(size)
    pinned = driver.handle("cuMemHostAlloc", size, 1)  # CU_MEMHOSTALLOC_PORTABLE
    words, pattern = c_uint64(size // 8), (c_uint32(0), c_uint64(78))
    device.spread("memory_write", c_uint64(source), words, c_uint64(0), *pattern)
    driver.call("cuMemsetD8_v2", target, 0, size)
    steps = (
        ("to_host", lambda: driver.call("cuMemcpyDtoHAsync_v2", pinned, source, size, stream)),
        ("from_host", lambda: driver.call("cuMemcpyHtoDAsync_v2", target, pinned, size, stream)),
    )
    timed = {name: _timed(device, step, seconds / 2, alive) for name, step in steps}
    device.spread("memory_check", c_uint64(target), words, c_uint64(0), *pattern, device.report)
    found = device.read_report()
    driver.call("cuMemFreeHost", pinned)
    device.free(source)
    device.free(target)
    for name, (rounds, busy, took) in timed.items():
        yield {
            "test": name,
            "rate": size * rounds / busy / 1e9,
            "unit": "GB/s",
            "words": size // 8,
            "wrong": found.wrong,
            "first": [{**word, "address": target + 8 * word["place"]} for word in found.words()],
            "rounds": rounds,
            "seconds": took,
        }


def _timed(
    device: Device, step: Callable[[], None], seconds: float, alive: Callable[[], None]
) -> tuple[int, float, float]:
    """Rounds, seconds by the GPU's clock, and by ours."""
    first, last = device.event(), device.event()
    step()  # the first one warms up
    device.sync()
    rounds, busy, batch, began = 0, 0.0, 1, time.monotonic()
    while rounds == 0 or time.monotonic() - began < seconds:
        device.mark(first)
        for _ in range(batch):
            step()
        device.mark(last)
        device.sync()
        alive()
        spent = device.seconds(first, last)
        rounds, busy = rounds + batch, busy + spent
        batch = max(1, min(1000, int(batch * 0.2 / max(spent, 1e-6)), 2 * batch))
    return rounds, max(busy, 1e-9), time.monotonic() - began


def peer_copy(source: Device, target: Device, seconds: float, alive: Callable[[], None]) -> dict[str, Any]:
    """From one GPU to another, and compared there. `direct`: without a detour through the host's memory."""
    driver = source.driver
    direct = driver.number("cuDeviceCanAccessPeer", source.number, target.number) == 1
    source.use()
    if direct:
        _enable_peer(source, target)
    size = min(HOST_BYTES, source.free_bytes()[0] // 4) & ~4095
    pattern = (c_uint32(0), c_uint64(79 + source.number))
    words = c_uint64(size // 8)
    start = source.allocate(size)
    source.spread("memory_write", c_uint64(start), words, c_uint64(0), *pattern)
    source.sync()
    target.use()
    target.clear_report()
    end = target.allocate(size)
    driver.call("cuMemsetD8_v2", end, 0, size)
    target.sync()
    source.use()

    def copy() -> None:
        driver.call("cuMemcpyPeerAsync", end, target.context, start, source.context, size, source.stream)

    rounds, busy, took = _timed(source, copy, seconds, alive)
    source.free(start)
    target.use()
    target.spread("memory_check", c_uint64(end), words, c_uint64(0), *pattern, target.report)
    found = target.read_report()
    target.free(end)
    return {
        "test": "peer",
        "from": source.pci,
        "to": target.pci,
        "direct": direct,
        "rate": size * rounds / busy / 1e9,
        "unit": "GB/s",
        "words": size // 8,
        "wrong": found.wrong,
        "first": found.words(),
        "rounds": rounds,
        "seconds": took,
    }


def _enable_peer(source: Device, target: Device) -> None:
    try:
        source.driver.call("cuCtxEnablePeerAccess", target.context, 0)
    except CudaError as problem:
        if problem.name != PEER_ENABLED_ALREADY:
            raise


def peers(devices: Sequence[Device], seconds: float, alive: Callable[[], None]) -> Iterator[dict[str, Any]]:
    """Each pair, both ways."""
    for source in devices:
        for target in devices:
            if source is not target:
                yield peer_copy(source, target, seconds, alive)
