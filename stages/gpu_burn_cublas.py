"""Extra load on one GPU: bf16 products by NVIDIA's own library, where the site has it. In the child process alone.

It is load, and no more: what it computes is not checked and its speed is a figure without a limit. What the GPU itself
says meanwhile (errors, throttling, heat) counts as during any load.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from typing import Any

from stages.cublas import Cublas
from stages.gpu_burn_device import Device
from stages.gpu_burn_products import BATCH_S, PRODUCTS, Load, Workspace, workspace

MOST_AT_ONCE = 256


def run(device: Device, libraries: Sequence[ctypes.CDLL], load: Load) -> dict[str, Any]:
    """Multiply for as long as the load says. Raises CudaError, CublasError."""
    load.alive()
    cublas = Cublas(libraries, device.stream)
    load.alive()
    with workspace(device, PRODUCTS["bf16"], load.size) as space:
        rounds, busy, seconds = _multiply(device, cublas, space, load)
        operations = 2.0 * space.n * space.n * space.k * rounds
    return {
        "test": "cublas",
        "rate": operations / busy / 1e12 if busy else 0.0,
        "unit": "TFLOP/s",
        "rounds": rounds,
        "words": 0,
        "wrong": 0,
        "seconds": seconds,
        "library": cublas.version(),
    }


def _multiply(device: Device, cublas: Cublas, space: Workspace, load: Load) -> tuple[int, float, float]:
    """How many products, in how many seconds of the GPU's, and of ours."""
    first, last = device.event(), device.event()
    cublas.multiply(space.a, space.b[0], space.c, space.n, space.k)  # loads the library's kernels: not counted
    device.sync()
    rounds, busy, batch, began = 0, 0.0, 1, time.monotonic()
    while rounds == 0 or time.monotonic() - began < load.seconds:
        started = time.monotonic()
        device.mark(first)
        for turn in range(batch):
            cublas.multiply(space.a, space.b[turn % 2], space.c, space.n, space.k)
        device.mark(last)
        device.sync()
        load.alive()
        busy += device.seconds(first, last)
        rounds += batch
        batch = _next(batch, time.monotonic() - started)
    return rounds, busy, time.monotonic() - began


def _next(batch: int, took: float) -> int:
    """So many that it takes BATCH_S: no call of the driver is waited for much longer."""
    return max(1, min(MOST_AT_ONCE, int(batch * BATCH_S / max(took, 1e-6)), 2 * batch))
