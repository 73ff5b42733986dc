"""What goes on beside the load of CPUStress: progress, live clocks and load, free memory, power supplies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from probes import ipmi, load
from probes.tools import ToolError
from stages import psu_samples
from stages.stage import StageContext

BEAT_S = 2.0
MEMORY_BEAT_S = 0.25


@dataclass(slots=True)
class Watched:
    """What was seen. `least_available` is the least free memory, in bytes, since it was last set to None.
    `peak_khz` is the highest clock of each CPU."""

    least_available: int | None = None
    peak_khz: dict[int, int] = field(default_factory=dict)


@asynccontextmanager
async def watching(context: StageContext, planned_s: float) -> AsyncIterator[Watched]:
    """Watch the machine while the block runs."""
    watched = Watched()
    never = asyncio.get_running_loop().create_future()
    tasks = [
        asyncio.create_task(_report(context, planned_s, watched)),
        asyncio.create_task(_least_memory(context, watched)),
        asyncio.create_task(_supplies(context, never)),
    ]
    try:
        yield watched
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _report(context: StageContext, planned_s: float, watched: Watched) -> None:
    started = time.monotonic()
    before = load.cpu_times(context.host)
    while True:
        elapsed = time.monotonic() - started
        # It may take longer than planned; it is not done before its outcome is there.
        context.progress(min(0.99, elapsed / planned_s), max(1.0, planned_s - elapsed))
        await asyncio.sleep(BEAT_S)
        after = load.cpu_times(context.host)
        if shares := load.busy_share(before, after):
            context.sample("load", "cpu", round(100 * sum(shares.values()) / len(shares), 1), "%")
        for cpu, khz in load.clocks(context.host).items():
            watched.peak_khz[cpu] = max(khz, watched.peak_khz.get(cpu, 0))
        if (mhz := load.mean_mhz(context.host)) is not None:
            context.sample("clock", "cpu", round(mhz, 1), "MHz")
        before = after


async def _least_memory(context: StageContext, watched: Watched) -> None:
    while True:
        now = load.available_bytes(context.host)
        if now is not None:
            watched.least_available = now if watched.least_available is None else min(now, watched.least_available)
        await asyncio.sleep(MEMORY_BEAT_S)


async def _supplies(context: StageContext, never: asyncio.Future[None]) -> None:
    """Sampled here because only now they carry the full load; the PSU stage judges them."""
    if not ipmi.present(context.host):
        return
    try:
        samples = await psu_samples.begin(context.host)
        await psu_samples.watch(context, samples, never)
    except ToolError as problem:
        context.warn(f"the power supplies are not sampled during this stage: {problem}")
