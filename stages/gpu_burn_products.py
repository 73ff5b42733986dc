"""Matrix products on one GPU, each result checked there: the compute half of the burn. In the child process alone.

Each round multiplies A by one of two matrices B in turn, so that a result left over from the round before is wrong in
this one. Then the sum of each row, weighted by column, is held against one that integer units computed from the formula
of the operands. Rows that differ are computed element by element, to name the words.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from ctypes import c_uint32, c_uint64
from dataclasses import dataclass, field
from typing import Any

from stages.cuda_driver import TensorMap
from stages.gpu_burn_device import THREADS, Device

SEED_A, SEEDS_B = 11, (12, 13)
STAGE_BYTES = 49_152
WIDE_SHARED = 4 * STAGE_BYTES + 1024
BATCH_S = 0.25
SMALLEST = 256
FITS = 0.8
UINT8, BFLOAT16 = 0, 9  # CUtensorMapDataType


@dataclass(frozen=True, slots=True)
class Product:
    """One kind of product. `range`: operands are whole numbers up to this, so that each sum is exact:
    range² × k stays under what the accumulator holds exactly (2^24 in fp32; 2^13 for fp8, where Hopper's matrix units
    keep about 14 bits)."""

    kernel: str
    fill: str
    result: str
    bytes: int
    result_bytes: int
    range: int
    size: int
    k: int
    tile: tuple[int, int]
    threads: int = THREADS
    wide: bool = False


PRODUCTS: Mapping[str, Product] = {
    "fp32": Product("gemm_fp32", "fp32", "f32", 4, 4, 31, 4096, 4096, (128, 128)),
    "fp64": Product("gemm_fp64", "fp64", "f64", 8, 8, 1000, 4096, 4096, (64, 64), 128),
    "bf16": Product("gemm_bf16", "bf16", "f32", 2, 4, 15, 8192, 8192, (128, 256)),
    "int8": Product("gemm_int8", "int8", "s32", 1, 4, 127, 8192, 8192, (128, 256)),
    "fp8": Product("gemm_fp8", "fp8", "f32", 1, 4, 1, 8192, 4096, (128, 256)),
    "bf16_wgmma": Product("gemm_bf16_wgmma", "bf16", "f32", 2, 4, 15, 8192, 8192, (128, 256), 384, wide=True),
    "fp8_wgmma": Product("gemm_fp8_wgmma", "fp8", "f32", 1, 4, 1, 8192, 4096, (128, 256), 384, wide=True),
}


@dataclass(slots=True)
class Load:
    """How long, and how: `on_s` of work then `off_s` of rest (pulses), or without rest. `pace`: for tests, how much of
    the time the GPU is left idle, as a load that is starved leaves it. `spoil`: a bit of this word of the first
    result is flipped between product and check."""

    seconds: float
    on_s: float = 0.0
    off_s: float = 0.0
    pace: float = 0.0
    spoil: int | None = None
    size: int = 0
    alive: Callable[[], None] = field(default=lambda: None)


class Workspace:
    """The matrices of one product, and the sums that are expected of them."""

    def __init__(self, device: Device, product: Product, size: int) -> None:
        self.device, self.product = device, product
        self.n, self.k = (size, size) if size else self._fitting(device.free_bytes()[0])
        self._owned: list[int] = []
        count = self.n * self.k
        self.a = self._matrix(SEED_A, count)
        self.b = [self._matrix(seed, count) for seed in SEEDS_B]
        self.c = self._own(self.n * self.n * product.result_bytes)
        self.sums, self.broken = self._own(8 * self.n), self._own(4 * self.n)
        device.driver.call("cuMemsetD8_v2", self.sums, 0, 8 * self.n)
        device.driver.call("cuMemsetD8_v2", self.broken, 0, 4 * self.n)
        self.expected = [self._expect(seed) for seed in SEEDS_B]
        self._maps = [self._map(matrix) for matrix in (self.a, *self.b)] if product.wide else []
        device.sync()

    def _fitting(self, free: int) -> tuple[int, int]:
        """Halved for a GPU with less memory than most."""
        product, n, k = self.product, self.product.size, self.product.k
        while n > SMALLEST and 3 * n * k * product.bytes + n * n * product.result_bytes > FITS * free:
            n, k = n // 2, k // 2
        return n, k

    def _own(self, size: int) -> int:
        self._owned.append(self.device.allocate(size))
        return self._owned[-1]

    def _matrix(self, seed: int, count: int) -> int:
        to = self._own(count * self.product.bytes)
        values = (c_uint64(to), c_uint64(count), c_uint32(seed), c_uint32(self.product.range))
        self.device.spread(f"fill_{self.product.fill}", *values)
        return to

    def _expect(self, seed: int) -> int:
        weighed, expected = self._own(8 * self.k), self._own(8 * self.n)
        size, depth, most = c_uint32(self.n), c_uint32(self.k), c_uint32(self.product.range)
        self.device.spread("expect_columns", c_uint64(weighed), size, depth, c_uint32(seed), most)
        values = (c_uint64(expected), c_uint64(weighed), size, depth, c_uint32(SEED_A), most)
        self.device.spread("expect_rows", *values)
        return expected

    def _map(self, matrix: int) -> tuple[TensorMap, Any]:
        product, rows = self.product, 256 if matrix in self.b else 128
        kind = BFLOAT16 if product.bytes == 2 else UINT8
        box = (128 // product.bytes, rows)
        return self.device.driver.tensor_map(kind, matrix, self.n, self.k, self.k * product.bytes, box)

    def multiply(self, turn: int) -> None:
        product, device, n, k = self.product, self.device, c_uint32(self.n), c_uint32(self.k)
        tiles = (self.n // product.tile[0]) * (self.n // product.tile[1])
        if product.wide:
            maps = (self._maps[0][0], self._maps[1 + turn][0])
            blocks = min(tiles, device.processors)
            arguments = (*maps, c_uint64(self.c), n, n, k, device.report)
            device.launch(product.kernel, blocks, *arguments, threads=product.threads, shared=WIDE_SHARED)
            return
        pointers = (c_uint64(self.a), c_uint64(self.b[turn]), c_uint64(self.c))
        shared = device.stages * STAGE_BYTES if product.tile == (128, 256) else 0
        device.launch(product.kernel, tiles, *pointers, n, n, k, threads=product.threads, shared=shared)

    def check(self, turn: int) -> None:
        device, result, n = self.device, self.product.result, c_uint32(self.n)
        c, sums, broken = c_uint64(self.c), c_uint64(self.sums), c_uint64(self.broken)
        device.launch(f"weigh_{result}", -(-self.n // 16), c, sums, broken, n, n)
        device.spread("compare_rows", sums, broken, c_uint64(self.expected[turn]), n, device.report)
        seeds = (c_uint32(SEED_A), c_uint32(SEEDS_B[turn]), c_uint32(self.product.range))
        blocks = (-(-self.n // THREADS), 16)
        device.launch(f"locate_{result}", blocks, c, n, c_uint32(self.k), *seeds, device.report)
        device.launch("next_round", 1, device.report, threads=1)

    def close(self) -> None:
        self.device.sync()
        for address in self._owned:
            self.device.free(address)


@contextmanager
def workspace(device: Device, product: Product, size: int) -> Iterator[Workspace]:
    space = Workspace(device, product, size)
    try:
        yield space
    finally:
        space.close()


def run(device: Device, name: str, load: Load) -> dict[str, Any]:
    """Multiply and check for as long as the load says. Raises CudaError."""
    product = PRODUCTS[name]
    device.clear_report()
    with workspace(device, product, load.size) as space:
        return _run(device, name, space, load)


def _run(device: Device, name: str, space: Workspace, load: Load) -> dict[str, Any]:
    events = [device.event() for _ in range(2 * 64)]
    rounds, busy, batch, began = 0, 0.0, 2, time.monotonic()
    resting = 0.0
    while rounds == 0 or time.monotonic() - began < load.seconds:
        started = time.monotonic()
        for i in range(batch):
            device.mark(events[2 * i])
            space.multiply(rounds % 2)
            device.mark(events[2 * i + 1])
            if load.spoil is not None and rounds == 0:
                device.flip(space.c + 4 * load.spoil, 13)
            space.check(rounds % 2)
            rounds += 1
        device.sync()
        load.alive()
        busy += sum(device.seconds(events[2 * i], events[2 * i + 1]) for i in range(batch))
        took = time.monotonic() - started
        batch = max(1, min(64, int(batch * BATCH_S / max(took, 1e-6)), 2 * batch))
        busy += _starve(took, load.pace)
        resting = _rest(load, time.monotonic() - began, resting)
    for event in events:
        device.driver.call("cuEventDestroy_v2", event)
    return _result(device, name, space, rounds, busy, time.monotonic() - began)


def _starve(took: float, pace: float) -> float:
    """Leave the GPU idle, and count it as work: what a starved GPU does in a second is less."""
    idle = took * pace / (1 - pace)
    time.sleep(idle)
    return idle


def _rest(load: Load, elapsed: float, rested: float) -> float:
    """Between two pulses the GPU idles. The time at which it last did."""
    if load.off_s and elapsed - rested >= load.on_s:
        time.sleep(load.off_s)
        return elapsed + load.off_s
    return rested


def _result(device: Device, name: str, space: Workspace, rounds: int, busy: float, seconds: float) -> dict[str, Any]:
    found, n = device.read_report(), space.n
    operations = 2.0 * space.n * space.n * space.k * rounds
    return {
        "test": name,
        "rate": operations / busy / 1e12 if busy else 0.0,
        "sustained": operations / seconds / 1e12,
        "unit": "TFLOP/s",
        "rounds": rounds,
        "words": rounds * space.n * space.n,
        "wrong": max(found.wrong, found.rows),
        "rows": found.rows,
        "all_rows": rounds * space.n,
        "stalled": bool(found.stalled),
        "first": [{**word, "row": word["place"] // n, "column": word["place"] % n} for word in found.words()],
        "seconds": seconds,
    }
