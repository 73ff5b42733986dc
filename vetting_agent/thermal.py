"""The sidecar: samples of every sensor each few seconds, and the alarm when one stays over its critical limit.

Sampling runs in a thread (a sensor may ask firmware and hang) and never waits for sending. A sensor that can't be read
drops out of the batch. What stages measure while they run travels in the same batches.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from probes.host import Host
from probes.load import cpu_meter
from probes.sensors import SensorReading, read_all
from stages.outcome import ReasonCode, error
from vetting_agent.background import in_thread
from vetting_agent.client import Client
from vetting_agent.errors import Rejected
from vetting_agent.logs import LogBook, timestamp
from vetting_agent.status import Alarm, Directives
from vetting_agent.wire import Sample, SensorRequest

CRITICAL_SAMPLES = 3
SAMPLES_KEPT = 5000
BATCH_SAMPLES = 1000


@dataclass(slots=True)
class SampleBuffer:
    """Samples on their way out; the oldest go when nobody takes them."""

    waiting: deque[Sample] = field(default_factory=lambda: deque(maxlen=SAMPLES_KEPT))

    def add(self, kind: str, key: str, value: float, unit: str) -> None:
        """Take one. What is no finite number cannot be sent and is left out."""
        if math.isfinite(value):
            self.waiting.append(Sample(kind=kind, key=key, value=float(value), unit=unit, ts=timestamp()))

    def take(self) -> list[Sample]:
        """The oldest, as many as fit a call."""
        return [self.waiting.popleft() for _ in range(min(len(self.waiting), BATCH_SAMPLES))]


@dataclass(slots=True)
class CriticalWatch:
    """Counts, per sensor, how many samples running were over its believable critical limit."""

    running: Counter[str] = field(default_factory=Counter)

    def alarms(self, readings: list[SensorReading]) -> list[Alarm]:
        """One alarm per sensor that is over it now and was in the samples before."""
        over = {reading.key: reading for reading in readings if reading.over_crit}
        self.running = Counter({key: self.running[key] + 1 for key in over})
        return [_alarm(over[key]) for key, count in self.running.items() if count >= CRITICAL_SAMPLES]


def _alarm(reading: SensorReading) -> Alarm:
    text = (
        f"{reading.key} stayed at {reading.value:.0f} °C, over its critical limit of {reading.crit:.0f} °C: "
        "the stage was stopped to keep the hardware from harm"
    )
    evidence = f"{reading.key}={reading.value:.1f} degC, crit={reading.crit:.1f} degC"
    return Alarm(error(ReasonCode.THERMAL_CRITICAL, reading.component, text, evidence))


class Thermal:
    """Samples and sends."""

    def __init__(
        self,
        host: Host,
        client: Client,
        buffer: SampleBuffer,
        directives: Directives,
        book: LogBook,
        interval_s: float,
        cpu_load: Callable[[], float | None] | None = None,
    ) -> None:
        self._host = host
        self._client = client
        self._buffer = buffer
        self._directives = directives
        self._book = book
        self._interval_s = interval_s
        self._cpu_load = cpu_load or cpu_meter(host)
        self._watch = CriticalWatch()
        self._sampled = asyncio.Event()

    async def sample(self) -> None:
        """Forever: read the sensors, on the beat of the monotonic clock."""
        due = time.monotonic()
        while True:
            try:
                self._take(await in_thread(lambda: read_all(self._host)))
            finally:
                self._sampled.set()
            due = max(due + self._interval_s, time.monotonic())
            await asyncio.sleep(due - time.monotonic())

    async def send(self) -> None:
        """Forever: send what there is after each sample, and in any case each interval: a sensor that hangs must not
        hold up what stages measure. Raises FinalRefusal."""
        while True:
            self._sampled.clear()
            while samples := self._buffer.take():
                await self._send(samples)
            await _set_within(self._sampled, 1.5 * self._interval_s)

    def _take(self, readings: list[SensorReading]) -> None:
        for reading in readings:
            self._buffer.add(reading.kind.value, reading.key, reading.value, reading.unit)
        if (load := self._cpu_load()) is not None:
            self._buffer.add("load", "cpu", round(load, 1), "%")
        for alarm in self._watch.alarms(readings):
            self._directives.put(alarm)

    async def _send(self, samples: list[Sample]) -> None:
        request = SensorRequest(samples=samples)
        try:
            await self._client.insist("sensor", lambda: self._client.sensor(request))
        except Rejected as problem:
            self._book.warn(f"{len(samples)} sensor samples are dropped: {problem}")


async def _set_within(event: asyncio.Event, limit_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            await event.wait()
