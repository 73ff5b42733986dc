"""Samples the power supplies while a load runs: for the PSU stage itself, and for CPUStress, whose samples it may use.

The samples lie as `psu-samples.json` in the evidence of the stage that took them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from probes import ipmi, psus
from probes.host import Host
from probes.ipmi import IpmiError, SelEntry
from probes.json_paths import parsed
from probes.psus import PsuReading
from probes.tools import ToolError, ToolMissing, ToolUnkillable
from stages.stage import StageContext

FILE_NAME = "psu-samples.json"
CACHE_NAME = "sdr-cache.bin"
INTERVAL_S = 10.0
MOST = 1e9
"""Watts and amps are less."""
RowT = TypeVar("RowT")
EVENTS_READ = 50


@dataclass(slots=True)
class PsuSamples:
    """What was read while a load ran: readings, failed attempts in words, and the event log as it stood before."""

    readings: list[PsuReading] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    events_before: list[SelEntry] | None = None
    """None: it could not be read (or there is no BMC)."""
    events_new: list[SelEntry] = field(default_factory=list)
    """What it gained since, as far as that was read."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @staticmethod
    def of_json(text: str) -> PsuSamples:
        """Raises ValueError on anything that `to_json` has not written."""
        try:
            raw = parsed(text)
            before = raw["events_before"]
            return PsuSamples(
                readings=[_typed(PsuReading.of_json(reading)) for reading in raw["readings"]],
                failures=[str(failure) for failure in raw["failures"]],
                events_before=None if before is None else [_typed_row(SelEntry(**entry)) for entry in before],
                events_new=[_typed_row(SelEntry(**entry)) for entry in raw.get("events_new", ())],
            )
        except (KeyError, TypeError, AttributeError) as problem:
            raise ValueError(f"not a file of power supply samples: {problem!r}") from problem


def _typed(reading: PsuReading) -> PsuReading:
    for row in (*reading.supplies, *reading.redundancy, *reading.places):
        _typed_row(row)
    return reading


def _typed_row(row: RowT) -> RowT:
    """Raises TypeError where a value is not of its field's type."""
    for name, kind in get_type_hints(type(row)).items():
        value = getattr(row, name)
        figure = kind == (float | None) and isinstance(value, int | float)
        if not isinstance(value, kind | int if figure else kind) or (figure and not abs(value) < MOST):
            raise TypeError(f"{name} is {value!r:.40}")
    return row


async def begin(host: Host) -> PsuSamples:
    """Samples to be filled, with the event log as it stands now."""
    samples = PsuSamples()
    if ipmi.present(host):
        try:
            samples.events_before = await ipmi.events(host, EVENTS_READ)
        except (ToolMissing, ToolUnkillable):
            raise
        except (IpmiError, ToolError) as problem:
            samples.failures.append(str(problem))
    return samples


async def take(context: StageContext, samples: PsuSamples) -> None:
    """Take one sample, write the file, and report the watts. Only a missing or unkillable ipmitool raises."""
    try:
        reading = await psus.sample(context.host, context.evidence / CACHE_NAME)
    except (ToolMissing, ToolUnkillable):
        raise
    except (IpmiError, ToolError) as problem:
        samples.failures.append(str(problem))
        return
    samples.readings.append(reading)
    for psu in reading.supplies:
        if psu.watts is not None:
            context.sample("power", f"psu:{psu.name}", psu.watts, "W")
    write(context, samples)


async def watch(context: StageContext, samples: PsuSamples, load: asyncio.Future[Any]) -> None:
    """Take samples until `load` is done; the one under way then is finished, so that there always is one."""
    while True:
        await take(context, samples)
        await asyncio.wait({load}, timeout=INTERVAL_S)
        if load.done():
            return


def write(context: StageContext, samples: PsuSamples) -> None:
    """Leave the samples in the evidence folder."""
    try:
        context.evidence.mkdir(parents=True, exist_ok=True)
        (context.evidence / FILE_NAME).write_text(samples.to_json() + "\n")
    except OSError as problem:
        context.warn(f"{FILE_NAME} could not be written: {problem}")


def joined(parts: Sequence[PsuSamples]) -> PsuSamples:
    """The samples of several stages as one, in their order; events count from before the first of them."""
    return PsuSamples(
        readings=[reading for part in parts for reading in part.readings],
        failures=[failure for part in parts for failure in part.failures],
        events_before=parts[0].events_before,
    )


def earlier(folder: Path | None) -> PsuSamples | None:
    """The samples that another stage left, or None."""
    if folder is None:
        return None
    try:
        return PsuSamples.of_json((folder / FILE_NAME).read_text())
    except (OSError, ValueError):
        return None
