"""What each part of each disk gave: `zones.json` in the newest Storage evidence of a run, for its report.

Its absence, or anything odd in it, costs the report a chart and nothing else.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import msgspec

FILE = "zones.json"
WEAK = 0.25
"""A zone slower than this part of the disk's median is drawn as weak: the stage's own measure."""


class Zone(msgspec.Struct, frozen=True, kw_only=True):
    """One part of a disk. Null: nothing of it was read."""

    offset: int
    length: int
    read_bytes: int | None = None
    mb_s: float | None = None
    mb_s_again: float | None = None
    """Read again, alone on its bus."""
    p50_ms: float | None = None
    p999_ms: float | None = None
    max_ms: float | None = None
    error: int | None = None

    @property
    def shown_mb_s(self) -> float | None:
        """The better of its two rates; None when nothing was read."""
        rates = [rate for rate in (self.mb_s, self.mb_s_again) if rate is not None]
        return max(rates) if rates and self.read_bytes else None


class DiskZones(msgspec.Struct, frozen=True, kw_only=True):
    """The zones of one disk, in their order."""

    component: str
    name: str
    size_bytes: int
    zones: list[Zone]


def read(evidence: Path) -> list[DiskZones]:
    """The disks of the newest Storage execution below `evidence`; empty when there is none that can be read."""
    try:
        files = sorted(evidence.glob(f"run-*/*-Storage/{FILE}"), key=lambda path: path.stat().st_mtime)
        return parse(files[-1].read_bytes()) if files else []
    except OSError:
        return []


def parse(text: bytes) -> list[DiskZones]:
    """The disks of one `zones.json`; a disk that makes no sense is left out."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return []
    found = []
    for component, disk in content.items() if isinstance(content, dict) else ():
        try:
            found.append(msgspec.convert({**disk, "component": component}, DiskZones))
        except (msgspec.ValidationError, TypeError):
            continue
    return [disk for disk in found if disk.size_bytes > 0 and disk.zones]


def weak_zones(disk: DiskZones) -> list[int]:
    """Numbers of the zones that are far slower than the disk's median, or failed, or gave nothing."""
    rates = [zone.shown_mb_s for zone in disk.zones]
    known = [rate for rate in rates if rate is not None]
    limit = WEAK * statistics.median(known) if known else 0.0
    return [
        number
        for number, (zone, rate) in enumerate(zip(disk.zones, rates, strict=True))
        if zone.error or rate is None or rate < limit
    ]
