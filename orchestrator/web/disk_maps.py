"""Each disk's zones, out of the newest Storage evidence of a run, as the strip that shows where a disk is slow.

Evidence comes from hosts that nobody trusts: it is read as a stream, up to a limit, and one file of it is looked at.
"""

from __future__ import annotations

import statistics
import tarfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vetting_agent.printable import figure
from vetting_agent.zones import FILE, DiskZones, Zone, parse, weak_zones

MOST_MEMBERS = 5000
MOST_BYTES = 256 * 2**20
MOST_FILE_BYTES = 4 * 2**20
MOST_DISKS, MOST_ZONES = 256, 2048
LIMITS = (1.5, 2.0, 4.0, 8.0, 16.0)
WIDTH = 1000.0
GB = 1e9


@dataclass(frozen=True, slots=True)
class Cell:
    """One zone of the strip: where it lies (of 1000), how warm it is (0 calm to 5, or `weak`), what is said of it."""

    x: float
    width: float
    heat: str
    words: str


@dataclass(frozen=True, slots=True)
class DiskMap:
    component: str
    cells: tuple[Cell, ...]
    worst_ms: float | None
    weak: int


def maps_in(archive: Path) -> dict[str, DiskMap]:
    """By component. Empty when the evidence is not there, holds no zones, or makes no sense."""
    try:
        disks = parse(_zones_text(archive) or b"")
        return {disk.component: map_of(disk) for disk in disks[:MOST_DISKS] if len(disk.zones) <= MOST_ZONES}
    except (OSError, tarfile.TarError, EOFError, zlib.error, ValueError, ArithmeticError):
        return {}


def _zones_text(archive: Path) -> bytes | None:
    read = 0
    with tarfile.open(archive, "r|gz") as tar:
        for number, member in enumerate(tar):
            read += max(member.size, 0)
            if number >= MOST_MEMBERS or read > MOST_BYTES:
                return None
            if member.isfile() and Path(member.name).name == FILE and member.size <= MOST_FILE_BYTES:
                file = tar.extractfile(member)
                return file.read(MOST_FILE_BYTES) if file is not None else None
    return None


def map_of(disk: DiskZones) -> DiskMap:
    """The strip of one disk: by the slowest read of each zone, and where there is none, by its throughput."""
    weak = set(weak_zones(disk))
    slowest = [zone.max_ms for zone in disk.zones]
    rates = [zone.shown_mb_s for zone in disk.zones]
    heats = (
        _heats(slowest)
        if any(one is not None for one in slowest)
        else _heats([1 / one if one else None for one in rates])
    )
    cells = tuple(
        Cell(
            x=round(WIDTH * zone.offset / disk.size_bytes, 2),
            width=round(max(WIDTH * zone.length / disk.size_bytes, 0.5), 2),
            heat="weak" if number in weak else str(heats[number]),
            words=_words(zone),
        )
        for number, zone in enumerate(disk.zones)
    )
    worst = max((one for one in slowest if one is not None), default=None)
    return DiskMap(disk.component, cells, worst, len(weak))


def _heats(values: Sequence[float | None]) -> list[int]:
    """0 up to 1.5 times the median, then one more for each doubling: what a disk's queue jitters by is no warmth."""
    known = [one for one in values if one]
    middle = statistics.median(known) if known else 0.0
    return [_heat(one / middle) if one and middle else 0 for one in values]


def _heat(times_median: float) -> int:
    return sum(times_median > limit for limit in LIMITS)


def _words(zone: Zone) -> str:
    place = f"{figure(zone.offset / GB)}–{figure((zone.offset + zone.length) / GB)} GB"
    return ", ".join([place, *_facts(zone)])


def _facts(zone: Zone) -> Iterable[str]:
    if zone.error:
        yield f"read error {zone.error}"
    if zone.shown_mb_s is not None:
        yield f"{figure(zone.shown_mb_s)} MB/s"
    if zone.p50_ms is not None:
        yield f"half in {figure(zone.p50_ms)} ms"
    if zone.max_ms is not None:
        yield f"slowest {figure(zone.max_ms)} ms"
