"""The disks of a report: one figure a disk, throughput and latency over the place on it. Pure: zones in, markup out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from vetting_agent.printable import figure, printable
from vetting_agent.report_charts import HEIGHT, WIDTH, Axis, value_axis
from vetting_agent.zones import DiskZones, Zone, weak_zones

GB = 1e9


def zone_charts(disks: Sequence[DiskZones]) -> list[str]:
    """One figure a disk."""
    return [_figure(disk) for disk in disks]


def _figure(disk: DiskZones) -> str:
    label = f"{escape(printable(disk.component))} ({escape(printable(disk.name))})"
    weak = weak_zones(disk)
    said = f'<p class="axis weak-zones">weak: {_places(disk, weak)}</p>' if weak else ""
    return (
        f'<figure class="chart zones"><figcaption>{label} <span class="unit">by place on the disk</span></figcaption>'
        f"{_throughput(disk, weak)}{_latency(disk)}{said}</figure>"
    )


def _places(disk: DiskZones, weak: Sequence[int]) -> str:
    zones = [disk.zones[number] for number in weak[:8]]
    words = [f"{figure(zone.offset / GB)} – {figure((zone.offset + zone.length) / GB)} GB" for zone in zones]
    return ", ".join(words) + (" …" if len(weak) > len(zones) else "")


def _throughput(disk: DiskZones, weak: Sequence[int]) -> str:
    rates = [zone.shown_mb_s or 0.0 for zone in disk.zones]
    up = value_axis(0.0, max(rates), from_zero=True)
    bars = "".join(_bar(disk, number, rate, up, number in weak) for number, rate in enumerate(rates))
    return _plot("Throughput", "MB/s", disk, up, bars)


def _bar(disk: DiskZones, number: int, rate: float, up: Axis, is_weak: bool) -> str:
    zone = disk.zones[number]
    left, width = WIDTH * zone.offset / disk.size_bytes, WIDTH * zone.length / disk.size_bytes
    # A weak zone is a stump: it gets a ground over the full height, to be seen at all.
    ground = (
        f'<rect class="weak-ground" x="{left:.1f}" y="0" width="{width:.1f}" height="{HEIGHT:.0f}"/>' if is_weak else ""
    )
    top = HEIGHT * (1 - up.part(rate))
    kind = "bar weak" if is_weak else "bar"
    return (
        f'{ground}<rect class="{kind}" x="{left + 0.1 * width:.1f}" y="{top:.1f}" width="{0.8 * width:.1f}" '
        f'height="{HEIGHT - top:.1f}"/>'
    )


LINES: tuple[tuple[str, Callable[[Zone], float | None]], ...] = (
    ("half of the reads", lambda zone: zone.p50_ms),
    ("99.9 % of the reads", lambda zone: zone.p999_ms),
    ("the slowest read", lambda zone: zone.max_ms),
)


def _latency(disk: DiskZones) -> str:
    values = [value for _, of in LINES for zone in disk.zones if (value := of(zone)) is not None]
    if not values:
        return ""
    up = value_axis(0.0, max(values), from_zero=True)
    lines = "".join(_line(disk, of, number, up) for number, (_, of) in enumerate(LINES))
    rows = "".join(f'<li class="hue{number}"><i></i>{name}</li>' for number, (name, _) in enumerate(LINES))
    return f'{_plot("Latency", "ms", disk, up, lines)}<ul class="legend">{rows}</ul>'


def _line(disk: DiskZones, of: Callable[[Zone], float | None], hue: int, up: Axis) -> str:
    """A step over each zone; a zone without a figure leaves a gap."""
    drawn: list[str] = []
    part = ""
    for zone in disk.zones:
        value = of(zone)
        if value is None:
            drawn, part = [*drawn, part], ""
            continue
        y = HEIGHT * (1 - up.part(value))
        left, right = (WIDTH * at / disk.size_bytes for at in (zone.offset, zone.offset + zone.length))
        part += f"{left:.1f},{y:.1f} {right:.1f},{y:.1f} "
    return "".join(f'<polyline class="line hue{hue}" points="{one.strip()}"/>' for one in (*drawn, part) if one)


def _plot(name: str, unit: str, disk: DiskZones, up: Axis, drawn: str) -> str:
    across = value_axis(0.0, disk.size_bytes / GB, from_zero=True, steps=6)
    grid = "".join(
        f'<line class="grid" x1="0" x2="{WIDTH:.0f}" y1="{HEIGHT * (1 - up.part(tick)):.1f}" '
        f'y2="{HEIGHT * (1 - up.part(tick)):.1f}"/>'
        for tick in up.ticks
    )
    left = "".join(f'<span style="bottom:{100 * up.part(tick):.2f}%">{figure(tick)}</span>' for tick in up.ticks)
    ticks = [tick for tick in across.ticks if tick * GB <= disk.size_bytes]
    below = "".join(
        f'<span style="left:{100 * tick * GB / disk.size_bytes:.2f}%">{figure(tick)}</span>' for tick in ticks
    )
    return (
        f'<div class="plot short"><svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" preserveAspectRatio="none" role="img" '
        f'aria-label="{name} in {unit} over the place on the disk">{grid}{drawn}</svg>'
        f'<div class="y">{left}</div><div class="x">{below}</div></div>'
        f'<p class="axis">{name.lower()} in {unit} over the place on the disk in GB</p>'
    )
